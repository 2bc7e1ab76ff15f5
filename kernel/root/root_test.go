package root

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// TestLife is a run without trouble: what the kernel gets, where everybody sits, what
// is said, and that nothing is left.
func TestLife(t *testing.T) {
	r := newRig(t, "")
	certs := filepath.Join(r.state, "certs")
	if err := os.Mkdir(certs, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "server.pem", "server.key"} {
		if err := os.WriteFile(filepath.Join(certs, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(r.state, "config")
	if err := os.WriteFile(config, []byte("pool_size: 7\nbinary_paths: '/opt'"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start("--listen", "localhost:0", "--config", config)
	r.ready()

	var tcp string
	line := strings.TrimSpace(r.stdout.String())
	if _, rest, ok := strings.Cut(line, "tcp "); ok {
		tcp, _, _ = strings.Cut(rest, ",")
	}
	if want := fmt.Sprintf("solod: ready: api unix://%s/api.sock, tcp %s, state %s, cgroup %s", r.run, tcp, r.state, r.group); line != want {
		t.Errorf("ready line %q, want %q", line, want)
	}
	got := r.boot()
	base := got.GetIdBase()
	if base < 1<<29 || base%(1<<26) != 0 {
		t.Errorf("id base %d", base)
	}
	want := &controlv1.Boot{
		Names: []string{"launcher", "api.sock", "tcp", "metrics.sock"}, StateDir: r.state, RunDir: r.run,
		CgroupRoot: r.group, IdBase: base, IdRanges: 1024, ProgramDir: programs, Version: "v1.2.3-test",
		Config: &controlv1.Config{PoolSize: 7, BinaryPaths: []string{"/opt"}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("boot message (-want +got):\n%s", diff)
	}
	for name, addr := range map[string][2]string{
		"api.sock": {"unix", r.run + "/api.sock"}, "metrics.sock": {"unix", r.run + "/metrics.sock"}, "tcp": {"tcp", tcp},
	} {
		conn, err := net.Dial(addr[0], addr[1])
		if err != nil {
			t.Error(err)
			continue
		}
		if said, err := io.ReadAll(conn); err != nil || string(said) != name {
			t.Errorf("%s answers %q, %v", name, said, err)
		}
		_ = conn.Close()
	}
	modes := map[string]os.FileMode{}
	for _, p := range []string{r.state, r.run, r.run + "/api.sock", r.run + "/metrics.sock"} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		modes[filepath.Base(p)] = st.Mode()
	}
	if diff := cmp.Diff(map[string]os.FileMode{
		"state": os.ModeDir | 0o700, "run": os.ModeDir | 0o755,
		"api.sock": os.ModeSocket | 0o666, "metrics.sock": os.ModeSocket | 0o600,
	}, modes); diff != "" {
		t.Errorf("modes (-want +got):\n%s", diff)
	}
	checkChildren(t, r)

	r.stop()
	if stops := r.journal("stop "); !cmp.Equal(stops, []string{"30000"}) {
		t.Errorf("stop orders %q", stops)
	}
	if left, err := os.ReadDir(r.run); err != nil || len(left) != 0 {
		t.Errorf("run directory afterwards: %v, %v", left, err)
	}
	if text := r.stderr.String(); text != "" {
		t.Errorf("solod says %q", text)
	}
}

// checkChildren looks at what solod gave the kernel and the launcher.
func checkChildren(t *testing.T, r *rig) {
	t.Helper()
	if got := r.journal("open "); !cmp.Equal(got, []string{"[socket]"}) {
		t.Errorf("the kernel's descriptors from 3 on: %q", got)
	}
	if got := r.journal("args "); !cmp.Equal(got, []string{`["solo-kernel"] env []`}) {
		t.Errorf("the kernel's arguments and environment: %q", got)
	}
	type seat struct {
		Parent                    int
		Exe, Group, Stdin         string
		OwnNet, OwnMount, Session bool
	}
	self := r.cmd.Process.Pid
	link := func(pid int, name string) string {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			t.Error(err)
		}
		return target
	}
	look := func(pid int) seat {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		var parent int
		if _, rest, ok := strings.Cut(string(status), "PPid:"); ok {
			_, _ = fmt.Sscan(rest, &parent)
		}
		groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		_, unified, _ := strings.Cut(string(groups), "0::")
		sid, _ := unix.Getsid(pid)
		return seat{
			Parent: parent, Exe: link(pid, "exe"), Group: strings.TrimSpace(unified), Stdin: link(pid, "fd/0"),
			OwnNet: link(pid, "ns/net") != link(self, "ns/net"), OwnMount: link(pid, "ns/mnt") != link(self, "ns/mnt"), Session: sid == pid,
		}
	}
	kernel, launcher := r.pids("kernel", 1)[0], r.pids("launcher", 1)[0]
	want := map[string]seat{
		"kernel":   {self, "/memfd:solo-kernel (deleted)", r.group + "/kernel", "/dev/null", true, false, true},
		"launcher": {self, "/memfd:solo-launcher (deleted)", r.group + "/launcher", "/dev/null", false, true, true},
	}
	if diff := cmp.Diff(want, map[string]seat{"kernel": look(kernel), "launcher": look(launcher)}); diff != "" {
		t.Errorf("children (-want +got):\n%s", diff)
	}
	if at := look(self).Group; at != r.group+"/solod" {
		t.Errorf("solod sits in %s", at)
	}
}

// TestKernelKilled: another kernel with another launcher, the same listeners and ids.
func TestKernelKilled(t *testing.T) {
	r := newRig(t, "")
	r.start()
	r.ready()
	kernel, launcher := r.pids("kernel", 1)[0], r.pids("launcher", 1)[0]
	before := r.boot()
	kill(t, kernel)
	if kernels := r.pids("kernel", 2); kernels[1] == kernel {
		t.Errorf("kernels %v", kernels)
	}
	r.pids("launcher", 2)
	if !gone(kernel) || !gone(launcher) {
		t.Errorf("the first kernel is gone: %v, its launcher: %v", gone(kernel), gone(launcher))
	}
	if diff := cmp.Diff(before, r.boot(), protocmp.Transform()); diff != "" {
		t.Errorf("the second boot message differs (-first +second):\n%s", diff)
	}
	r.stop()
	if n := strings.Count(r.stdout.String(), "\n"); n != 1 {
		t.Errorf("%d lines on stdout: %q", n, r.stdout)
	}
	if !strings.Contains(r.stderr.String(), "solo-kernel: signal: killed") {
		t.Errorf("solod says %q", r.stderr)
	}
}

// TestLauncherKilled: another launcher for the same kernel.
func TestLauncherKilled(t *testing.T) {
	r := newRig(t, "")
	r.start()
	r.ready()
	kill(t, r.pids("launcher", 1)[0])
	launchers := r.pids("launcher", 2)
	kill(t, launchers[1])
	r.pids("launcher", 3)
	r.pids("kernel", 1)
	r.stop()
}

// TestCountsApart: a launcher that ends with its kernel has not failed itself, so three
// ends of each are within the intensity.
func TestCountsApart(t *testing.T) {
	r := newRig(t, "")
	r.start()
	r.ready()
	for n := 1; n <= 3; n++ {
		kill(t, r.pids("kernel", n)[n-1])
		r.pids("kernel", n+1)
		kill(t, r.pids("launcher", 2*n)[2*n-1])
		r.pids("launcher", 2*n+1)
	}
	r.stop()
}

// TestLauncherGoesFirst: the same when the launcher's end is seen before that of the
// kernel, which is known to be going.
func TestLauncherGoesFirst(t *testing.T) {
	r := &root{}
	r.kernel.proc = &os.Process{Pid: 1}
	r.launcher.proc = &os.Process{Pid: 2}
	r.exited(&r.launcher, nil)
	if r.launcher.proc != nil || r.launcher.history.Times != nil || r.done {
		t.Errorf("launcher %+v, done %v", r.launcher, r.done)
	}
}

// TestIntensity: the fourth end of a child within a minute is solod's.
func TestIntensity(t *testing.T) {
	r := newRig(t, "")
	r.start()
	r.ready()
	for n := 1; n <= 4; n++ {
		kill(t, r.pids("launcher", n)[n-1])
	}
	if code := r.ended(); code != 1 {
		t.Errorf("exits %d", code)
	}
	if !strings.Contains(r.stderr.String(), "solo-launcher ended more than 3 times within 1m0s") {
		t.Errorf("solod says %q", r.stderr)
	}
}

// TestKernelNeverBoots ends the same way, before anything was ready.
func TestKernelNeverBoots(t *testing.T) {
	r := newRig(t, "die")
	r.start()
	if code := r.ended(); code != 1 || r.stdout.String() != "" {
		t.Errorf("exits %d after %q", code, r.stdout)
	}
	r.pids("kernel", 4)
	if !strings.Contains(r.stderr.String(), "solo-kernel ended more than 3 times within 1m0s") {
		t.Errorf("solod says %q", r.stderr)
	}
}

// TestKernelBreaksProtocol: a kernel that closes its connection, or sends what is no
// report, is ended and replaced.
func TestKernelBreaksProtocol(t *testing.T) {
	for _, script := range []string{"hang-up", "garbage"} {
		t.Run(script, func(t *testing.T) {
			r := newRig(t, script)
			r.start()
			r.ready()
			r.until("a second kernel", func() bool { return len(r.journal("kernel ")) > 1 })
			r.script("")
			kernels := func() int { return len(r.journal("kernel ")) }
			if kernels() < 4 { // the next one behaves, unless the script was read too late
				r.until("a kernel that stays", func() bool { return len(r.journal("launcher ")) == kernels() && kernels() > 1 })
			}
			r.signal(unix.SIGTERM)
			r.ended()
			if !strings.Contains(r.stderr.String(), "connection to solo-kernel: ") {
				t.Errorf("solod says %q", r.stderr)
			}
		})
	}
}

// TestBootFailed: the kernel's reason is printed in one line, and everything ends.
func TestBootFailed(t *testing.T) {
	r := newRig(t, "boot-failed")
	r.refused(1, []string{"store: bad; and worse"})
}

// TestShutdownWanted: a client's Shutdown stops with its own time.
func TestShutdownWanted(t *testing.T) {
	r := newRig(t, "shutdown")
	r.start()
	if code := r.ended(); code != 0 {
		t.Errorf("exits %d: %s", code, r.stderr)
	}
	if stops := r.journal("stop "); !cmp.Equal(stops, []string{"1234"}) {
		t.Errorf("stop orders %q", stops)
	}
}

// TestKernelHangsInStop: it is killed when its time and the grace are over.
func TestKernelHangsInStop(t *testing.T) {
	r := newRig(t, "ignore-stop shutdown orphan")
	r.start("--grace", "100ms")
	if code := r.ended(); code != 1 {
		t.Errorf("exits %d", code)
	}
	if !strings.Contains(r.stderr.String(), "solo-kernel did not stop in time") || len(r.journal("stop ")) != 1 {
		t.Errorf("solod says %q, the kernel %q", r.stderr, r.journal(""))
	}
}

// TestSecondSignal ends everything without waiting for the kernel.
func TestSecondSignal(t *testing.T) {
	r := newRig(t, "ignore-stop orphan")
	r.start()
	r.ready()
	r.signal(unix.SIGINT)
	r.until("the order to stop", func() bool { return len(r.journal("stop ")) == 1 })
	r.signal(unix.SIGTERM)
	if code := r.ended(); code != 1 || !strings.Contains(r.stderr.String(), "second signal (terminated)") {
		t.Errorf("exits %d and says %q", code, r.stderr)
	}
}

// TestStopFails: a kernel that ends badly while it stops is not an orderly end.
func TestStopFails(t *testing.T) {
	r := newRig(t, "fail-stop")
	r.start()
	r.ready()
	r.signal(unix.SIGTERM)
	if code := r.ended(); code != 1 || !strings.Contains(r.stderr.String(), "solo-kernel, while it stopped: exit status 1") {
		t.Errorf("exits %d and says %q", code, r.stderr)
	}
	r.pids("kernel", 1)
}

// TestOrphans: processes whose parents have gone are solod's, who reaps them, and ends
// them at the end.
func TestOrphans(t *testing.T) {
	r := newRig(t, "orphan")
	r.start()
	r.ready()
	orphan := r.pids("orphan", 1)[0]
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", orphan))
	if err != nil || !strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", r.cmd.Process.Pid)) {
		t.Errorf("the orphan is not solod's child: %v", err)
	}
	kill(t, orphan)
	testenv.Eventually(t, patience, "the orphan to be reaped", func() bool { return gone(orphan) })
	// The next orphan lives until the end.
	kill(t, r.pids("kernel", 1)[0])
	orphan = r.pids("orphan", 2)[1]
	r.stop()
	testenv.Eventually(t, patience, "the second orphan to end", func() bool { return gone(orphan) })
}
