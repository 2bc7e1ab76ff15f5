package sandbox

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// MinLandlock is the lowest Landlock ABI that Solo runs on (Linux 5.19).
const MinLandlock = 2

// LandlockABI asks the running system once (landlock_create_ruleset(2)).
var LandlockABI = sync.OnceValues(func() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("landlock: %w", errno)
	}
	if int(abi) < MinLandlock {
		return int(abi), fmt.Errorf("landlock ABI %d is older than the %d that Solo needs", abi, MinLandlock)
	}
	return int(abi), nil
})

const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_EXECUTE
	landlockWrite = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR |
		unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE
	landlockDevice = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// landlock is what a service may do with files, for a Landlock ABI: it reads and
// executes what its root holds, and writes to the devices and below writable.
func landlock(abi int, writable []string) (handled, scoped uint64, rules []*controlv1.LandlockRule) {
	handled = uint64(unix.LANDLOCK_ACCESS_FS_EXECUTE) | uint64(landlockWrite) |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	if abi < 3 {
		handled &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 6 {
		scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	add := func(path string, access uint64) {
		rules = append(rules, &controlv1.LandlockRule{Path: []byte(path), Access: access & handled})
	}
	add("/", landlockRead)
	add("/dev", landlockDevice)
	for _, w := range writable {
		add(w, landlockWrite)
	}
	return handled, scoped, rules
}
