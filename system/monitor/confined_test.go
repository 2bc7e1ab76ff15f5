//go:build seccomp

package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/seccomp/bpf"
	"github.com/solo-os/solo/seccomp/profiles"
	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/test/testenv"
)

const confinedFilter = "SOLO_MONITOR_FILTER"

func init() { child = confinedMain }

// confinedMain is a monitor under its own filter.
func confinedMain() int {
	return control.Main("solo-monitor", func(ctx context.Context, c *control.Conn) error {
		filter, err := os.ReadFile(os.Getenv(confinedFilter))
		if err != nil {
			return err
		}
		if err := confine(filter); err != nil {
			return err
		}
		return Serve(ctx, c, Config{Dir: os.Getenv(confinedDir)})
	})
}

// confine loads a filter for all threads of this process.
func confine(filter []byte) error {
	prog := unix.SockFprog{Len: uint16(len(filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	const setModeFilter, tsync = 1, 1 // seccomp(2)
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, tsync, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// TestConfined lets a monitor do all it ever does under its profile, made deadly: a
// call that the profile lacks ends it.
func TestConfined(t *testing.T) {
	testenv.Require(t, testenv.Seccomp)
	text, err := profiles.Read("monitor")
	if err != nil {
		t.Fatal(err)
	}
	deadly := strings.Replace(string(text), `"defaultAction": "SCMP_ACT_ERRNO"`, `"defaultAction": "SCMP_ACT_TRAP"`, 1)
	deadly = strings.Replace(deadly, `"defaultErrnoRet": 1,`, "", 1)
	filter, err := bpf.Compile([]byte(deadly))
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	dir, file := filepath.Join(work, "data"), filepath.Join(work, "filter")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(file, filter, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds what the first has left
		k, wait := confined(t, dir, file)
		exercise(t, k)
		if err := k.conn.Send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{}}}); err != nil {
			t.Fatal(err)
		}
		if err := wait(); err != nil {
			t.Fatalf("the confined monitor: %v", err)
		}
	}
}

// confined starts a monitor of its own process.
func confined(t *testing.T, dir, filter string) (*kernel, func() error) {
	t.Helper()
	conn, peer, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	k := &kernel{t: t, conn: conn, socket: filepath.Join(t.TempDir(), MetricsName)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: k.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	listener, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	cmd := exec.Command(os.Args[0])
	cmd.ExtraFiles = []*os.File{listener, peer}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Env = []string{confinedDir + "=" + dir, confinedFilter + "=" + filter,
		"LISTEN_FDS=1", "LISTEN_FDNAMES=" + MetricsName, "SOLO_CONTROL=4"}
	err = cmd.Start()
	_, _ = listener.Close(), peer.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, _, err := conn.Receive(&controlv1.FromService{}); err != nil {
		t.Fatalf("the confined monitor: %v, %v", err, cmd.Wait())
	}
	return k, cmd.Wait
}

// exercise takes a monitor through what it can do.
func exercise(t *testing.T, k *kernel) {
	t.Helper()
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_MonitorConfig{MonitorConfig: &controlv1.MonitorConfig{
		LogBytesPerService: minLimit, UsageIntervalMs: 10}}})
	g := newGroup(t, true)
	g.set("4096\n", cpuStat, "7\n")
	k.usage("a", "i1", true, g.open())
	k.event("a", "ready")
	metrics := k.watch(&solov1.WatchRequest{Kinds: []string{"metric"}}, "")
	logs := k.watch(&solov1.WatchRequest{Service: "a", Kinds: []string{"log"}}, "")
	loud := k.pipe(&controlv1.LogSource{Service: "a", Instance: "i1", Stream: "stdout", Rate: 1, Tier: "user"})
	w := k.pipe(&controlv1.LogSource{Service: "a", Instance: "i1", Stream: "stderr", Rate: 1 << 30, Tier: "user"})
	go func() {
		_, _ = loud.WriteString(strings.Repeat("x", 100<<10)) // over its rate
		for i := range 500 {                                  // twice the limit
			_, _ = fmt.Fprintf(w, "%0600d\n", i)
		}
		_, _ = w.WriteString("unfinished")
	}()
	for seen := 0; seen < 2; {
		m := logs.next()
		if m == nil {
			t.Fatal("the stream ended")
		}
		if text := string(m.GetLog().GetText()); text == "unfinished" || strings.HasPrefix(text, "dropped") {
			seen++
		}
	}
	if m := metrics.next(); m.GetMetric().GetMemoryBytes() != 4096 {
		t.Errorf("metrics: %v", m)
	}
	k.event("b", "deployed")
	k.serviceGone("b")
	if got := texts(k.stored("a")); len(got) < 50 {
		t.Errorf("stored: %q", got)
	}
	if got := k.scrape("solo_service_memory_bytes"); len(got) != 1 {
		t.Errorf("metrics: %q", got)
	}
	for _, s := range []*stream{metrics, logs} {
		_ = s.conn.Close()
	}
	_, _ = loud.Close(), w.Close()
	k.instanceGone("a", "i1")
	settled(k)
}
