package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

var droppedBytes = regexp.MustCompile(`^dropped (\d+) bytes over log_rate$`)

// tally adds up what a log kept and what its remarks say was dropped.
func tally(t *testing.T, all []*solov1.WatchResponse) (kept, dropped int) {
	t.Helper()
	for _, m := range all {
		l := m.GetLog()
		if l.GetStream() != "solo" {
			kept += len(l.GetText()) + 1
			continue
		}
		f := droppedBytes.FindStringSubmatch(string(l.GetText()))
		if f == nil {
			t.Fatalf("remark %q", l.GetText())
		}
		n, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		dropped += n
	}
	return kept, dropped
}

// TestRate: of a flood the burst is kept and the rest counted, exactly, in the log
// while the source goes on; another source of the service loses nothing.
func TestRate(t *testing.T) {
	k := boot(t, t.TempDir())
	const rate, total = 1 << 10, 1 << 20
	loud := k.pipe(&controlv1.LogSource{Service: "a", Instance: "i", Stream: "stdout", Rate: rate, Tier: "user"})
	quiet := k.pipe(&controlv1.LogSource{Service: "a", Instance: "i", Stream: "stderr", Rate: rate, Tier: "user"})
	line := strings.Repeat("x", 1023) + "\n"
	write(t, loud, strings.Repeat(line, total/len(line)))
	write(t, quiet, "quiet\n")
	var kept, dropped int
	testenv.Eventually(t, limit, "a remark on what was dropped", func() bool {
		all := k.stored("a", "log")
		quietly := slices.DeleteFunc(slices.Clone(all), func(m *solov1.WatchResponse) bool { return m.GetLog().GetStream() != "stderr" })
		all = slices.DeleteFunc(all, func(m *solov1.WatchResponse) bool { return m.GetLog().GetStream() == "stderr" })
		kept, dropped = tally(t, all)
		return kept+dropped == total && len(quietly) == 1
	})
	if kept < minBurst || kept > total/2 {
		t.Errorf("%d bytes were kept, the burst is %d", kept, minBurst)
	}
	if got := k.scrape("solo_log_bytes_dropped_total"); !slices.Equal(got, []string{fmt.Sprintf(`solo_log_bytes_dropped_total{service="a"} %d`, dropped)}) {
		t.Errorf("dropped %d, metrics say %q", dropped, got)
	}
}

