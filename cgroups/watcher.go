package cgroups

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// EventKind is what a Watcher saw.
type EventKind uint8

const (
	// Empty: no process lives in the group and below any more. It comes at
	// least once after the last one died, and may be repeated.
	Empty EventKind = iota + 1
	// OOM: the kernel killed processes for lack of memory. Count is OOMKills.
	OOM
	// PidsMax: forks were refused. Count is PidsMaxEvents.
	PidsMax
	// MemoryHigh: the group was slowed down (v2). Count is MemoryHighEvents.
	MemoryHigh
	// MemoryMark: the usage rose over the mark given to SetMark. Count is the
	// usage in bytes.
	MemoryMark
)

func (k EventKind) String() string {
	switch k {
	case Empty:
		return "empty"
	case OOM:
		return "oom"
	case PidsMax:
		return "pids-max"
	case MemoryHigh:
		return "memory-high"
	case MemoryMark:
		return "memory-mark"
	}
	return "unknown"
}

// Event is one thing that happened to a watched group. Several of a kind that
// happen within some milliseconds may be told as one.
type Event struct {
	// Key is what the caller gave to Add.
	Key   string
	Kind  EventKind
	Count uint64
}

// Watcher tells what happens to any number of groups. It holds two descriptors
// (an inotify instance and an eventfd), one goroutine and, per group, one to
// three inotify watches.
//
// How each event is noticed:
//
//	             v2                            v1-hybrid
//	Empty        inotify on cgroup.events      the same
//	PidsMax      inotify on pids.events        read pids.events by time
//	OOM          inotify on memory.events      eventfd on memory.oom_control, counters
//	MemoryHigh   inotify on memory.events      never
//	MemoryMark   read memory.current by time   eventfd on memory.usage_in_bytes
//
// (v1's pids.events signals nothing, measured on Linux 6.18.) By time is every
// lookInterval, or less often with hundreds of groups.
//
// All v1 groups share the eventfd: it also fires when a group is removed, so a
// wake-up says only "look". It comes before the killed process is counted;
// the counters are therefore looked at for oomSettle more, and only if the
// host's own count of OOM kills has moved.
type Watcher struct {
	inotify int
	event   int
	closing atomic.Bool
	ended   chan struct{}
	ready   chan struct{}

	mu     sync.Mutex
	groups map[string]*watched
	files  map[int32]watchedFile
	// pending holds what Take has not fetched, in order, one of a kind for each
	// group: it is bounded by the groups.
	pending []Event
	closed  bool
	// timed is how many groups were looked at by time, at the last look.
	timed int
	// oomTotal is the host's count at the last look.
	oomTotal uint64
}

// watched is a group's state; Watcher.mu guards it.
type watched struct {
	group     *Group
	key       string
	watches   []int32
	populated bool
	frozen    uint64
	ooms      uint64
	pidsMax   uint64
	highs     uint64
	mark      uint64
	overMark  bool
}

type watchedFile struct {
	w     *watched
	check func(*Watcher, *watched)
}

const (
	// lookInterval is how often the files are read that signal nothing.
	lookInterval = 250 * time.Millisecond
	// lookPause is what each group that is looked at adds at least to it.
	lookPause = time.Millisecond
	// oomSettle is how long after a v1 OOM notification its kill may be counted.
	oomSettle = 600 * time.Millisecond
)

// ErrClosed is returned by Add and SetMark of a closed Watcher.
var ErrClosed = errors.New("watcher is closed")

