package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/sandbox"
	"github.com/solo-os/solo/seccomp/profiles"
)

const (
	defaultPool = 4
	maxPool     = 256
	// preparing is how many shells the launcher makes at once.
	preparing = 2
	// endTimeout bounds the wait for a killed group to be empty.
	endTimeout = 30 * time.Second
)

// shell is a sandbox the kernel knows, idle or leased.
type shell struct {
	*sandbox.Shell
	group *cgroups.Group
	rng   uint32
	// inst is set while it is leased. Only the owner touches it.
	inst *instance
	// said is closed when solo-init's last message has been posted.
	said chan struct{}
}

// shells are the launcher, the pool, and the ranges of host ids.
type shells struct {
	k        *Kernel
	launcher *sandbox.Launcher
	byID     map[string]*shell
	idle     []*shell
	waiting  []taker
	orders   int
	target   int
	// resting says that a shell could not be made: the pool is left alone for a while.
	resting bool
	ranges  []uint32
	next    uint64
	filters map[string][]byte
}

// taker is an instance that waits for a shell.
type taker struct {
	inst  *instance
	found func(*shell, error)
}

func newShells(k *Kernel) *shells {
	s := &shells{k: k, byID: map[string]*shell{}, filters: map[string][]byte{}}
	switch n := int(k.boot.GetConfig().GetPoolSize()); {
	case n == 0:
		s.target = defaultPool
	case n > 0:
		s.target = min(n, maxPool)
	}
	for i := k.boot.GetIdRanges(); i > 0; i-- {
		s.ranges = append(s.ranges, i-1)
	}
	return s
}

// launcherFrom takes a new launcher's connection.
func (s *shells) launcherFrom(f *os.File) {
	conn, err := ipc.FileConn(f)
	if err != nil {
		say("launcher: %v", err)
		return
	}
	if s.launcher != nil {
		s.launcher.Close()
	}
	s.launcher = sandbox.NewLauncher(conn, func() {})
	s.k.post(s.order)
}

// compile has the launcher turn every profile into BPF, once.
func (s *shells) compile() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range profiles.Names() {
		text, err := profiles.Read(name)
		if err != nil {
			return err
		}
		filter, err := s.launcher.Compile(ctx, text)
		if err != nil {
			return fmt.Errorf("compile seccomp profile %s: %w", name, err)
		}
		s.filters[name] = filter
	}
	return nil
}

// take calls back with a blank shell, at once if one waits.
func (s *shells) take(inst *instance, found func(*shell, error)) {
	if len(s.idle) > 0 {
		sh := s.idle[0]
		s.idle = s.idle[1:]
		found(sh, nil)
		// Refill after the lease, which is what somebody waits for.
		s.k.later(5*time.Millisecond, s.order)
		return
	}
	s.waiting = append(s.waiting, taker{inst, found})
	s.order()
}

// cancel calls back for an instance that does not want a shell any more.
func (s *shells) cancel(inst *instance, why error) {
	for i, w := range s.waiting {
		if w.inst == inst {
			s.waiting = slices.Delete(s.waiting, i, i+1)
			w.found(nil, why)
			return
		}
	}
}

func (s *shells) order() {
	if s.k.ending.begun {
		waiting := s.waiting
		s.waiting = nil
		for _, w := range waiting {
			w.found(nil, errShuttingDown())
		}
		return
	}
	wanted := len(s.waiting)
	if !s.resting {
		wanted += max(0, s.target-len(s.idle))
	}
	for s.orders < min(preparing, wanted) {
		s.orders++
		s.prepare(tierUser, false, func(sh *shell, err error) {
			s.orders--
			s.arrived(sh, err)
			s.k.ending.check()
		})
	}
}

func (s *shells) arrived(sh *shell, err error) {
	switch {
	case err != nil && len(s.waiting) > 0:
		w := s.waiting[0]
		s.waiting = s.waiting[1:]
		w.found(nil, err)
	case err != nil:
		say("prepare shell: %v", err)
		s.resting = true
		s.k.later(time.Second, func() {
			s.resting = false
			s.order()
		})
		return
	case s.k.ending.begun:
		_ = sh.group.Kill()
	case len(s.waiting) > 0:
		w := s.waiting[0]
		s.waiting = s.waiting[1:]
		w.found(sh, nil)
	default:
		s.idle = append(s.idle, sh)
	}
	s.order()
}

// reservedRanges are id ranges for Solo's own services, so that they can be replaced on
// a full host.
const reservedRanges = 16

