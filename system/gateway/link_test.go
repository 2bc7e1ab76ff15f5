package gateway

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// pending is a link with one request under way, and its peer.
func pending(t *testing.T) (*link, *call) {
	t.Helper()
	conn, other, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); _ = other.Close() })
	l := newLink(conn)
	c, err := l.begin(nil, &controlv1.Request{Op: &controlv1.Request_Info{Info: &solov1.InfoRequest{}}})
	if err != nil {
		t.Fatal(err)
	}
	return l, c
}

func descriptor(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func isClosed(f *os.File) bool {
	_, err := f.SyscallConn()
	if err == nil {
		_, err = f.Stat()
	}
	return errors.Is(err, os.ErrClosed)
}

// TestTooManyResponses: the link holds no more responses, and descriptors, for a
// caller than a request has.
func TestTooManyResponses(t *testing.T) {
	l, c := pending(t)
	var files []*os.File
	for range maxReplies + 1 {
		files = append(files, descriptor(t))
	}
	for i, f := range files {
		err := l.deliver(&controlv1.Response{Id: c.id, More: true}, ipc.Files{f})
		var broken *ipc.ProtocolError
		if over := i == maxReplies; errors.As(err, &broken) != over || isClosed(f) != over {
			t.Errorf("response %d: %v, descriptor closed: %v", i+1, err, isClosed(f))
		}
	}
	if !c.forget() {
		t.Error("the call was not registered")
	}
	for i, f := range files {
		if !isClosed(f) {
			t.Errorf("descriptor %d of a response that nobody took is open", i+1)
		}
	}
}

// TestStrayResponse: a response that nobody waits for, and its descriptors, go.
func TestStrayResponse(t *testing.T) {
	l, c := pending(t)
	f := descriptor(t)
	if err := l.deliver(&controlv1.Response{Id: c.id + 1}, ipc.Files{f}); err != nil || !isClosed(f) {
		t.Errorf("%v, descriptor closed: %v", err, isClosed(f))
	}
}

// TestBeginAfterEnd: calls that begin when the kernel has gone fail at once.
func TestBeginAfterEnd(t *testing.T) {
	l, c := pending(t)
	l.fail()
	if _, err := c.next(t.Context()); !errors.Is(err, errGone) {
		t.Errorf("the call under way: %v", err)
	}
	if _, err := l.begin(nil, &controlv1.Request{Op: &controlv1.Request_Info{Info: &solov1.InfoRequest{}}}); !errors.Is(err, errGone) {
		t.Errorf("the next call: %v", err)
	}
}

func TestPollable(t *testing.T) {
	f := descriptor(t)
	if _, err := pollable(f); !errors.Is(err, syscall.EINVAL) || !isClosed(f) {
		t.Errorf("a device: %v, closed: %v", err, isClosed(f))
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	nf, err := pollable(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nf.Close() }()
	if !isClosed(r) {
		t.Error("the given file is open")
	}
}

// TestInflight: none waits for the last call, also when others begin meanwhile.
func TestInflight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f inflight
		<-f.none()
		f.add()
		over := false
		none := f.none()
		go func() { <-none; over = true }()
		f.add()
		f.done()
		synctest.Wait()
		if over {
			t.Error("over with a call in flight")
		}
		f.done()
		synctest.Wait()
		if !over {
			t.Error("not over without a call in flight")
		}
	})
}
