package monitor

const (
	ringRecords = 4096
	ringBytes   = 2 << 20
)

// ring holds the newest records, without a gap in their numbers, for watchers that
// are up to date. It is filled while there are watchers.
type ring struct {
	records []*record // circular, allocated at the first push
	start   int
	n       int
	bytes   int
	// last is the number of the newest record, in the ring or not.
	last uint64
}

// reset empties the ring; last is the number before the next record's.
func (r *ring) reset(last uint64) { *r = ring{last: last} }

// push adds the next record and removes the oldest ones beyond the bounds.
func (r *ring) push(rec *record) {
	if r.records == nil {
		r.records = make([]*record, ringRecords)
	}
	for r.n > 0 && (r.n == ringRecords || r.bytes+rec.encodedSize() > ringBytes) {
		r.bytes -= r.records[r.start].encodedSize()
		r.records[r.start] = nil
		r.start = (r.start + 1) % ringRecords
		r.n--
	}
	r.records[(r.start+r.n)%ringRecords] = rec
	r.n++
	r.bytes += rec.encodedSize()
	r.last = rec.sequence
}

// after appends to dst the records after number pos, at most max of them; ok is false
// when the ring no longer has the first of them.
func (r *ring) after(dst []*record, pos uint64, max int) (_ []*record, ok bool) {
	if pos >= r.last {
		return dst, true
	}
	missing := r.last - pos
	if missing > uint64(r.n) {
		return dst, false
	}
	for i := r.n - int(missing); i < r.n && max > 0; i++ {
		dst = append(dst, r.records[(r.start+i)%ringRecords])
		max--
	}
	return dst, true
}