// prepare makes one shell; done is called by the owner, later.
func (s *shells) prepare(t tier, hostNetwork bool, done func(*shell, error)) {
	refuse := func(err error) { s.k.post(func() { done(nil, err) }) }
	left := len(s.ranges)
	if t == tierUser {
		left -= reservedRanges
	}
	if left <= 0 {
		refuse(control.Errorf(control.ResourceExhausted, "RESOURCE_EXHAUSTED", "no host id range is left: %d sandboxes exist", len(s.byID)).With("resource", "ids"))
		return
	}
	rng := s.ranges[len(s.ranges)-1]
	s.ranges = s.ranges[:len(s.ranges)-1]
	s.next++
	id := fmt.Sprintf("%s-%d-%d", t.directory()[:1], s.k.record.generation, s.next)
	order := &controlv1.Prepare{
		ShellId: id, Cgroup: s.k.boot.GetCgroupRoot() + "/" + t.directory() + "/" + id,
		IdBase: s.k.boot.GetIdBase() + rng*sandbox.IDs, HostNetwork: hostNetwork,
	}
	group, err := s.k.hier.Open(order.GetCgroup())
	if err != nil {
		s.ranges = append(s.ranges, rng)
		refuse(err)
		return
	}
	launcher := s.launcher
	go func() {
		made, err := launcher.Prepare(context.Background(), order)
		if err == nil {
			err = s.k.watch.Add(group, id)
			if err != nil {
				made.Close()
			}
		}
		if err != nil {
			removeGroup(group)
			s.k.post(func() {
				s.ranges = append(s.ranges, rng)
				if errors.Is(err, sandbox.ErrLauncherGone) && !s.k.ending.begun {
					// The next launcher is on its way.
					s.k.later(20*time.Millisecond, func() { s.prepare(t, hostNetwork, done) })
					return
				}
				done(nil, err)
			})
			return
		}
		sh := &shell{Shell: made, group: group, rng: rng, said: make(chan struct{})}
		s.k.post(func() {
			s.byID[id] = sh
			go s.k.listenInit(sh)
			go s.k.reap(sh)
			done(sh, nil)
		})
	}()
}

// listenInit posts what solo-init says, until it ends or lies.
func (k *Kernel) listenInit(sh *shell) {
	defer close(sh.said)
	for {
		m := &controlv1.InitReport{}
		files, cred, err := sh.Control.Receive(m)
		var protocol *ipc.ProtocolError
		if errors.As(err, &protocol) {
			k.post(func() { k.shellLied(sh, protocol) })
			return
		}
		if errors.Is(err, unix.EMFILE) {
			// Something is lost, and it is our own fault.
			k.post(func() { k.shellLost(sh, err) })
			return
		}
		if err != nil {
			return
		}
		k.post(func() { k.initReport(sh, m, files, cred) })
	}
}

func (k *Kernel) shellLied(sh *shell, why error) {
	say("solo-init of %s: %v", sh.ID, why)
	if sh.inst != nil {
		k.end(sh.inst, reasonProtocol)
		return
	}
	_ = sh.group.Kill()
}

// shellLost ends a shell whose reports cannot be received.
func (k *Kernel) shellLost(sh *shell, why error) {
	say("solo-init of %s: %v", sh.ID, why)
	if sh.inst != nil {
		sh.inst.failure = "sandbox step control connection: " + why.Error()
		k.end(sh.inst, "")
		return
	}
	_ = sh.group.Kill()
}

// after is what is known when an instance's processes are gone.
type after struct {
	// oom and pids count kills for lack of memory, and forks that were refused.
	oom   uint64
	pids  uint64
	usage cgroups.Usage
	err   error
}

// reap waits for the end of a shell, clears its group and posts what is known.
func (k *Kernel) reap(sh *shell) {
	err := sandbox.WaitExit(sh.PidFD)
	var a after
	if err != nil {
		a.err = err
	}
	_ = sh.group.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := sh.group.WaitEmpty(ctx); err != nil {
		a.err = err
	}
	<-sh.said
	a.oom, _ = sh.group.OOMKills()
	a.pids, _ = sh.group.PidsMaxEvents()
	a.usage, _ = sh.group.Usage()
	k.watch.Remove(sh.ID)
	if err := sh.group.Remove(); err != nil {
		a.err = err
	}
	k.post(func() { k.shellGone(sh, a) })
}

// shellGone is the last event of a shell.
func (k *Kernel) shellGone(sh *shell, a after) {
	s := k.shells
	delete(s.byID, sh.ID)
	if a.err != nil {
		// Its group may still hold processes: its ids are not used again.
		say("end of %s: %v", sh.ID, a.err)
	} else {
		s.ranges = append(s.ranges, sh.rng)
	}
	for i, idle := range s.idle {
		if idle == sh {
			s.idle = append(s.idle[:i], s.idle[i+1:]...)
			break
		}
	}
	sh.Close()
	if sh.inst != nil {
		k.instanceGone(sh.inst, a)
	}
	if !k.ending.begun {
		s.order()
	}
	k.ending.check()
}

// strays ends the shells that nothing above has ended: there should be none.
func (s *shells) strays() {
	for _, sh := range s.byID {
		if sh.inst != nil {
			say("%s of %s was left", sh.ID, sh.inst.svc.name)
		}
		_ = sh.group.Kill()
	}
}

// drain ends every idle shell.
func (s *shells) drain() {
	for _, sh := range s.idle {
		_ = sh.group.Kill()
	}
	s.idle = nil
}

func removeGroup(g *cgroups.Group) {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := g.RemoveTree(ctx); err != nil {
		say("remove %s: %v", g.Path(), err)
	}
}
