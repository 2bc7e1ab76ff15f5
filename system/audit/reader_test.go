package audit

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// reader is a client of tail and what tail ended with.
type reader struct {
	conn *ipc.Conn
	done chan error
}

// startReader starts a reader of l.
func startReader(ctx context.Context, t tester, l *Log, after uint64, follow bool) *reader {
	t.Helper()
	conn, f, err := ipc.Pair()
	check(t, err)
	check(t, conn.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
	end, err := ipc.FileConn(f)
	check(t, err)
	r := &reader{conn: conn, done: make(chan error, 1)}
	go func() { r.done <- l.tail(ctx, end, after, follow) }()
	t.Cleanup(func() { _ = conn.Close() })
	return r
}

// want reads and checks that exactly these records come next.
func (r *reader) want(t tester, records []*controlv1.AuditRecord) {
	t.Helper()
	for _, want := range records {
		var m solov1.TailResponse
		if _, _, err := r.conn.Receive(&m); err != nil {
			t.Fatalf("instead of record %d: %v", want.GetNumber(), err)
		}
		if m.GetRecord() != string(want.GetLine()) {
			t.Fatalf("instead of record %d: %s", want.GetNumber(), m.GetRecord())
		}
	}
}

// end checks that nothing more comes and that tail ended well.
func (r *reader) end(t tester) {
	t.Helper()
	if _, _, err := r.conn.Receive(&solov1.TailResponse{}); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
	if err := <-r.done; err != nil {
		t.Errorf("tail: %v", err)
	}
}

func TestTail(t *testing.T) {
	records := kernelRecords(t, some(60)...)
	dir := t.TempDir()
	l := openLog(t, dir)
	defer func() { check(t, l.Close()) }()
	r := startReader(t.Context(), t, l, 0, false)
	r.end(t)
	for i := 0; i < len(records); i += 3 {
		_, err := l.Append(records[i : i+3])
		check(t, err)
	}
	for after := range uint64(len(records)) + 3 {
		r := startReader(t.Context(), t, l, after, false)
		r.want(t, records[min(after, uint64(len(records))):])
		r.end(t)
	}
	r = startReader(t.Context(), t, l, 1<<64-1, false)
	r.end(t)
}

// TestFollow has readers that start anywhere while records are appended: each gets
// every record after its number once and in order.
func TestFollow(t *testing.T) {
	records := kernelRecords(t, some(150)...)
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "log")
		check(t, err)
		l, err := OpenLog(dir, int64(rapid.IntRange(1, 10000).Draw(rt, "file size")))
		check(t, err)
		defer func() { check(t, l.Close()) }()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		sizes := rapid.SliceOfN(rapid.IntRange(1, 20), 1, 10).Draw(rt, "batches")
		afters := rapid.SliceOfN(rapid.IntRange(0, len(records)), 1, 3).Draw(rt, "after")
		appended := make(chan int, 1)
		go func() {
			n := 0
			for _, size := range sizes {
				to := min(len(records), n+size)
				if _, err := l.Append(records[n:to]); err != nil {
					break
				}
				n = to
			}
			appended <- n
		}()
		var readers []*reader
		for _, after := range afters {
			readers = append(readers, startReader(ctx, rt, l, uint64(after), true))
		}
		n := <-appended
		if l.State() != chainOf(records[:n]) {
			rt.Fatalf("appended %d, the log stands at %d", n, l.State().Count)
		}
		for i, r := range readers {
			r.want(rt, records[min(n, afters[i]):n])
		}
		cancel()
		for _, r := range readers {
			r.end(rt)
		}
	})
}

// TestSlowReader does not read: appending goes on, another reader is served, and the
// slow one gets everything once it reads.
func TestSlowReader(t *testing.T) {
	records := kernelRecords(t, some(600)...)
	l, err := OpenLog(t.TempDir(), 100_000)
	check(t, err)
	defer func() { check(t, l.Close()) }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	slow := startReader(ctx, t, l, 0, true)
	stuck := startReader(ctx, t, l, 0, true)
	for i := 0; i < len(records); i += 100 {
		_, err := l.Append(records[i : i+100])
		check(t, err)
	}
	fast := startReader(ctx, t, l, 0, false)
	fast.want(t, records)
	fast.end(t)
	slow.want(t, records)
	// The other one never reads; the end of the service ends it all the same.
	cancel()
	if err := <-stuck.done; err != nil {
		t.Errorf("tail to a reader that does not read: %v", err)
	}
	slow.end(t)
}

func TestReaderLeaves(t *testing.T) {
	records := kernelRecords(t, some(600)...)
	l, err := OpenLog(t.TempDir(), 0)
	check(t, err)
	defer func() { check(t, l.Close()) }()
	for i := 0; i < len(records); i += 100 {
		_, err := l.Append(records[i : i+100])
		check(t, err)
	}
	for _, leave := range []struct {
		name string
		do   func(r *reader)
	}{
		{"at once", func(r *reader) { check(t, r.conn.Close()) }},
		{"in the middle", func(r *reader) { r.want(t, records[:10]); check(t, r.conn.Close()) }},
		{"after the last", func(r *reader) { r.want(t, records); check(t, r.conn.Close()) }},
		{"by speaking", func(r *reader) { check(t, r.conn.Send(&solov1.TailRequest{After: 1})) }},
	} {
		for range 10 {
			r := startReader(t.Context(), t, l, 0, true)
			leave.do(r)
			if err := <-r.done; err != nil {
				t.Fatalf("%s: %v", leave.name, err)
			}
			_ = r.conn.Close()
		}
	}
}

// TestTailOfChangedLog changes stored records under a log that is open: the reader is
// ended with an error, and gets nothing that is not in its place.
func TestTailOfChangedLog(t *testing.T) {
	records := kernelRecords(t, some(40)...)
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		good   int
	}{
		{"emptied", func([]byte) []byte { return nil }, 0},
		{"cut", func(b []byte) []byte { return b[:len(records[0].GetLine())+10] }, 1},
		{"line removed", func(b []byte) []byte { return b[len(records[0].GetLine())+1:] }, 0},
		{"no record", func(b []byte) []byte { return append([]byte("x\n"), b...) }, 0},
	} {
		dir := t.TempDir()
		l := openLog(t, dir)
		_, err := l.Append(records)
		check(t, err)
		rewrite(t, dir, 1, c.change)
		r := startReader(t.Context(), t, l, 0, false)
		r.want(t, records[:c.good])
		if err := <-r.done; err == nil {
			t.Errorf("%s: tail ended well", c.name)
		}
		check(t, l.Close())
	}
}
