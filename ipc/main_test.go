package ipc_test

import (
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.CheckMain(m)) }

// patience bounds waits for what must happen.
const patience = 30 * time.Second

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func closeLater(t testing.TB, c io.Closer) {
	t.Helper()
	t.Cleanup(func() { _ = c.Close() })
}

// pair returns both ends of a connection, closed at the end of the test.
func pair(t testing.TB) (a, b *ipc.Conn) {
	t.Helper()
	a, f, err := ipc.Pair()
	check(t, err)
	closeLater(t, a)
	b, err = ipc.FileConn(f)
	check(t, err)
	closeLater(t, b)
	check(t, a.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
	check(t, b.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
	return a, b
}

// hostile returns a connection and the bare socket of its peer.
func hostile(t testing.TB) (*ipc.Conn, int) {
	t.Helper()
	a, f, err := ipc.Pair()
	check(t, err)
	t.Cleanup(func() { _ = a.Close(); _ = f.Close() })
	check(t, a.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
	return a, int(f.Fd())
}

// rights is a control message with n descriptors of /dev/null.
func rights(t testing.TB, n int) []byte {
	t.Helper()
	f, err := os.Open("/dev/null")
	check(t, err)
	closeLater(t, f)
	fds := make([]int, n)
	for i := range fds {
		fds[i] = int(f.Fd())
	}
	return unix.UnixRights(fds...)
}

// nulls are n open files.
func nulls(t testing.TB, n int) []*os.File {
	t.Helper()
	files := make([]*os.File, n)
	for i := range files {
		f, err := os.Open("/dev/null")
		check(t, err)
		closeLater(t, f)
		files[i] = f
	}
	return files
}

// open counts this process's descriptors.
func open(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(list)
}

// request is a message that a service may send, of about n bytes.
func request(n int) *controlv1.FromService {
	token := make([]byte, n)
	for i := range token {
		token[i] = 'a' + byte(i%26)
	}
	return &controlv1.FromService{Item: &controlv1.FromService_Request{
		Request: &controlv1.Request{Id: 7, Token: string(token)},
	}}
}

// sized is a request that is n bytes long when encoded.
func sized(t testing.TB, n int) *controlv1.FromService {
	t.Helper()
	for pad := n - 64; pad <= n; pad++ {
		if m := request(pad); proto.Size(m) == n {
			return m
		}
	}
	t.Fatalf("no request has %d bytes", n)
	return nil
}