// TestNothingLostUnderTheRate: a writer that keeps to its rate, in bursts that the
// bucket holds, loses nothing however often the pipe is full.
func TestNothingLostUnderTheRate(t *testing.T) {
	k := boot(t, t.TempDir())
	w := k.pipe(&controlv1.LogSource{Service: "a", Instance: "i", Stream: "stdout", Rate: 4 << 20, Tier: "user"})
	s := k.watch(&solov1.WatchRequest{Service: "a", Since: "start"}, "")
	const lines = 4 << 20 / 512
	go func() {
		for i := range lines {
			if _, err := fmt.Fprintf(w, "%0511d\n", i); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range lines {
		if m := s.next(); string(m.GetLog().GetText()) != fmt.Sprintf("%0511d", i) {
			t.Fatalf("line %d is %.600s", i, m.GetLog().GetText())
		}
	}
}

// TestWriterWaits: while the store is slow, a writer is held up after a bounded
// amount, and nothing is lost.
func TestWriterWaits(t *testing.T) {
	st := open(t, t.TempDir())
	defer shut(t, st)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSource(st, &controlv1.LogSource{Service: "a", Rate: 1 << 30}, r, func(int) { t.Error("dropped") })
	if err != nil {
		t.Fatal(err)
	}
	s.series.mu.Lock() // a disk that does not answer
	done := make(chan struct{})
	go func() { s.run(t.Context()); close(done) }()
	raw, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 1023) + "\n")
	wrote := 0
	full := func() (full bool) {
		if err := raw.Control(func(fd uintptr) {
			n, err := unix.Write(int(fd), line)
			if n > 0 {
				wrote += n
			}
			full = errors.Is(err, unix.EAGAIN)
		}); err != nil {
			t.Fatal(err)
		}
		return full
	}
	if err := raw.Control(func(fd uintptr) { err = unix.SetNonblock(int(fd), true) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	const most = 64<<10 + 4*readBytes
	// The reader may take one more piece after the pipe was full for the first time.
	quiet := 0
	testenv.Eventually(t, limit, "the pipe to stay full", func() bool {
		for !full() && wrote <= most {
			quiet = 0
		}
		quiet++
		return quiet == 20
	})
	if wrote > most {
		t.Errorf("%d bytes were taken from the writer, at most %d should be", wrote, most)
	}
	s.series.mu.Unlock()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
	if got := drain(t, st, everything, 0, false); len(got) != wrote/len(line) {
		t.Errorf("%d lines are stored of %d", len(got), wrote/len(line))
	}
}

// TestTextsAreSmall: a record of a short line does not keep a large buffer alive.
func TestTextsAreSmall(t *testing.T) {
	st := open(t, t.TempDir())
	defer shut(t, st)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	s, err := newSource(st, &controlv1.LogSource{Service: "a", Rate: 1 << 30}, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.pipe.Close() }()
	s.take([]byte("he"))
	s.take([]byte("llo\n"))
	if n := cap(s.arena); n != len("hello\n") {
		t.Errorf("%d bytes are held for a line of 5", n)
	}
	s.flush()
	// More than a batch at once: the second has what the first did not need.
	s.take([]byte(strings.Repeat("1234567\n", maxBatch+10)))
	if n := cap(s.arena); n != 10*len("1234567\n") || len(s.batch) != 10 {
		t.Errorf("%d bytes are held for %d lines of 7", n, len(s.batch))
	}
	s.flush()
	if got := drain(t, st, everything, 0, false); len(got) != maxBatch+11 || got[0] != "1 a hello" || got[maxBatch+10] != fmt.Sprintf("%d a 1234567", maxBatch+11) {
		t.Errorf("%d lines are stored, first %q", len(got), got[0])
	}
}

// TestUnfinishedLine: what a service has written of a line is seen though the line
// goes on, and the next monitor takes up where the one before stopped.
func TestUnfinishedLine(t *testing.T) {
	dir := t.TempDir()
	k := boot(t, dir)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close(); _ = w.Close() }()
	source := func() *controlv1.FromKernel {
		return &controlv1.FromKernel{Item: &controlv1.FromKernel_LogSource{LogSource: &controlv1.LogSource{
			Service: "a", Instance: "i", Stream: "stdout", Tier: "user"}}}
	}
	dup := func() *os.File {
		fd, err := unix.FcntlInt(r.Fd(), syscall.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "pipe")
	}
	k.send(source(), dup())
	s := k.watch(&solov1.WatchRequest{Service: "a", Since: "start"}, "")
	write(t, w, "Password: ")
	if got := texts([]*solov1.WatchResponse{s.next()}); got[0] != "stdout: Password: …" {
		t.Errorf("seen of an unfinished line: %q", got)
	}
	write(t, w, "\nhalf")
	if got := texts([]*solov1.WatchResponse{s.next()}); got[0] != "stdout: " {
		t.Errorf("after its end: %q", got)
	}
	k.stop()
	write(t, w, " a line\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	k = boot(t, dir)
	k.send(source(), dup())
	testenv.Eventually(t, limit, "the rest", func() bool { return len(k.stored("a")) == 4 })
	want := []string{"stdout: Password: …", "stdout: ", "stdout: half…", "stdout:  a line"}
	if diff := cmp.Diff(want, texts(k.stored("a"))); diff != "" {
		t.Error(diff)
	}
}

// TestHostileOutput: any bytes are kept as they are, and cost others nothing.
func TestHostileOutput(t *testing.T) {
	k := boot(t, t.TempDir())
	rnd := testenv.Rand(t)
	blob := make([]byte, 64<<10)
	for i := range blob {
		if blob[i] = byte(rnd.Uint32()); rnd.IntN(20) == 0 {
			blob[i] = '\n'
		}
	}
	blob = append(blob, strings.Repeat("\n", 10<<10)...)           // as many lines as can be
	blob = append(blob, strings.Repeat("\x1b]0;x\x07", 20<<10)...) // none, and long
	blob = append(blob, '\n')
	w := k.pipe(&controlv1.LogSource{Service: "a", Instance: "i", Stream: "stdout", Rate: 1 << 30, Tier: "user"})
	s := k.watch(&solov1.WatchRequest{Service: "a", Since: "start"}, "")
	go func() {
		if _, err := w.Write(blob); err != nil {
			t.Error(err)
		}
	}()
	var got []byte
	for len(got) < len(blob) {
		m := s.next()
		if got = append(got, m.GetLog().GetText()...); !m.GetLog().GetPartial() {
			got = append(got, '\n')
		}
	}
	if string(got) != string(blob) {
		t.Errorf("%d bytes were written and others, %d, are kept", len(blob), len(got))
	}
}

// TestNoSources: descriptors and names that cannot be log sources are refused, and
// closed.
func TestNoSources(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	st := open(t, t.TempDir())
	defer shut(t, st)
	for _, c := range []struct{ path, name string }{{os.DevNull, "a"}, {t.TempDir(), "a"}, {"", ""}, {"", strings.Repeat("x", maxName+1)}} {
		f, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if c.path != "" {
			_ = f.Close()
			if f, err = os.Open(c.path); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := newSource(st, &controlv1.LogSource{Service: c.name}, f, nil); err == nil {
			t.Errorf("%s is a log source of %.10q", c.path, c.name)
		}
		_ = w.Close()
	}
}

// TestStopWithBusyPipes: a stop is obeyed at once while pipes are full and lines
// unfinished.
func TestStopWithBusyPipes(t *testing.T) {
	k := boot(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	var files ipc.Files
	for i := range 8 {
		w := k.pipe(&controlv1.LogSource{Service: fmt.Sprint("s", i), Instance: "i", Stream: "stdout", Rate: 1 << 10, Tier: "user"})
		files = append(files, w)
		go func() {
			for ctx.Err() == nil {
				if _, err := w.WriteString("some text\nand an unfinished line"); err != nil {
					return
				}
			}
		}()
	}
	settled(k)
	k.stop()
	cancel()
	files.Close()
}
