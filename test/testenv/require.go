// Package testenv is what Solo's tests share: what they need of the host, how long
// they may take, which programs they run, and what they must not leave behind.
//
// The environment that steers it:
//
//	SOLO_REQUIRE  needs, separated by commas, whose absence fails instead of skips
//	SOLO_LONG=1   the large budgets of `make test-long`
//	SOLO_SEED=N   repeats a random test
//	SOLO_VM=1     the tests run in test/vm, where everything is slow
//	SOLO_BIN      Solo's programs; without it they are built
package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Need is something that a test cannot do without and a host may lack.
type Need string

// The needs. SOLO_REQUIRE uses these names.
const (
	Root     Need = "root"     // uid 0
	Cgroup   Need = "cgroup"   // groups can be made in cgroup v2 or the v1 hierarchies
	Cgroup2  Need = "cgroup2"  // the controllers are those of cgroup v2
	UserNS   Need = "userns"   // user namespaces can be made
	Seccomp  Need = "seccomp"  // filters can be loaded
	Landlock Need = "landlock" // ABI 2 or later
	Python   Need = "python"   // Debian's /usr/bin/python3
	Redis    Need = "redis"    // redis-server, redis-cli, redis-benchmark
	Tools    Need = "tools"    // grpcurl, curl, jq
)

// probes answer why a need is not met.
var probes = map[Need]func() error{
	Root: func() error {
		if uid := os.Geteuid(); uid != 0 {
			return fmt.Errorf("uid is %d", uid)
		}
		return nil
	},
	Cgroup: probeCgroup,
	Cgroup2: func() error {
		var st unix.Statfs_t
		if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
			return err
		}
		if st.Type != unix.CGROUP2_SUPER_MAGIC {
			return errors.New("/sys/fs/cgroup is not cgroup2")
		}
		return nil
	},
	UserNS: func() error {
		cmd := exec.Command("/bin/true")
		cmd.SysProcAttr = userNamespace()
		return cmd.Run()
	},
	Seccomp: func() error {
		actions, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
		if err != nil {
			return err
		}
		if !slices.Contains(strings.Fields(string(actions)), "errno") {
			return errors.New("no seccomp filters")
		}
		return nil
	},
	Landlock: func() error {
		// landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION.
		abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1)
		if errno != 0 {
			return errno
		}
		if abi < 2 {
			return fmt.Errorf("its ABI is %d", abi)
		}
		return nil
	},
	Python: programs("/usr/bin/python3"),
	Redis:  programs("redis-server", "redis-cli"),
	Tools:  programs("grpcurl", "curl", "jq"),
}

func probeCgroup() error {
	for _, dir := range []string{"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs"} {
		if unix.Access(dir, unix.W_OK) == nil {
			return nil
		}
	}
	return errors.New("no writable cgroup hierarchy")
}

func programs(names ...string) func() error {
	return func() error {
		for _, name := range names {
			if _, err := exec.LookPath(name); err != nil {
				return err
			}
		}
		return nil
	}
}

// probed holds each probe's answer for this process.
var probed sync.Map

func met(n Need) error {
	if err, ok := probed.Load(n); ok {
		err, _ := err.(error)
		return err
	}
	probe, ok := probes[n]
	if !ok {
		return fmt.Errorf("testenv knows no need %q", n)
	}
	err := probe()
	probed.Store(n, err)
	return err
}

// required are the needs that SOLO_REQUIRE names.
func required() ([]Need, error) {
	var list []Need
	for name := range strings.SplitSeq(os.Getenv("SOLO_REQUIRE"), ",") {
		n := Need(strings.TrimSpace(name))
		if n == "" {
			continue
		}
		if _, ok := probes[n]; !ok {
			return nil, fmt.Errorf("SOLO_REQUIRE names %q, which is no need", n)
		}
		list = append(list, n)
	}
	return list, nil
}

// Require skips the test on a host that lacks one of the needs, and fails it where
// SOLO_REQUIRE names that need.
func Require(t testing.TB, needs ...Need) {
	t.Helper()
	must, err := required()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range needs {
		err := met(n)
		switch {
		case err == nil:
		case slices.Contains(must, n):
			t.Fatalf("needs %s, which SOLO_REQUIRE promises: %v", n, err)
		default:
			t.Skipf("needs %s: %v", n, err)
		}
	}
}

// RequireRoot is Require(t, Root).
func RequireRoot(t testing.TB) {
	t.Helper()
	Require(t, Root)
}

// RequireSandbox asks for all that a sandbox takes.
func RequireSandbox(t testing.TB) {
	t.Helper()
	Require(t, Root, Cgroup, UserNS, Seccomp, Landlock)
}
