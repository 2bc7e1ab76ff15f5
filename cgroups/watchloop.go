package cgroups

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// run is the watcher's goroutine: it sits in poll(2) on both descriptors, and on v1 also
// wakes by time.
func (w *Watcher) run() {
	defer close(w.ended)
	set := []unix.PollFd{{Fd: int32(w.inotify), Events: unix.POLLIN}, {Fd: int32(w.event), Events: unix.POLLIN}}
	v1 := looks{pause: lookInterval}
	for {
		wait := -1
		if !w.v2 {
			wait = int(v1.pause.Milliseconds())
		}
		_, err := unix.Poll(set, wait)
		if w.closed.Load() {
			return
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			// Only a bug of ours (EFAULT, EINVAL) or a lack of kernel memory:
			// go on by time rather than spin.
			time.Sleep(lookInterval)
		}
		if w.v2 {
			w.readInotify()
		} else {
			w.look(&v1)
		}
	}
}

// readInotify takes one buffer of events; what is left wakes poll again.
func (w *Watcher) readInotify() {
	var buf [16 << 10]byte
	n, err := unix.Read(w.inotify, buf[:])
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := map[*watched]bool{}
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		b = b[min(size, len(b)):]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			for _, n := range w.groups {
				changed[n] = true
			}
		case mask&unix.IN_IGNORED != 0:
			delete(w.files, wd)
		case w.files[wd] != nil:
			changed[w.files[wd]] = true
		}
	}
	for n := range changed {
		w.checkOOM(n)
		w.checkPids(n)
	}
}

// looks is when a v1 host's counters are looked at.
type looks struct {
	pause    time.Duration // until the next look
	pids     time.Time     // pids.events is read again from here on
	settle   time.Time     // the groups' OOM kills are read until here
	oomTotal uint64        // the host's count at the last look
}

// look reads the counters of a v1 host that are due.
func (w *Watcher) look(l *looks) {
	now := time.Now()
	if _, err := unix.Read(w.event, make([]byte, 8)); err == nil {
		l.pause = oomPause
	} else {
		l.pause = min(2*l.pause, lookInterval)
	}
	// The host's count of processes killed for lack of memory, whatever limit it was.
	total, err := readKeyed("/proc/vmstat", "oom_kill")
	if err != nil || total != l.oomTotal {
		l.settle = now.Add(oomSettle)
	}
	l.oomTotal = total
	settling, due := now.Before(l.settle), !now.Before(l.pids)
	w.mu.Lock()
	defer w.mu.Unlock()
	if due {
		l.pids = now.Add(max(lookInterval, time.Duration(len(w.groups))*lookPause))
	}
	for _, n := range w.groups {
		if settling {
			w.checkOOM(n)
		}
		if due {
			w.checkPids(n)
		}
	}
}

func (w *Watcher) checkOOM(n *watched) {
	count, err := n.group.OOMKills()
	w.grown(n, &n.ooms, count, err, OOM)
}

func (w *Watcher) checkPids(n *watched) {
	count, err := n.group.PidsMaxEvents()
	w.grown(n, &n.pidsMax, count, err, PidsMax)
}

func (w *Watcher) grown(n *watched, last *uint64, now uint64, err error, kind EventKind) {
	if err == nil && now > *last {
		*last = now
		w.put(Event{Key: n.key, Kind: kind, Count: now})
	}
}
