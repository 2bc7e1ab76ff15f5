package testenv

import (
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Long reports whether the tests may take their large budgets.
func Long() bool { return os.Getenv("SOLO_LONG") != "" }

// VM reports whether the tests run in test/vm.
func VM() bool { return os.Getenv("SOLO_VM") != "" }

// vmFactor is how much longer things may take under qemu without acceleration.
const vmFactor = 20

// Scale stretches a time limit to where the tests run. Limits are for hangs only:
// no test asserts how long something takes.
func Scale(d time.Duration) time.Duration {
	if VM() {
		return d * vmFactor
	}
	return d
}

// Seed is the seed of a random test: SOLO_SEED, or another one each time. A failing
// test prints it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SOLO_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SOLO_SEED: %v", err)
		}
	}
	t.Logf("repeat with SOLO_SEED=%d", seed)
	return seed
}

// Rand is a source of random numbers from Seed.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(Seed(t), 0))
}

// Eventually waits until ready reports true, for at most Scale(limit), and fails the
// test with what it was waiting for.
func Eventually(t testing.TB, limit time.Duration, what string, ready func() bool) {
	t.Helper()
	deadline := time.Now().Add(Scale(limit))
	for !ready() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", Scale(limit), what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// userNamespace asks for a child in a user namespace of its own.
func userNamespace() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
}
