package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reserve is how many numbers are set aside at once.
const reserve = 1 << 16

// numbers gives out sequence numbers that no process before has given out. A file
// holds a number that has not been reached: the next process goes on from there, so
// after a crash some are left out, and none comes twice. The file's lock keeps two
// processes apart.
type numbers struct {
	note          note
	last, ceiling uint64
	file          *os.File
}

const numbersFile = ".sequence"

// open reads the file in dir; known is false when it said nothing of use.
func (n *numbers) open(dir string, wait time.Duration) (known bool, err error) {
	f, err := os.OpenFile(filepath.Join(dir, numbersFile), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, filePerm)
	if err != nil {
		return false, fmt.Errorf("open log store: %w", err)
	}
	if err := lock(f, time.Now().Add(wait)); err != nil {
		_ = f.Close()
		return false, fmt.Errorf("open log store: another process has it: %w", err)
	}
	b := make([]byte, 32)
	size, _ := f.ReadAt(b, 0)
	n.file = f
	last, err := strconv.ParseUint(strings.TrimSpace(string(b[:size])), 10, 62)
	if err != nil {
		return false, nil
	}
	n.last, n.ceiling = last, last
	return true, nil
}

// lock takes the file's lock, for which it waits until the deadline.
func lock(f *os.File, deadline time.Time) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond) // the process before is about to end
	}
}

// take returns the first of k numbers.
func (n *numbers) take(k uint64) uint64 {
	first := n.last + 1
	n.last += k
	if n.last > n.ceiling {
		n.ceiling = n.last + reserve
		if err := n.write(n.ceiling); err != nil {
			n.note("set numbers aside: %v", err) // a crash now may repeat numbers
		}
	}
	return first
}

func (n *numbers) write(ceiling uint64) error {
	// One write of fixed length within a sector: it is there or not.
	if _, err := n.file.WriteAt(fmt.Appendf(nil, "%020d\n", ceiling), 0); err != nil {
		return err
	}
	return unix.Fdatasync(int(n.file.Fd()))
}

// close gives the numbers that were set aside back.
func (n *numbers) close() error {
	err := n.write(n.last)
	if errors.Is(err, unix.ENOSPC) {
		err = nil // the next process goes on from the ceiling
	}
	return errors.Join(err, n.file.Close())
}
