package cgroups

import (
	"context"
	"fmt"
	"io/fs"
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

// Populated tells whether a process lives in the group or below. Zombies do not
// count. A group that does not exist is not populated.
func (g *Group) Populated() (bool, error) {
	n, err := readKeyed(g.file("cgroup.events"), "populated")
	if err != nil && !gone(err) {
		return false, fmt.Errorf("look into group %s: %w", g.path, err)
	}
	return err == nil && n != 0, nil
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

// Frozen tells whether every process in the group and below is stopped.
func (g *Group) Frozen() (bool, error) {
	n, err := readKeyed(g.file("cgroup.events"), "frozen")
	if err != nil {
		return false, fmt.Errorf("look into group %s: %w", g.path, err)
	}
	return n == 1, nil
}

// pollSlice is how long a wait sits in poll(2) before it looks at its context.
const pollSlice = 20 * time.Millisecond

// waitState waits until a key of cgroup.events has a value. The file wakes
// poll(2) with POLLPRI whenever it changes after a read. The group's absence is
// an error only when it should be frozen.
func (g *Group) waitState(ctx context.Context, key string, want uint64) error {
	file := g.file("cgroup.events")
	fd, err := open(file, unix.O_RDONLY)
	if err != nil {
		if want == 0 && gone(err) {
			return nil
		}
		return &fs.PathError{Op: "open", Path: file, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	for {
		content, err := readAll(fd)
		if err != nil {
			if want == 0 && gone(err) {
				return nil
			}
			return &fs.PathError{Op: "read", Path: file, Err: err}
		}
		now, err := parseKeyed(content, key)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if now == want {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		if _, err := unix.Poll(set, int(pollSlice.Milliseconds())); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll %s: %w", file, err)
		}
	}
}
