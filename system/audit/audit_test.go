package audit

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/test/testenv"
)

// run is a Serve that runs, and the kernel's end of its connection.
type run struct {
	kernel *ipc.Conn
	cancel context.CancelFunc
	done   chan error
}

// serve starts the service and takes its Hello.
func serve(t *testing.T, dir string) *run {
	t.Helper()
	kernel, f, err := ipc.Pair()
	check(t, err)
	check(t, kernel.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
	conn, err := ipc.FileConn(f)
	check(t, err)
	c := control.New(conn, nil)
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{kernel: kernel, cancel: cancel, done: make(chan error, 1)}
	go func() {
		err := Serve(ctx, c, Config{Dir: dir, FileBytes: smallFile})
		_ = c.Close()
		r.done <- err
		close(r.done)
	}()
	t.Cleanup(func() {
		cancel()
		_ = r.end(t)
		_ = kernel.Close()
	})
	r.wantMessage(t, &controlv1.FromService{Item: &controlv1.FromService_Hello{Hello: &controlv1.Hello{Protocol: control.Protocol}}})
	return r
}

func (r *run) wantMessage(t *testing.T, want *controlv1.FromService) {
	t.Helper()
	var m controlv1.FromService
	if _, _, err := r.kernel.Receive(&m); err != nil {
		t.Fatalf("instead of %v: %v", want, err)
	}
	if diff := cmp.Diff(want, &m, protocmp.Transform()); diff != "" {
		t.Fatal(diff)
	}
}

func (r *run) send(t *testing.T, records ...*controlv1.AuditRecord) {
	t.Helper()
	check(t, r.kernel.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_AuditBatch{AuditBatch: &controlv1.AuditBatch{Records: records}}}))
}

func (r *run) wantAck(t *testing.T, c Chain) {
	t.Helper()
	r.wantMessage(t, &controlv1.FromService{Item: &controlv1.FromService_AuditAck{AuditAck: &controlv1.AuditAck{Count: c.Count, Head: c.Head[:]}}})
}

// reader hands the service a new reader's end.
func (r *run) reader(t *testing.T, after uint64, follow bool) *reader {
	t.Helper()
	conn, f, err := ipc.Pair()
	check(t, err)
	check(t, conn.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
	t.Cleanup(func() { _ = conn.Close() })
	check(t, r.kernel.Send(readerOrder(after, follow), f))
	check(t, f.Close())
	return &reader{conn: conn}
}

func readerOrder(after uint64, follow bool) *controlv1.FromKernel {
	return &controlv1.FromKernel{Item: &controlv1.FromKernel_AuditReader{AuditReader: &controlv1.AuditReader{After: after, Follow: follow}}}
}

// gone checks that the service has closed the reader.
func (r *reader) gone(t *testing.T) {
	t.Helper()
	if _, _, err := r.conn.Receive(&solov1.TailResponse{}); !errors.Is(err, io.EOF) {
		t.Errorf("reader: %v, want EOF", err)
	}
}

// end waits for Serve.
func (r *run) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(testenv.Scale(patience)):
		t.Fatal("Serve does not end")
		return nil
	}
}

func TestServe(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	records := kernelRecords(t, some(40)...)
	dir := t.TempDir()
	r := serve(t, dir)
	r.send(t)
	r.wantAck(t, Chain{})
	r.send(t, records[:20]...)
	r.wantAck(t, chainOf(records[:20]))
	early, all := r.reader(t, 0, true), r.reader(t, 5, false)
	early.want(t, records[:20])
	all.want(t, records[5:20])
	all.gone(t)
	check(t, r.kernel.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{}}}))
	check(t, r.end(t))
	early.gone(t)

	// The kernel did not hear of the last ones and sends them again to the next one.
	r = serve(t, dir)
	late := r.reader(t, 20, true)
	r.send(t)
	r.wantAck(t, chainOf(records[:20]))
	r.send(t, records[10:30]...)
	r.wantAck(t, chainOf(records[:30]))
	r.send(t, records[30:]...)
	r.wantAck(t, chainOf(records))
	late.want(t, records[20:])
	r.cancel()
	check(t, r.end(t))
	late.gone(t)
	l := openLog(t, dir)
	wantStored(t, dir, l, records)
	check(t, l.Close())
}

