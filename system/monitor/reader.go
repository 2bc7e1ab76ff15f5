package monitor

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"
)

// maxBuffers is how many tracks a reader reads ahead in at once.
const maxBuffers = 16

// reader walks the stored records of many tracks in the order of their numbers, from
// one number to another. It holds a bounded number of buffers and no descriptor.
type reader struct {
	// pos is the number up to which everything was returned; until is the last one.
	pos, until uint64
	cursors    cursorHeap
	buffered   []*cursor
	deleted    []record
	// remarks are what is to be said before the next record.
	remarks []record
}

// cursor is a reader's place in one track.
type cursor struct {
	series   *series
	track    *track
	segments []segment // this one and those after it
	scan     scanner
	// head is a number that the next record's is not below.
	head uint64
	// next is the next record, when it was read already; it began at off, and the one
	// before had the number after.
	next  *record
	off   int64
	after uint64
}

type cursorHeap []*cursor

func (h cursorHeap) Len() int           { return len(h) }
func (h cursorHeap) Less(i, j int) bool { return h[i].head < h[j].head }
func (h cursorHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *cursorHeap) Push(x any)        { *h = append(*h, x.(*cursor)) }
func (h *cursorHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	*h = old[:len(old)-1]
	return c
}

// read starts a reader of what is stored now after number pos. With complete set, a
// record after pos that was removed to make room is remarked.
func (st *store) read(f filter, pos uint64, complete bool) *reader {
	st.mu.Lock()
	rd := &reader{pos: pos, until: st.numbers.last}
	for _, r := range st.deleted {
		if r.sequence > pos && f.kinds&wantEvents != 0 && f.match(r.series.name, r.series.tier) {
			rd.deleted = append(rd.deleted, r)
		}
	}
	st.mu.Unlock()
	if pos >= rd.until {
		return rd
	}
	for _, s := range st.all() {
		if !f.match(s.name, s.tier) {
			continue
		}
		s.mu.Lock()
		for _, t := range s.tracks() {
			if s.gone || f.kinds&t.wanted() == 0 {
				continue
			}
			if err := t.check(rd.until); err != nil {
				st.note("check the log of %s: %v", s.name, err)
				continue
			}
			if complete && t.removed > pos {
				rd.remark(s, "records up to number %d were removed to make room before they could be sent", t.removed)
			}
			rd.add(s, t)
		}
		s.mu.Unlock()
	}
	heap.Init(&rd.cursors)
	return rd
}

// add puts a cursor at the first segment that may hold something after pos. The
// caller holds s.mu.
func (rd *reader) add(s *series, t *track) {
	if t.last <= rd.pos || len(t.segments) == 0 {
		return
	}
	i := 0
	for i+1 < len(t.segments) && t.segments[i+1].first <= rd.pos+1 {
		i++
	}
	c := &cursor{series: s, track: t, segments: slices.Clone(t.segments[i:])}
	c.start()
	rd.cursors = append(rd.cursors, c)
}

// start begins the cursor's first segment.
func (c *cursor) start() {
	seg := c.segments[0]
	c.scan = scanner{path: c.track.path(seg), end: seg.size, after: seg.first - 1, buf: c.scan.buf[:0]}
	c.head = max(c.head, seg.first)
}

func (rd *reader) remark(s *series, format string, args ...any) {
	rd.remarks = append(rd.remarks, record{
		series: s, sequence: rd.pos, time: time.Now().UnixNano(), kind: kindSolo, text: fmt.Appendf(nil, format, args...),
	})
}

// next returns the next record, io.EOF when there is none up to until. Its text is
// valid until the call after.
func (rd *reader) next() (*record, error) {
	for {
		if len(rd.remarks) > 0 {
			r := rd.remarks[0]
			rd.remarks = rd.remarks[1:]
			return &r, nil
		}
		var c *cursor
		if len(rd.cursors) > 0 {
			c = rd.cursors[0]
		}
		if len(rd.deleted) > 0 && rd.deleted[0].sequence <= rd.until && (c == nil || rd.deleted[0].sequence < c.head) {
			r := rd.deleted[0]
			rd.deleted = rd.deleted[1:]
			rd.pos = r.sequence
			return &r, nil
		}
		if c == nil || c.head > rd.until {
			rd.pos = rd.until
			return nil, io.EOF
		}
		if c.next == nil {
			more, err := rd.advance(c)
			if err != nil {
				return nil, err
			}
			if !more {
				c.scan.release()
				heap.Pop(&rd.cursors)
				continue
			}
			c.head = c.next.sequence
			heap.Fix(&rd.cursors, 0)
			continue // it may be another's turn, or there may be something to remark
		}
		r := c.next
		c.next, c.head = nil, c.head+1
		rd.pos = r.sequence
		// No other cursor's record can have this number: the order holds until the
		// next call looks at this cursor's next record.
		heap.Fix(&rd.cursors, 0)
		return r, nil
	}
}

// advance reads the cursor's next record after pos; false at the end of the track.
func (rd *reader) advance(c *cursor) (bool, error) {
	rd.buffer(c)
	for {
		c.off, c.after = c.scan.off, c.scan.after
		r, err := c.scan.next()
		switch {
		case err == nil && r.sequence <= rd.pos:
			continue
		case err == nil:
			r.series = c.series
			c.next = &r
			return true, nil
		case errors.Is(err, fs.ErrNotExist):
			if !c.series.isGone() {
				rd.remark(c.series, "records were removed to make room before they could be sent")
			}
		case errors.Is(err, errShort), errors.Is(err, errCorrupt):
			rd.remark(c.series, "the rest of a damaged log file is left out")
		case !errors.Is(err, io.EOF):
			return false, err
		}
		if len(c.segments) == 1 {
			return false, nil
		}
		c.segments = c.segments[1:]
		c.start()
	}
}

func (s *series) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// buffer lets c read ahead, and takes another's buffer away if there are too many.
func (rd *reader) buffer(c *cursor) {
	if c.scan.buf != nil {
		return
	}
	if len(rd.buffered) == maxBuffers {
		old := rd.buffered[0]
		rd.buffered = append(rd.buffered[:0], rd.buffered[1:]...)
		old.drop()
	}
	rd.buffered = append(rd.buffered, c)
}

// drop gives the cursor's buffer back; what was read ahead is read again.
func (c *cursor) drop() {
	if c.next != nil {
		c.next, c.scan.off, c.scan.after = nil, c.off, c.after
	}
	c.scan.release()
}
