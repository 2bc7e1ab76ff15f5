package sandbox

import (
	"os"
	"testing"
	"time"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/test/testenv"
)

// patience is far longer than anything here takes on a loaded machine.
const patience = 60 * time.Second

func TestMain(m *testing.M) { os.Exit(testenv.CheckMain(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair is a connection whose ends are closed with the test.
func pair(t *testing.T) (a, b *ipc.Conn) {
	t.Helper()
	a, file, err := ipc.Pair()
	must(t, err)
	t.Cleanup(func() { _ = a.Close() })
	b, err = ipc.FileConn(file)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	must(t, b.SetReadDeadline(time.Now().Add(patience)))
	return a, b
}

// opened is a file that is closed with the test.
func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}
