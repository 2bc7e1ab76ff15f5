package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// newShell is a shell whose solo-init the test plays.
func newShell(t *testing.T) (*Shell, *ipc.Conn) {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Landlock, testenv.UserNS)
	const base = 500_000_000
	conn, peer := pair(t)
	return &Shell{ID: "a", Control: conn, UserNS: userNamespace(t, base), IDBase: base}, peer
}

func receive(t *testing.T, peer *ipc.Conn) (*controlv1.InitOrder, ipc.Files) {
	t.Helper()
	o := &controlv1.InitOrder{}
	files, _, err := peer.Receive(o)
	must(t, err)
	t.Cleanup(files.Close)
	return o, files
}

// identity tells one file from another.
func identity(t *testing.T, f *os.File) [2]uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	return [2]uint64{st.Dev, st.Ino}
}

// source opens a mount's source as the kernel does.
func source(path string) func() (*os.File, error) {
	return func() (*os.File, error) {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

func TestLease(t *testing.T) {
	s, peer := newShell(t)
	dir, data := t.TempDir(), t.TempDir()
	host := filepath.Join(dir, "f")
	must(t, os.WriteFile(host, nil, 0o644))
	var given [6]*os.File // stdio, a file's content, two descriptors
	for i := range given {
		path := filepath.Join(dir, fmt.Sprint(i))
		must(t, os.WriteFile(path, nil, 0o644))
		given[i] = opened(t, path)
	}
	must(t, s.Lease(Lease{
		Program: "/app/x", Argv: []string{"x", ""}, Env: []string{"A=1"},
		Mounts:    []Mount{{Open: source(dir), Target: "/usr/d", Directory: true}, {Open: source(host), Target: "/usr/f"}, {Open: source(dir), Target: "/host", Directory: true, NoExec: true}},
		Volumes:   []Volume{{Source: data, Target: "/data"}},
		Files:     []File{{Path: "/app/x", Mode: 0o555, Content: given[3]}},
		TmpBytes:  1 << 20,
		OpenFiles: 99,
		Stdio:     [3]*os.File{given[0], given[1], given[2]}, Descriptors: given[4:], ListenFDs: 1,
		Floor: []byte("floor..."), Filter: []byte("filter.."),
	}))
	o, files := receive(t, peer)
	abi, err := LandlockABI()
	must(t, err)
	want := &controlv1.Lease{
		Program: []byte("/app/x"), Argv: [][]byte{[]byte("x"), {}}, Env: [][]byte{[]byte("A=1")}, Cwd: []byte("/tmp"),
		Mounts: []*controlv1.LeaseMount{
			{Target: []byte("/tmp"), Directory: true}, {Target: []byte("/dev/shm"), Directory: true}, {Target: []byte("/data"), Directory: true},
			{Target: []byte("/usr/d"), Directory: true}, {Target: []byte("/usr/f")}, {Target: []byte("/host"), Directory: true},
		},
		Files:   []*controlv1.LeaseFile{{Path: []byte("/app/x"), Mode: 0o555}},
		Rlimits: []*controlv1.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 99, Hard: 99}, {Resource: unix.RLIMIT_CORE}},
		Uid:     1000, Gid: 1000, Floor: []byte("floor..."), Filter: []byte("filter.."), Descriptors: 2, ListenFds: 1,
	}
	want.LandlockFs, want.LandlockScoped, want.LandlockRules = landlock(abi, []string{"/tmp", "/dev/shm", "/data"})
	if diff := cmp.Diff(want, o.GetLease(), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Descriptors in the protocol's order: stdio, mounts, files, descriptors.
	if len(files) != 3+6+1+2 {
		t.Fatalf("%d descriptors", len(files))
	}
	for i, at := range []int{0, 1, 2, 9, 10, 11} {
		if identity(t, files[at]) != identity(t, given[i]) {
			t.Errorf("descriptor %d is another file than given", at)
		}
	}
	for i, want := range []int64{
		unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC, unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC, // /tmp, /dev/shm
		unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC,                                                  // the volume
		unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV, unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV, // mounts
		unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC,
	} {
		if got := flags(t, files[3+i]); got != want {
			t.Errorf("mount %d has flags %#x, want %#x", i, got, want)
		}
	}
	if identity(t, files[6]) != identity(t, readable(t, dir)) || identity(t, files[7]) != identity(t, readable(t, host)) || identity(t, files[8]) != identity(t, readable(t, dir)) {
		t.Error("mounts are of something else")
	}
	var st unix.Stat_t
	for i := range 2 {
		must(t, unix.Fstat(int(files[3+i].Fd()), &st))
		if st.Uid != s.HostUID() || st.Gid != s.IDBase+GID {
			t.Errorf("scratch %d belongs to %d:%d", i, st.Uid, st.Gid)
		}
	}
	// The caller's own are still its own.
	for _, f := range given {
		if _, err := f.Stat(); err != nil {
			t.Error(err)
		}
	}
}

// readable is opened for what is a directory.
func readable(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestLeaseFailsByStep: nothing is sent, and nothing stays open (CheckMain).
func TestLeaseFailsByStep(t *testing.T) {
	s, peer := newShell(t)
	null := opened(t, "/dev/null")
	stdio := [3]*os.File{null, null, null}
	for _, c := range []struct {
		name  string
		lease Lease
		step  string
		errno unix.Errno
	}{
		{"mount gone", Lease{Stdio: stdio, Mounts: []Mount{{Open: source("/none"), Target: "/x"}}}, "mount /x", unix.ENOENT},
		{"mount has become a file", Lease{Stdio: stdio, Mounts: []Mount{{Open: source("/etc/passwd"), Target: "/x", Directory: true}}}, "mount /x", 0},
		{"volume gone", Lease{Stdio: stdio, Volumes: []Volume{{Source: "/none", Target: "/v"}}}, "mount /v", unix.ENOENT},
		{"record too large", Lease{Stdio: stdio, Env: []string{"A=" + string(make([]byte, ipc.MaxMessage))}}, "lease", 0},
		{"too many descriptors", Lease{Stdio: stdio, Descriptors: slices.Repeat([]*os.File{null}, ipc.MaxFiles)}, "lease", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.lease.TmpBytes = 1 << 20
			err := s.Lease(c.lease)
			var e *StepError
			if !errors.As(err, &e) || e.Step != c.step || e.Errno != c.errno {
				t.Errorf("%#v", err)
			}
		})
	}
	must(t, s.Signal(unix.SIGTERM))
	o, _ := receive(t, peer)
	want := &controlv1.InitOrder{Order: &controlv1.InitOrder_Signal{Signal: &controlv1.Signal{Signal: 15}}}
	if diff := cmp.Diff(want, o, protocmp.Transform()); diff != "" {
		t.Errorf("first order that arrives (-want +got):\n%s", diff)
	}
}

// TestInitThatDoesNotRead: orders do not wait for it.
func TestInitThatDoesNotRead(t *testing.T) {
	conn, _ := pair(t)
	s := &Shell{Control: conn}
	for i := range 100_000 {
		if err := s.Signal(unix.SIGTERM); err != nil {
			if !errors.Is(err, ipc.ErrFull) || i == 0 {
				t.Errorf("order %d: %v", i, err)
			}
			return
		}
	}
	t.Error("100,000 orders were taken by nobody")
}

func TestStepError(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
		is   error
	}{
		{&StepError{Step: "pivot_root", Errno: unix.EINVAL}, "sandbox step pivot_root: invalid argument", unix.EINVAL},
		{&StepError{Step: "run", Errno: unix.EPERM, Message: "clone"}, "sandbox step run: clone: operation not permitted", unix.EPERM},
		{&StepError{Step: "landlock", Message: "too old"}, "sandbox step landlock: too old", nil},
		{step("lease", fmt.Errorf("send: %w", unix.EPIPE)), "sandbox step lease: broken pipe", unix.EPIPE},
		{step("lease", step("mount /x", unix.ENOENT)), "sandbox step mount /x: no such file or directory", unix.ENOENT},
		{step("lease", errors.New("odd")), "sandbox step lease: odd", nil},
	} {
		if c.err.Error() != c.want || c.is != nil && !errors.Is(c.err, c.is) || errors.Is(c.err, unix.ENOTSUP) || errors.Is(c.err, unix.Errno(0)) {
			t.Errorf("%q, want %q, is %v", c.err, c.want, c.is)
		}
	}
	if step("lease", nil) != nil {
		t.Error("no error has a step")
	}
}
