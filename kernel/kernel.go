// Package kernel owns Solo's state: which services there are, which instances live,
// and who may ask for what. One goroutine, Run's, owns all of it; readers of
// connections and timers send it events, and effects that may take long run beside
// it and come back as events.
//
// Trust: runs as root in an empty network namespace. Everything from a service, and
// every request that the gateway passes on, is untrusted.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/library"
	"github.com/solo-os/solo/kernel/store"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/sandbox"
)

// Kernel is the whole state. Only the goroutine in Run touches it; the fields marked
// fixed never change after Start and may be read from anywhere.
type Kernel struct {
	boot  *controlv1.Boot // fixed
	inbox map[string]*os.File
	root  *peer
	store *store.Store       // fixed
	hier  *cgroups.Hierarchy // fixed
	watch *cgroups.Watcher   // fixed
	code  *library.Library   // fixed
	files *filesystem

	events *queue
	begun  time.Time

	tokens   control.Table
	services map[string]*service
	// reserved are names whose deployment is under way.
	reserved map[string]bool
	shells   *shells
	system   *systemServices
	ports    *ports
	api      *api
	record   *record
	ending   *ending
}

// Start makes a kernel from solod's first message and the files that came with it,
// in the order of boot.Names. It takes ownership of root and files, and recovers what
// the store says should run. Run must follow.
func Start(root *ipc.Conn, boot *controlv1.Boot, files ipc.Files) (*Kernel, error) {
	if len(files) != len(boot.GetNames()) {
		return nil, fmt.Errorf("boot message has %d names for %d descriptors", len(boot.GetNames()), len(files))
	}
	k := &Kernel{
		boot: boot, inbox: map[string]*os.File{}, events: newQueue(), begun: time.Now(),
		services: map[string]*service{}, reserved: map[string]bool{}, tokens: control.Table{},
	}
	for i, name := range boot.GetNames() {
		k.inbox[name] = files[i]
	}
	for _, name := range []string{"launcher", "api.sock", "metrics.sock"} {
		if k.inbox[name] == nil {
			return nil, fmt.Errorf("boot message lacks the descriptor %q", name)
		}
	}
	var err error
	if k.hier, err = cgroups.Mount(); err != nil {
		return nil, err
	}
	if k.hier, err = k.hier.Below(boot.GetCgroupRoot()); err != nil {
		return nil, err
	}
	if err := errors.Join(k.sweep(), prepareState(boot.GetStateDir())); err != nil {
		return nil, err
	}
	if k.watch, err = cgroups.NewWatcher(k.hier); err != nil {
		return nil, err
	}
	if k.code, err = library.Open(boot.GetStateDir()); err != nil {
		return nil, err
	}
	if k.files, err = newFilesystem(k); err != nil {
		return nil, err
	}
	if k.store, err = store.Open(filepath.Join(boot.GetStateDir(), "state.db"), time.Now); err != nil {
		return nil, err
	}
	k.root = newPeer(root)
	k.shells = newShells(k)
	k.ports = newPorts(k)
	k.api = newAPI(k)
	k.record = &record{k: k}
	k.ending = &ending{k: k}
	k.system = newSystemServices(k)
	return k, nil
}

// post hands an event to the owner. It may be called from any goroutine and never
// blocks.
func (k *Kernel) post(event func()) { k.events.put(event) }

// do hands an event to the owner and waits until it has run: a reader that uses it
// has at most one event waiting, however much its peer sends. It must not be called by
// the owner.
func (k *Kernel) do(event func()) {
	done := make(chan struct{})
	k.post(func() {
		defer close(done)
		event()
	})
	<-done
}

// later runs an event after d, unless the timer is stopped.
func (k *Kernel) later(d time.Duration, event func()) *time.Timer {
	return time.AfterFunc(d, func() { k.post(event) })
}

// uptime is the monotonic time that pure packages get.
func (k *Kernel) uptime() time.Duration { return time.Since(k.begun) }

