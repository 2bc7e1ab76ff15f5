package ipc_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

func TestRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes int
		files int
	}{
		{"small", 100, 0},
		{"one descriptor", 100, 1},
		{"most bytes", ipc.MaxMessage, 0},
		{"most descriptors", 100, ipc.MaxFiles},
		{"most of both", ipc.MaxMessage, ipc.MaxFiles},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			want := sized(t, c.bytes)
			files := nulls(t, c.files)
			before := open(t)
			check(t, a.Send(want, files...))
			var got controlv1.FromService
			received, _, err := b.Receive(&got)
			check(t, err)
			if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			if len(received) != c.files || open(t) != before+c.files {
				t.Errorf("%d descriptors came and %d more are open, %d were sent", len(received), open(t)-before, c.files)
			}
			received.Close()
			if now := open(t); now != before {
				t.Errorf("%d descriptors before, %d after closing those received", before, now)
			}
		})
	}
}

// TestFilesArriveInOrder sends pipes' write ends and tells them apart by what is read.
func TestFilesArriveInOrder(t *testing.T) {
	a, b := pair(t)
	const n = 16
	var readers, writers []*os.File
	for range n {
		r, w, err := os.Pipe()
		check(t, err)
		closeLater(t, r)
		readers, writers = append(readers, r), append(writers, w)
	}
	check(t, a.Send(request(1), writers...))
	ipc.Files(writers).Close()
	received, _, err := b.Receive(&controlv1.FromService{})
	check(t, err)
	for i, f := range received {
		_, err := f.Write([]byte{byte(i)})
		check(t, err)
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		check(t, err)
		if flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d stays open at execve", i)
		}
	}
	received.Close()
	for i, r := range readers {
		got, err := io.ReadAll(r)
		check(t, err)
		if !bytes.Equal(got, []byte{byte(i)}) {
			t.Errorf("pipe %d got %v", i, got)
		}
	}
}

