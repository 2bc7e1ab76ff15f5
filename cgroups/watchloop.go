package cgroups

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// run is the watcher's goroutine: it sits in poll(2) on both descriptors and
// wakes by time only while v1 OOM kills may still be counted or v2 marks are set.
func (w *Watcher) run() {
	defer close(w.ended)
	var settle time.Time
	pause := oomPause
	moved := false
	buf := make([]byte, 16<<10)
	for {
		set := []unix.PollFd{
			{Fd: int32(w.inotify), Events: unix.POLLIN},
			{Fd: int32(w.event), Events: unix.POLLIN},
		}
		settling := time.Now().Before(settle)
		_, err := unix.Poll(set, w.timeout(settling, pause))
		if w.closing.Load() {
			return
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			// Only a bug of ours (EFAULT, EINVAL) or a lack of kernel memory:
			// go on by time rather than spin.
			time.Sleep(markInterval)
		}
		if set[0].Revents != 0 {
			w.readInotify(buf)
		}
		if set[1].Revents != 0 {
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
		}
		w.checkMarks()
	}
}

// oomPause is the first of the growing pauses between looks at the OOM count.
const oomPause = 4 * time.Millisecond

// timeout is poll's, in milliseconds.
func (w *Watcher) timeout(settling bool, pause time.Duration) int {
	d := time.Duration(-1)
	if settling {
		d = pause
	}
	if w.marked() && (d < 0 || d > markInterval) {
		d = markInterval
	}
	if d < 0 {
		return -1
	}
	return max(1, int(d.Milliseconds()))
}

// marked tells whether marks have to be looked at by time.
func (w *Watcher) marked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.groups {
		if n.mark != 0 && n.group.h.mode == V2 {
			return true
		}
	}
	return false
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

// checkMarks compares the usage of marked groups with their marks.
func (w *Watcher) checkMarks() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.groups {
		if n.mark == 0 {
			continue
		}
		usage, err := readValue(n.group.usageFiles()[0])
		if err != nil {
			continue
		}
		over := usage > n.mark
		if over && !n.overMark {
			w.put(Event{Key: n.key, Kind: MemoryMark, Count: usage})
		}
		n.overMark = over
	}
}

// hostOOMKills is the host's count of processes killed for lack of memory,
// whatever limit it was.
func hostOOMKills() (uint64, error) {
	return readKeyed("/proc/vmstat", "oom_kill")
}
