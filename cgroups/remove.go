package cgroups

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// removePatience bounds how long Remove waits for a group that the kernel still
// holds busy: a task that has exited leaves its groups a little later.
const removePatience = 2 * time.Second

// Remove removes the group and all groups below it in every mounted hierarchy,
// including those where a container library made it. A group that does not exist
// is no error. It retries for up to two seconds while the kernel says EBUSY; with
// living processes it fails with that.
func (g *Group) Remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), removePatience)
	defer cancel()
	return g.remove(ctx)
}

func (g *Group) remove(ctx context.Context) error {
	children, err := g.Children()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := child.remove(ctx); err != nil {
			return err
		}
	}
	for _, dir := range g.everywhere() {
		if err := rmdir(ctx, dir); err != nil {
			return fmt.Errorf("remove group %s: %w", g.path, err)
		}
	}
	return nil
}

func rmdir(ctx context.Context, dir string) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := unix.Rmdir(dir)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("rmdir %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("rmdir %s: %w", dir, err)
		case <-time.After(pause):
		}
	}
}

// RemoveTree kills everything in the group and below, waits until it is gone and
// removes the groups in all hierarchies. It also finds processes that are in the
// v1 hierarchies only and groups frozen by the v1 freezer, as a container library
// leaves them when it dies half way. It goes on while others fork into the tree
// or make groups in it, until ctx ends.
func (g *Group) RemoveTree(ctx context.Context) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		if err := g.Kill(); err != nil {
			return err
		}
		if err := g.killStrays(); err != nil {
			return err
		}
		// A short try: what keeps it busy is killed in the next round.
		try, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err := g.WaitEmpty(try)
		if err == nil {
			err = g.remove(try)
		}
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("remove tree %s: %w", g.path, err)
		case !errors.Is(err, unix.EBUSY) && !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("remove tree %s: %w", g.path, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// killStrays kills the processes that sit in the group or below in some v1
// hierarchy, whatever their cgroup2 group is.
func (g *Group) killStrays() error {
	if len(g.h.v1) == 0 {
		return nil
	}
	children, err := g.Children()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := child.killStrays(); err != nil {
			return err
		}
	}
	for _, m := range g.h.v1 {
		dir := path.Join(m.dir, g.path)
		if slices.Contains(m.controllers, "freezer") {
			// A task frozen in a v1 freezer dies only when it is thawed.
			if err := writeFile(path.Join(dir, "freezer.state"), "THAWED"); err != nil && !gone(err) {
				return fmt.Errorf("thaw group %s: %w", g.path, err)
			}
		}
		if err := killMembers(path.Join(dir, "cgroup.procs")); err != nil {
			return fmt.Errorf("kill group %s: %w", g.path, err)
		}
	}
	return nil
}

// killMembers kills the processes listed in a cgroup.procs file. A pid may be
// reused between reading and killing: it is held by a pidfd and looked up again
// before the signal.
func killMembers(file string) error {
	pids, err := readProcs(file)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := killMember(file, pid); err != nil {
			return err
		}
	}
	return nil
}

func killMember(file string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	still, err := readProcs(file)
	if gone(err) || err == nil && !slices.Contains(still, pid) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %d: %w", pid, err)
	}
	return nil
}