// Run is the kernel's life. It returns nil after an orderly stop and an error when
// the kernel cannot go on; solod then starts another.
func (k *Kernel) Run() error {
	st, err := k.store.Load()
	if err != nil {
		return err
	}
	k.record.generation = st.Generation
	k.shells.launcherFrom(k.inbox["launcher"])
	go k.receiveRoot()
	if err := k.loadTokens(st); err != nil {
		return err
	}
	if err := k.shells.compile(); err != nil {
		return err
	}
	// What the host offers is asked before the filter forbids to ask.
	if _, err := sandbox.LandlockABI(); err != nil {
		return err
	}
	if err := confine(k.shells.filters["kernel"]); err != nil {
		return err
	}
	k.recover(st)
	for !k.ending.done {
		select {
		case <-k.events.wake:
			for _, event := range k.events.take() {
				event()
			}
		case <-k.watch.Ready():
			for _, e := range k.watch.Take() {
				k.limitEvent(e)
			}
		}
	}
	return errors.Join(k.ending.err, k.store.Close(), k.watch.Close())
}

// recover brings back what was deployed: the system services first, then everything
// whose desired state is running.
func (k *Kernel) recover(st store.State) {
	k.record.commit(store.Change{Audit: []store.Entry{{
		Operation: "boot", Actor: "kernel", Object: k.boot.GetVersion(), Result: "ok",
		Detail: [][2]string{{"generation", fmt.Sprint(st.Generation)}},
	}}}, nil)
	k.api.remember(st.Requests)
	names := make([]string, 0, len(st.Services))
	for name, rec := range st.Services {
		k.services[name] = &service{k: k, name: name, rec: rec, tier: tierUser, durable: true}
		names = append(names, name)
	}
	slices.Sort(names)
	k.system.start(func() {
		for _, name := range names {
			if s := k.services[name]; s != nil && s.rec.GetDesired() == desiredRunning {
				k.revive(s)
			}
		}
		if err := k.root.send(&controlv1.RootReport{Report: &controlv1.RootReport_Running{Running: &controlv1.Running{}}}); err != nil {
			k.fail(err)
		}
		k.shells.order()
	})
}

// receiveRoot reads solod's orders. When solod is gone the kernel ends: the next one
// kills what is left and starts anew.
func (k *Kernel) receiveRoot() {
	for {
		m := &controlv1.RootOrder{}
		files, _, err := k.root.conn.Receive(m)
		if err != nil {
			k.post(func() { k.fail(fmt.Errorf("connection to solod: %w", err)) })
			return
		}
		k.post(func() {
			switch o := m.GetOrder().(type) {
			case *controlv1.RootOrder_Stop:
				k.ending.begin(time.Duration(o.Stop.GetTimeoutMs()) * time.Millisecond)
			case *controlv1.RootOrder_NewLauncher:
				if len(files) == 1 {
					k.shells.launcherFrom(files[0])
					files = nil
				}
			case *controlv1.RootOrder_Boot, nil:
			}
			files.Close()
		})
	}
}

// fail ends the kernel at once.
func (k *Kernel) fail(err error) {
	if !k.ending.done {
		k.ending.done, k.ending.err = true, err
	}
}

// limitEvent takes what the cgroups report.
func (k *Kernel) limitEvent(e cgroups.Event) {
	sh := k.shells.byID[e.Key]
	if sh == nil || sh.inst == nil {
		return
	}
	k.instanceLimit(sh.inst, e)
}

// sweep ends what an earlier kernel left: groups of services that nobody supervises.
func (k *Kernel) sweep() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, tier := range tiers {
		group, err := k.hier.Open(k.boot.GetCgroupRoot() + "/" + tier.directory())
		if err != nil {
			return err
		}
		if err := group.RemoveTree(ctx); err != nil {
			return fmt.Errorf("sweep %s: %w", group.Path(), err)
		}
		if err := group.Create(); err != nil {
			return err
		}
		if err := group.Set(tier.limits()); err != nil {
			return err
		}
	}
	return nil
}

// chance is the randomness of backoff; it protects nothing.
func chance() float64 { return rand.Float64() }

// say writes one line to the operator.
func say(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")
	fmt.Fprintln(os.Stderr, "solo-kernel: "+line)
}