// NewWatcher starts a watcher; Close ends it. Its goroutine blocks a thread in
// poll(2).
func NewWatcher() (*Watcher, error) {
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
		inotify: in, event: ev,
		ended: make(chan struct{}), ready: make(chan struct{}, 1),
		groups: map[string]*watched{}, files: map[int32]watchedFile{},
	}
	if w.oomTotal, err = hostOOMKills(); err != nil {
		w.release()
		return nil, fmt.Errorf("watch groups: %w", err)
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

func (w *Watcher) release() {
	_ = unix.Close(w.inotify)
	_ = unix.Close(w.event)
}

// Close stops the goroutine, waits for it and closes the descriptors. Closing twice
// is fine.
func (w *Watcher) Close() error {
	w.mu.Lock()
	first := !w.closed
	w.closed = true
	w.mu.Unlock()
	if first {
		w.closing.Store(true)
		w.wake()
		<-w.ended
		w.release()
	}
	return nil
}

func (w *Watcher) wake() {
	// An eventfd counter that is full is readable already.
	_, _ = retry(func() (int, error) { return unix.Write(w.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
}

// Add watches a group under a key, which must not be in use. Counters count from
// now, and Empty comes when the group loses its last process; whether it already
// had none is for the caller to ask (Populated) after Add.
func (w *Watcher) Add(g *Group, key string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
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
	if n.timed() && w.timed == 0 {
		w.wake()
	}
	return nil
}

// Remove stops watching a group and drops its events that were not taken. It is to
// be called before the group is removed and does nothing for an unknown key.
func (w *Watcher) Remove(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.groups[key]; n != nil && !w.closed {
		w.detach(n)
	}
	delete(w.groups, key)
	w.pending = slices.DeleteFunc(w.pending, func(e Event) bool { return e.Key == key })
}

// SetMark asks for MemoryMark when the usage of a watched group rises over bytes;
// zero asks for none. It comes again only after the usage was seen below.
func (w *Watcher) SetMark(key string, bytes uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("mark %q: %w", key, ErrClosed)
	}
	n := w.groups[key]
	if n == nil {
		return fmt.Errorf("mark %q: not watched: %w", key, unix.ENOENT)
	}
	if bytes != 0 && n.group.h.mode == V1Hybrid {
		if err := w.notifyV1(n.group, "memory.usage_in_bytes", " "+decimal(bytes)); err != nil {
			return fmt.Errorf("mark group %s: %w", n.group.path, err)
		}
	}
	n.mark, n.overMark = bytes, false
	w.wake()
	return nil
}

// attach registers first and reads second, so that no change falls between.
func (w *Watcher) attach(n *watched) error {
	if err := w.watch(n, n.group.file("cgroup.events"), (*Watcher).checkPopulated); err != nil {
		return err
	}
	if n.group.h.mode == V2 {
		if err := w.watch(n, n.group.pidsEvents(), (*Watcher).checkPids); err != nil {
			return err
		}
		if err := w.watch(n, n.group.file("memory.events"), (*Watcher).checkMemory); err != nil {
			return err
		}
	} else if err := w.notifyV1(n.group, "memory.oom_control", ""); err != nil {
		return err
	}
	content, err := readFile(n.group.file("cgroup.events"))
	if err != nil {
		return err
	}
	if n.populated, n.frozen, err = parseEvents(content); err != nil {
		return err
	}
	if n.pidsMax, err = n.group.PidsMaxEvents(); err != nil {
		return err
	}
	if n.highs, err = n.group.MemoryHighEvents(); err != nil {
		return err
	}
	n.ooms, err = n.group.OOMKills()
	return err
}

func (w *Watcher) watch(n *watched, file string, check func(*Watcher, *watched)) error {
	wd, err := retry(func() (int, error) { return unix.InotifyAddWatch(w.inotify, file, unix.IN_MODIFY) })
	if err != nil {
		return fmt.Errorf("inotify_add_watch %s: %w", file, err)
	}
	w.files[int32(wd)] = watchedFile{w: n, check: check}
	n.watches = append(n.watches, int32(wd))
	return nil
}

func (w *Watcher) detach(n *watched) {
	for _, wd := range n.watches {
		delete(w.files, wd)
		// EINVAL: the group was removed and the watch with it.
		_, _ = unix.InotifyRmWatch(w.inotify, uint32(wd))
	}
	n.watches = nil
}

// notifyV1 has the shared eventfd signalled by a v1 memory group, until the group
// is removed or the eventfd closed (cgroup-v1/memory.rst, sections 9 and 10).
func (w *Watcher) notifyV1(g *Group, name, argument string) error {
	file := g.v1File("memory", name)
	fd, err := open(file, unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer func() { _ = unix.Close(fd) }()
	control := path.Join(path.Dir(file), "cgroup.event_control")
	return writeFile(control, fmt.Sprintf("%d %d%s", w.event, fd, argument))
}

// timed tells whether something of the group has to be looked at by time.
func (n *watched) timed() bool { return n.group.h.mode == V1Hybrid || n.mark != 0 }

func parseEvents(content string) (populated bool, frozen uint64, err error) {
	n, err := parseKeyed(content, "populated")
	if err != nil {
		return false, 0, err
	}
	frozen, err = parseKeyed(content, "frozen")
	return n != 0, frozen, err
}