// TestServeEnds has what ends the service: a batch that breaks the chain, what the
// kernel would never send, and the end of the kernel. Nothing of it is acknowledged,
// and the descriptors that came with it are closed.
func TestServeEnds(t *testing.T) {
	records := kernelRecords(t, some(10)...)
	null, err := os.Open("/dev/null")
	check(t, err)
	t.Cleanup(func() { _ = null.Close() })
	protocol := func(err error) bool { return errors.As(err, new(*ipc.ProtocolError)) }
	batch := func(records ...*controlv1.AuditRecord) *controlv1.FromKernel {
		return &controlv1.FromKernel{Item: &controlv1.FromKernel_AuditBatch{AuditBatch: &controlv1.AuditBatch{Records: records}}}
	}
	for _, c := range []struct {
		name    string
		message *controlv1.FromKernel
		files   []*os.File
		want    func(error) bool
	}{
		{"broken chain", batch(records[6]), nil, func(err error) bool { return errors.As(err, new(*ChainError)) }},
		{"descriptor with a batch", batch(records[5]), []*os.File{null}, protocol},
		{"reader without a descriptor", readerOrder(0, true), nil, protocol},
		{"reader with two", readerOrder(0, true), []*os.File{null, null}, protocol},
		{"reader that is no socket", readerOrder(0, true), []*os.File{null}, func(err error) bool { return errors.Is(err, unix.ENOTSOCK) }},
		{"another service's message", &controlv1.FromKernel{Item: &controlv1.FromKernel_PortClose{PortClose: &controlv1.PortClose{Id: 1}}}, []*os.File{null}, protocol},
		{"kernel gone", nil, nil, func(err error) bool { return errors.Is(err, control.ErrKernelGone) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.Leaks(t, testenv.Scope{})
			// The garbage collector would close what is forgotten.
			old := debug.SetGCPercent(-1)
			t.Cleanup(func() { debug.SetGCPercent(old) })
			dir := t.TempDir()
			before := descriptors(t)
			r := serve(t, dir)
			r.send(t, records[:5]...)
			r.wantAck(t, chainOf(records[:5]))
			waiting := r.reader(t, 5, true)
			if c.message == nil {
				check(t, r.kernel.Close())
			} else {
				check(t, r.kernel.Send(c.message, c.files...))
			}
			if err := r.end(t); !c.want(err) {
				t.Errorf("Serve: %v", err)
			}
			waiting.gone(t)
			var m controlv1.FromService
			if c.message != nil {
				if _, _, err := r.kernel.Receive(&m); !errors.Is(err, io.EOF) {
					t.Errorf("after it: %v and %v, want EOF", &m, err)
				}
			}
			// What is left are the kernel's and the reader's ends.
			if now := descriptors(t); now > before+2 {
				t.Errorf("%d descriptors before, %d after", before, now)
			}
			l := openLog(t, dir)
			wantStored(t, dir, l, records[:5])
			check(t, l.Close())
		})
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(list)
}

// TestManyReaders takes every place and one more, and gives places back.
func TestManyReaders(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	records := kernelRecords(t, some(3)...)
	r := serve(t, t.TempDir())
	r.send(t, records[:2]...)
	r.wantAck(t, chainOf(records[:2]))
	var readers []*reader
	for range maxReaders {
		// One at a time: the record shows that it has its place.
		next := r.reader(t, 1, true)
		next.want(t, records[1:2])
		readers = append(readers, next)
	}
	r.reader(t, 0, true).gone(t)
	r.send(t, records[2:]...)
	r.wantAck(t, chainOf(records))
	for _, next := range readers {
		next.want(t, records[2:])
	}
	check(t, readers[7].conn.Close())
	// The place is free when the service has noticed.
	testenv.Eventually(t, patience, "a free place", func() bool {
		var m solov1.TailResponse
		_, _, err := r.reader(t, 2, true).conn.Receive(&m)
		return err == nil && m.GetRecord() == string(records[2].GetLine())
	})
}

// TestServeWithoutLog: no Hello is sent where nothing can be stored.
func TestServeWithoutLog(t *testing.T) {
	kernel, f, err := ipc.Pair()
	check(t, err)
	t.Cleanup(func() { _ = kernel.Close() })
	conn, err := ipc.FileConn(f)
	check(t, err)
	c := control.New(conn, nil)
	if err := Serve(t.Context(), c, Config{Dir: "/nonexistent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Serve: %v", err)
	}
	check(t, c.Close())
	if _, _, err := kernel.Receive(&controlv1.FromService{}); !errors.Is(err, io.EOF) {
		t.Errorf("received %v", err)
	}
}