func TestSendRefuses(t *testing.T) {
	closed := nulls(t, 1)
	check(t, closed[0].Close())
	for _, c := range []struct {
		name    string
		message *controlv1.FromService
		files   []*os.File
		want    string
	}{
		{"over-long", sized(t, ipc.MaxMessage+1), nil, "encode FromService: message is too long: 65537 bytes are over the limit of 65536"},
		{"empty", &controlv1.FromService{}, nil, "encode FromService: message is empty"},
		{"too many descriptors", request(1), nulls(t, ipc.MaxFiles+1), "send: 254 descriptors are over the limit of 253"},
		{"closed descriptor", request(1), append(nulls(t, 2), closed...), "send descriptor: use of closed file"},
		{"not text", &controlv1.FromService{Item: &controlv1.FromService_Request{Request: &controlv1.Request{Token: "\xff"}}}, nil,
			"encode FromService: string field contains invalid UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			before := open(t)
			err := a.Send(c.message, c.files...)
			if err == nil || err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
			if now := open(t); now != before {
				t.Errorf("%d descriptors before, %d after", before, now)
			}
			// Nothing was sent, and the connection goes on.
			check(t, a.Send(request(2)))
			var got controlv1.FromService
			_, _, err = b.Receive(&got)
			check(t, err)
			if diff := cmp.Diff(request(2), &got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestReceivedMessageKeeps makes sure that a message does not share the buffer that
// the next one is read into.
func TestReceivedMessageKeeps(t *testing.T) {
	a, b := pair(t)
	batch := func(fill byte) *controlv1.FromKernel {
		return &controlv1.FromKernel{Item: &controlv1.FromKernel_AuditBatch{AuditBatch: &controlv1.AuditBatch{
			Records: []*controlv1.AuditRecord{{Number: 1, Line: bytes.Repeat([]byte{fill}, 1000)}},
		}}}
	}
	check(t, a.Send(batch('x')))
	check(t, a.Send(batch('y')))
	var first, second controlv1.FromKernel
	_, _, err := b.Receive(&first)
	check(t, err)
	_, _, err = b.Receive(&second)
	check(t, err)
	if diff := cmp.Diff(batch('x'), &first, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// TestReceiveResets makes sure that nothing of an earlier message stays in the value
// that Receive is given.
func TestReceiveResets(t *testing.T) {
	a, b := pair(t)
	m := &controlv1.InitReport{Report: &controlv1.InitReport_Failed{Failed: &controlv1.Failed{Step: "old", Errno: 5}}}
	want := &controlv1.InitReport{Report: &controlv1.InitReport_Failed{Failed: &controlv1.Failed{Errno: 1}}}
	check(t, a.Send(want))
	_, _, err := b.Receive(m)
	check(t, err)
	if diff := cmp.Diff(want, m, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestOrderIsKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, f, err := ipc.Pair()
		check(t, err)
		defer func() { _ = a.Close() }()
		b, err := ipc.FileConn(f)
		check(t, err)
		defer func() { _ = b.Close() }()
		check(t, b.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
		sizes := rapid.SliceOfN(rapid.IntRange(0, 40000), 1, 20).Draw(rt, "sizes")
		sent := make(chan error, 1)
		go func() {
			for _, n := range sizes {
				if err := a.Send(request(n)); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for i, n := range sizes {
			var got controlv1.FromService
			if _, _, err := b.Receive(&got); err != nil {
				rt.Fatal(err)
			}
			if diff := cmp.Diff(request(n), &got, protocmp.Transform()); diff != "" {
				rt.Fatalf("message %d: %s", i, diff)
			}
		}
		check(t, <-sent)
	})
}

func TestCredentials(t *testing.T) {
	a, b := pair(t)
	want := ipc.Cred{PID: int32(os.Getpid()), UID: uint32(os.Getuid())}
	check(t, a.Send(request(1)))
	_, got, err := b.Receive(&controlv1.FromService{})
	check(t, err)
	if got != (ipc.Cred{}) {
		t.Errorf("%+v without asking", got)
	}
	check(t, b.PassCred())
	for _, n := range []int{0, ipc.MaxFiles} {
		check(t, a.Send(request(1), nulls(t, n)...))
		files, got, err := b.Receive(&controlv1.FromService{})
		check(t, err)
		files.Close()
		if got != want || len(files) != n {
			t.Errorf("%+v and %d descriptors, want %+v and %d", got, len(files), want, n)
		}
	}
	check(t, b.Close())
	if err := b.PassCred(); err == nil {
		t.Error("PassCred on a closed connection succeeded")
	}
}

func TestPeerGone(t *testing.T) {
	a, b := pair(t)
	check(t, b.Send(request(3)))
	check(t, b.Close())
	var got controlv1.FromService
	_, _, err := a.Receive(&got)
	check(t, err)
	if diff := cmp.Diff(request(3), &got, protocmp.Transform()); diff != "" {
		t.Errorf("the message before the end: %s", diff)
	}
	if _, _, err := a.Receive(&got); !errors.Is(err, io.EOF) {
		t.Errorf("receive: %v, want EOF", err)
	}
	if err := a.Send(request(1)); !errors.Is(err, unix.EPIPE) {
		t.Errorf("send: %v, want EPIPE", err)
	}
}

// TestLastMessageSurvivesReset is about a peer that ends while something for it is
// unread, as solo-init does after its Exit: the system then reports a reset ahead of
// what the peer had sent.
func TestLastMessageSurvivesReset(t *testing.T) {
	a, b := pair(t)
	check(t, a.Send(request(1), nulls(t, 1)...))
	check(t, b.Send(request(5), nulls(t, 2)...))
	check(t, b.Close())
	var got controlv1.FromService
	files, _, err := a.Receive(&got)
	check(t, err)
	files.Close()
	if diff := cmp.Diff(request(5), &got, protocmp.Transform()); diff != "" || len(files) != 2 {
		t.Errorf("%d descriptors; %s", len(files), diff)
	}
	if _, _, err := a.Receive(&got); !errors.Is(err, io.EOF) {
		t.Errorf("after it: %v, want EOF", err)
	}
}

func TestFileConnRefuses(t *testing.T) {
	unixPair := func(typ int) *os.File {
		fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		check(t, unix.Close(fds[1]))
		return os.NewFile(uintptr(fds[0]), "socket")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	closeLater(t, l)
	tcp, err := l.(*net.TCPListener).File()
	check(t, err)
	plain, err := os.Create(filepath.Join(t.TempDir(), "file"))
	check(t, err)
	closed := nulls(t, 1)[0]
	check(t, closed.Close())
	for name, f := range map[string]*os.File{
		"stream": unixPair(unix.SOCK_STREAM), "datagram": unixPair(unix.SOCK_DGRAM), "tcp": tcp, "file": plain, "closed": closed,
	} {
		if c, err := ipc.FileConn(f); err == nil {
			t.Errorf("%s: made a connection", name)
			_ = c.Close()
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: was not taken over: %v", name, err)
		}
	}
}

// TestFileConnUnblocks makes a connection of a socket in blocking mode, as a peer may
// leave it: the deadline must still work.
func TestFileConnUnblocks(t *testing.T) {
	a, b, err := ipc.RawPair()
	check(t, err)
	closeLater(t, b)
	check(t, unix.SetNonblock(int(a.Fd()), false))
	c, err := ipc.FileConn(a)
	check(t, err)
	closeLater(t, c)
	check(t, c.SetReadDeadline(time.Now()))
	if _, _, err := c.Receive(&controlv1.FromService{}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want a deadline", err)
	}
}
