package root

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
)

// clearPatience bounds how long the end of everything below the root may take.
const clearPatience = 30 * time.Second

// groups are the cgroups that solod keeps: itself, the launcher and the kernel each
// in one below the root. The kernel makes those of services.
type groups struct {
	root, self, launcher, kernel *cgroups.Group

	unified string
	before  *cgroups.Placement
	// ours says that the root is of our making, not a unit's.
	ours bool
}

// openGroups finds the root: what the flag names, else the unit's own group under
// systemd, else one named after the state directory.
func openGroups(root string, seed [sha256.Size]byte) (*groups, error) {
	h, err := cgroups.Mount()
	if err != nil {
		return nil, fmt.Errorf("%w: Solo needs cgroup v2, or v1 with cgroup2 mounted beside it", err)
	}
	at, err := h.Current()
	if err != nil {
		return nil, err
	}
	own := at.Group()
	systemd := os.Getenv("NOTIFY_SOCKET") != "" || os.Getenv("INVOCATION_ID") != ""
	switch {
	case root != "":
	case systemd && own != "/":
		root = own
	default:
		root = fmt.Sprintf("/solo-%x", seed[:4])
	}
	if strings.HasPrefix(own, root+"/") {
		return nil, fmt.Errorf("solod was started in group %s, below its --cgroup-root %s: start it outside", own, root)
	}
	if h, err = h.Below(root); err != nil {
		return nil, err
	}
	g := &groups{unified: h.Unified(), ours: strings.HasPrefix(root, "/solo") && own != root}
	for _, c := range []struct {
		name  string
		group **cgroups.Group
	}{{"", &g.root}, {"/solod", &g.self}, {"/launcher", &g.launcher}, {"/kernel", &g.kernel}} {
		if *c.group, err = h.Open(root + c.name); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// enter kills what an earlier run left, and moves this process to its group.
func (g *groups) enter() error {
	// The state directory's lock says that its solod is gone. This one tells whether
	// one of another state directory was given the same root.
	if err := g.lock(); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := g.clear(); err != nil {
		return err
	}
	var err error
	if g.before, err = g.self.MoveSelf(); err != nil {
		return err
	}
	if err := g.lock(); err != nil {
		return err
	}
	return errors.Join(g.launcher.Create(), g.kernel.Create())
}

// lock holds a file of our group that only root can open, until the end.
func (g *groups) lock() error {
	fd, err := unix.Open(path.Join(g.unified, g.self.Path(), "cgroup.kill"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open group %s: %w", g.self.Path(), err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("cgroup root %s is in use by another solod: choose another with --cgroup-root", g.root.Path())
	}
	return nil
}

// clear kills and removes everything below the root but this process's own group.
func (g *groups) clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), clearPatience)
	defer cancel()
	children, err := g.root.Children()
	if err != nil {
		return err
	}
	for _, c := range children {
		if g.before == nil || c.Path() != g.self.Path() {
			err = errors.Join(err, c.RemoveTree(ctx))
		}
	}
	return err
}

// leave moves this process back and removes the rest.
func (g *groups) leave() error {
	if g.before == nil {
		return nil
	}
	err := errors.Join(g.clear(), g.before.Restore())
	if g.ours {
		return errors.Join(err, g.root.Remove())
	}
	return errors.Join(err, g.self.Remove())
}
