package cgroups

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// oomPause is the first of the growing pauses between looks at the OOM count.
const oomPause = 4 * time.Millisecond

// run is the watcher's goroutine: it sits in poll(2) on both descriptors and wakes
// by time while v1 OOM kills may still be counted, and for what signals nothing.
func (w *Watcher) run() {
	defer close(w.ended)
	var settle, look time.Time
	pause := oomPause
	moved := false
	buf := make([]byte, 16<<10)
	for {
		set := []unix.PollFd{
			{Fd: int32(w.inotify), Events: unix.POLLIN},
			{Fd: int32(w.event), Events: unix.POLLIN},
		}
		wait := time.Until(look)
		if look.IsZero() {
			wait = -1
		} else {
			wait = max(wait, 0)
		}
		settling := time.Now().Before(settle)
		if settling && (wait < 0 || wait > pause) {
			wait = pause
		}
		_, err := unix.Poll(set, milliseconds(wait))
		if w.closing.Load() {
			return
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			// Only a bug of ours (EFAULT, EINVAL) or a lack of kernel memory:
			// go on by time rather than spin.
			time.Sleep(lookInterval)
		}
		if set[0].Revents != 0 {
			w.readInotify(buf)
		}
		woken := set[1].Revents != 0
		if woken {
			w.drainEventfd()
			settle, pause = time.Now().Add(oomSettle), oomPause
			moved = moved && settling
			settling = true
		} else if settling {
			pause *= 2
		}
		if settling {
			moved = w.hostMoved() || moved
			if moved {
				w.checkOOM()
			}
			w.checkMarks()
		}
		if due := !look.IsZero() && !time.Now().Before(look); due || woken && look.IsZero() {
			look = w.checkTimed()
		}
	}
}

// milliseconds rounds up for poll(2), so that it does not wake early and spin.
func milliseconds(d time.Duration) int {
	if d < 0 {
		return -1
	}
	return int((d + time.Millisecond - 1) / time.Millisecond)
}

func (w *Watcher) drainEventfd() {
	var count [8]byte
	_, _ = retry(func() (int, error) { return unix.Read(w.event, count[:]) })
}

// readInotify takes one buffer of events; what is left wakes poll again.
func (w *Watcher) readInotify(buf []byte) {
	n, err := retry(func() (int, error) { return unix.Read(w.inotify, buf) })
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[int32]bool{}
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		b = b[min(size, len(b)):]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			for wd, f := range w.files {
				if !seen[wd] {
					seen[wd] = true
					f.check(w, f.w)
				}
			}
		case mask&unix.IN_IGNORED != 0:
			delete(w.files, wd)
		case !seen[wd]:
			if f, ok := w.files[wd]; ok {
				seen[wd] = true
				f.check(w, f.w)
			}
		}
	}
}

// The checks read a file again and compare. A group that is gone is empty; the
// caller learns the rest from the group itself.

func (w *Watcher) checkPopulated(n *watched) {
	content, err := readFile(n.group.file("cgroup.events"))
	populated, frozen := false, n.frozen
	if err == nil {
		if populated, frozen, err = parseEvents(content); err != nil {
			return
		}
	} else if !gone(err) {
		return
	}
	// A change that left neither trace was a process that came and went.
	emptied := !populated && (n.populated || frozen == n.frozen)
	n.populated, n.frozen = populated, frozen
	if emptied {
		w.put(Event{Key: n.key, Kind: Empty})
	}
}

func (w *Watcher) checkPids(n *watched) {
	count, err := n.group.PidsMaxEvents()
	w.grown(n, &n.pidsMax, count, err, PidsMax)
}

func (w *Watcher) checkMemory(n *watched) {
	count, err := n.group.OOMKills()
	w.grown(n, &n.ooms, count, err, OOM)
	count, err = n.group.MemoryHighEvents()
	w.grown(n, &n.highs, count, err, MemoryHigh)
}

func (w *Watcher) grown(n *watched, last *uint64, now uint64, err error, kind EventKind) {
	if err == nil && now > *last {
		*last = now
		w.put(Event{Key: n.key, Kind: kind, Count: now})
	}
}

// hostMoved tells whether the host's count of OOM kills has changed since the
// last look, or cannot be told.
func (w *Watcher) hostMoved() bool {
	total, err := hostOOMKills()
	w.mu.Lock()
	defer w.mu.Unlock()
	moved := err != nil || total != w.oomTotal
	if err == nil {
		w.oomTotal = total
	}
	return moved
}

// checkOOM looks at the counters of all groups. Once the host's count has moved it
// is called at every further look of the settling time, since a group's counter is
// raised a little after the host's.
func (w *Watcher) checkOOM() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.groups {
		count, err := n.group.OOMKills()
		w.grown(n, &n.ooms, count, err, OOM)
	}
}

// checkTimed looks at what signals nothing, and says when to look again: never, the
// zero time, if there is no such group.
func (w *Watcher) checkTimed() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timed = 0
	for _, n := range w.groups {
		if !n.timed() {
			continue
		}
		w.timed++
		if n.group.h.mode == V1Hybrid {
			w.checkPids(n)
		}
		if n.mark != 0 {
			w.checkMark(n)
		}
	}
	if w.timed == 0 {
		return time.Time{}
	}
	return time.Now().Add(max(lookInterval, time.Duration(w.timed)*lookPause))
}

// checkMarks looks at the groups that have one.
func (w *Watcher) checkMarks() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.groups {
		if n.mark != 0 {
			w.checkMark(n)
		}
	}
}

func (w *Watcher) checkMark(n *watched) {
	usage, err := readValue(n.group.usageFiles()[0])
	if err != nil {
		return
	}
	over := usage > n.mark
	if over && !n.overMark {
		w.put(Event{Key: n.key, Kind: MemoryMark, Count: usage})
	}
	n.overMark = over
}

// hostOOMKills is the host's count of processes killed for lack of memory,
// whatever limit it was.
func hostOOMKills() (uint64, error) {
	return readKeyed("/proc/vmstat", "oom_kill")
}
