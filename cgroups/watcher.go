package cgroups

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// EventKind is what a Watcher saw.
type EventKind uint8

const (
	// OOM: the kernel killed processes for lack of memory. Count is OOMKills.
	OOM EventKind = iota + 1
	// PidsMax: forks were refused. Count is PidsMaxEvents.
	PidsMax
)

// Event is one thing that happened to a watched group. Several of a kind that
// happen within some milliseconds may be told as one.
type Event struct {
	// Key is what the caller gave to Add.
	Key   string
	Kind  EventKind
	Count uint64
}

// Watcher tells what happens to any number of groups. It holds two descriptors
// (an inotify instance and an eventfd), one goroutine and, per group of a v2 host, two
// inotify watches.
//
// How each event is noticed:
//
//	          v2                            v1-hybrid
//	OOM       inotify on memory.events      eventfd on memory.oom_control, counters
//	PidsMax   inotify on pids.events        read pids.events by time
//
// (v1's pids.events signals nothing, measured on Linux 6.18.) By time is every
// lookInterval, or less often with hundreds of groups.
//
// All v1 groups share the eventfd: it also fires when a group is removed, so a
// wake-up says only "look". It comes before the killed process is counted; so the
// looks that follow begin close together. The groups' counters are looked at only when
// the host's own count of OOM kills has moved, and for oomSettle more, since a group's
// is raised a little later.
type Watcher struct {
	v2      bool
	inotify int
	event   int
	closed  atomic.Bool
	ended   chan struct{}
	ready   chan struct{}

	mu     sync.Mutex
	groups map[string]*watched
	files  map[int32]*watched // by inotify watch
	// pending holds what Take has not fetched, in order, one of a kind for each
	// group: it is bounded by the groups.
	pending []Event
}

// watched is a group's state; Watcher.mu guards it.
type watched struct {
	group   *Group
	key     string
	watches []int32
	ooms    uint64
	pidsMax uint64
}

const (
	// lookInterval is how often the files are read that signal nothing.
	lookInterval = 250 * time.Millisecond
	// lookPause is what each group that is looked at adds at least to it.
	lookPause = time.Millisecond
	// oomPause is the first of the growing pauses between looks after a wake-up.
	oomPause = 4 * time.Millisecond
	// oomSettle is how long after the host's count a v1 group's may be raised.
	oomSettle = 600 * time.Millisecond
)

// ErrClosed is returned by Add of a closed Watcher.
var ErrClosed = errors.New("watcher is closed")

// NewWatcher starts a watcher of groups of h; Close ends it. Its goroutine blocks a
// thread in poll(2).
func NewWatcher(h *Hierarchy) (*Watcher, error) {
	in, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch groups: inotify_init1: %w", err)
	}
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(in)
		return nil, fmt.Errorf("watch groups: eventfd: %w", err)
	}
	w := &Watcher{
		v2: h.mode == V2, inotify: in, event: ev,
		ended: make(chan struct{}), ready: make(chan struct{}, 1),
		groups: map[string]*watched{}, files: map[int32]*watched{},
	}
	go w.run()
	return w, nil
}

// Ready has a value when Take has something to give; it may have one when it has
// not.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Take fetches what happened since the last Take, in order. Events of one kind
// that happened to one group meanwhile are one, with the latest count.
func (w *Watcher) Take() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.pending
	w.pending = nil
	return events
}

// put queues an event; w.mu is held.
func (w *Watcher) put(e Event) {
	for i := range w.pending {
		if w.pending[i].Key == e.Key && w.pending[i].Kind == e.Kind {
			w.pending[i].Count = e.Count
			return
		}
	}
	w.pending = append(w.pending, e)
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Close stops the goroutine, waits for it and closes the descriptors. Closing twice
// is fine.
func (w *Watcher) Close() error {
	w.mu.Lock()
	before := w.closed.Swap(true)
	w.mu.Unlock()
	if before {
		return nil
	}
	_, _ = unix.Write(w.event, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-w.ended
	return errors.Join(unix.Close(w.inotify), unix.Close(w.event))
}

// Add watches a group under a key, which must not be in use. Counters count from now.
func (w *Watcher) Add(g *Group, key string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed.Load() {
		return fmt.Errorf("watch group %s: %w", g.path, ErrClosed)
	}
	if w.groups[key] != nil {
		return fmt.Errorf("watch group %s: key %q: %w", g.path, key, unix.EEXIST)
	}
	n := &watched{group: g, key: key}
	if err := w.attach(n); err != nil {
		w.detach(n)
		return fmt.Errorf("watch group %s: %w", g.path, err)
	}
	w.groups[key] = n
	return nil
}

// Remove stops watching a group and drops its events that were not taken. It is to
// be called before the group is removed and does nothing for an unknown key.
func (w *Watcher) Remove(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.groups[key]; n != nil && !w.closed.Load() {
		w.detach(n)
	}
	delete(w.groups, key)
	w.pending = slices.DeleteFunc(w.pending, func(e Event) bool { return e.Key == key })
}

// attach registers first and reads second, so that no change falls between.
func (w *Watcher) attach(n *watched) (err error) {
	if w.v2 {
		err = cmp.Or(w.watch(n, n.group.file("memory.events")), w.watch(n, n.group.pidsEvents()))
	} else {
		err = w.notifyV1(n.group)
	}
	if err != nil {
		return err
	}
	if n.pidsMax, err = n.group.PidsMaxEvents(); err != nil {
		return err
	}
	n.ooms, err = n.group.OOMKills()
	return err
}

func (w *Watcher) watch(n *watched, file string) error {
	wd, err := unix.InotifyAddWatch(w.inotify, file, unix.IN_MODIFY)
	if err != nil {
		return fmt.Errorf("inotify_add_watch %s: %w", file, err)
	}
	w.files[int32(wd)] = n
	n.watches = append(n.watches, int32(wd))
	return nil
}

func (w *Watcher) detach(n *watched) {
	for _, wd := range n.watches {
		delete(w.files, wd)
		// EINVAL: the group was removed and the watch with it.
		_, _ = unix.InotifyRmWatch(w.inotify, uint32(wd))
	}
}

// notifyV1 has the shared eventfd signalled by a v1 memory group's OOM kills, until the
// group is removed or the eventfd closed (cgroup-v1/memory.rst, section 10).
func (w *Watcher) notifyV1(g *Group) error {
	f, err := os.Open(g.v1File("memory", "memory.oom_control"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return writeFile(g.v1File("memory", "cgroup.event_control"), fmt.Sprintf("%d %d", w.event, f.Fd()))
}
