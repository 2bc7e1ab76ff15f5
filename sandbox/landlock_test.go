package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// The first ABI's file rights but those of devices, and what later ABIs added
// (landlock(7)).
const (
	readExecute = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_EXECUTE
	abi1        = 1<<13 - 1
	abi2        = abi1 | unix.LANDLOCK_ACCESS_FS_REFER
	abi3        = abi2 | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	scopes      = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	// noWriter is what no rule for a writable directory gives.
	noWriter = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
)

func TestLandlockByABI(t *testing.T) {
	rule := func(path string, access uint64) *controlv1.LandlockRule {
		return &controlv1.LandlockRule{Path: []byte(path), Access: access}
	}
	for _, c := range []struct {
		abi             int
		handled, scoped uint64
	}{
		{2, abi2, 0},
		{3, abi3, 0},
		{4, abi3, 0},
		{5, abi3, 0}, // ioctl on devices is not handled: the devices are harmless
		{6, abi3, scopes},
		{7, abi3, scopes},
		{100, abi3, scopes},
	} {
		handled, scoped, rules := landlock(c.abi, []string{"/tmp", "/data"})
		if handled != c.handled || scoped != c.scoped {
			t.Errorf("ABI %d: handled %#x scoped %#x, want %#x %#x", c.abi, handled, scoped, c.handled, c.scoped)
		}
		device := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE)
		if c.abi >= 3 {
			device |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
		}
		want := []*controlv1.LandlockRule{
			rule("/", readExecute), rule("/dev", device),
			rule("/tmp", c.handled&^noWriter), rule("/data", c.handled&^noWriter),
		}
		if diff := cmp.Diff(want, rules, protocmp.Transform()); diff != "" {
			t.Errorf("ABI %d: rules (-want +got):\n%s", c.abi, diff)
		}
		// An access that is not handled would be EINVAL (landlock_add_rule(2)).
		for _, r := range rules {
			if r.GetAccess()&^handled != 0 {
				t.Errorf("ABI %d: rule for %s has unhandled rights", c.abi, r.GetPath())
			}
		}
	}
}

func TestLandlockOfThisHost(t *testing.T) {
	testenv.Require(t, testenv.Landlock)
	abi, err := LandlockABI()
	if err != nil || abi < MinLandlock {
		t.Errorf("ABI %d, %v", abi, err)
	}
}
