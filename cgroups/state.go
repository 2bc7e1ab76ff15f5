package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Kill sends SIGKILL to every process in the group and below, atomically with
// respect to forks, also to frozen ones (cgroup.kill). It does not wait: see
// WaitEmpty. A group that is gone has nobody left to kill: no error.
func (g *Group) Kill() error {
	if err := writeFile(g.file("cgroup.kill"), "1"); err != nil && !gone(err) {
		return fmt.Errorf("kill group %s: %w", g.path, err)
	}
	return nil
}

// WaitEmpty blocks until no process lives in the group and below, or ctx ends.
// A group that does not exist is empty.
func (g *Group) WaitEmpty(ctx context.Context) error {
	if err := g.waitState(ctx, "populated", 0); err != nil {
		return fmt.Errorf("wait until group %s is empty: %w", g.path, err)
	}
	return nil
}

// Freeze stops every process in the group and below and waits until all are
// stopped or ctx ends; then the group may be partly frozen and stays so.
func (g *Group) Freeze(ctx context.Context) error {
	if err := writeFile(g.file("cgroup.freeze"), "1"); err != nil {
		return fmt.Errorf("freeze group %s: %w", g.path, err)
	}
	if err := g.waitState(ctx, "frozen", 1); err != nil {
		return fmt.Errorf("freeze group %s: %w", g.path, err)
	}
	return nil
}

// Thaw lets them go on. It does not wait.
func (g *Group) Thaw() error {
	if err := writeFile(g.file("cgroup.freeze"), "0"); err != nil {
		return fmt.Errorf("thaw group %s: %w", g.path, err)
	}
	return nil
}

// pollSlice is how long a wait sits in poll(2) before it looks at its context.
const pollSlice = 20 * time.Millisecond

// waitState waits until a key of cgroup.events has a value. The file wakes
// poll(2) with POLLPRI whenever it changes after a read. The group's absence is
// an error only when it should be frozen.
func (g *Group) waitState(ctx context.Context, key string, want uint64) error {
	f, err := os.Open(g.file("cgroup.events"))
	if want == 0 && gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, 256)
	for {
		n, err := f.ReadAt(buf, 0)
		if want == 0 && gone(err) {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		now, err := parseKeyed(string(buf[:n]), key)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		if now == want {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		set := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(set, int(pollSlice.Milliseconds())); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll %s: %w", f.Name(), err)
		}
	}
}
