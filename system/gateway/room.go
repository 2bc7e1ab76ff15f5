package gateway

import (
	"container/list"
	"time"
)

// How the connections of one listener share its MaxConnections places.
const (
	// proveTime is how long a connection may stay unproven. It is long enough for
	// the largest message over a slow line.
	proveTime = 30 * time.Second
	// turnTime is how long a connection keeps its place for certain, so that a client
	// is proven before others that only reconnect can push it out. A place is not free
	// earlier when its holder leaves unproven: so there are at most MaxConnections new
	// connections each turnTime, and time to serve them.
	turnTime = 500 * time.Millisecond
	// askTime is how long the kernel may take to refuse a call for its token; it does
	// so at once. A call that it keeps for longer has passed that check.
	askTime = 100 * time.Millisecond
)

// room decides who has a place at one listener:
//
//	          enter                  proved
//	(waiting) ─────▶ unproven ──────────────────▶ proven
//	                    │ pushed out, expired, leaves  │ leaves
//	                    ▼                              ▼
//	                  free after turnTime            free
//
// It holds no lock and does nothing but count; see gate.
type room struct {
	// places is how many connections may be open.
	places int
	// taken counts the places that are not free.
	taken int
	// unproven holds those of connections that are not proven or have left so, oldest
	// first.
	unproven list.List
}

// place is what room knows of one connection.
type place struct {
	conn *connection
	// since is when it entered.
	since time.Time
	// entry is its entry of room.unproven; nil when it is not there.
	entry *list.Element
	// asking counts its calls at the kernel that have no answer yet.
	asking int
	// askedAt is when the first of them was asked, or the last other one ended.
	askedAt time.Time
	// entered and left say where in its life it is.
	entered, left bool
}

// enter gives p a place. When none is free, the oldest unproven place is taken from
// its holder, who is returned; when it is too early for that, wait says for how long.
// Without all of these p is refused: every place is proven, or has a call at the
// kernel that is good for proof.
func (r *room) enter(p *place, now time.Time) (out *place, wait time.Duration, entered bool) {
	if r.taken >= r.places {
		r.sweep(now)
	}
	if r.taken >= r.places {
		if out = r.oldest(now); out == nil {
			return nil, 0, false
		}
		if wait = turnTime - now.Sub(out.since); wait > 0 {
			return nil, wait, false
		}
		r.leave(out, now)
	}
	r.taken++
	p.since, p.entered = now, true
	p.entry = r.unproven.PushBack(p)
	return out, 0, true
}

// sweep frees the places whose turn has ended after their holders left.
func (r *room) sweep(now time.Time) {
	var next *list.Element
	for e := r.unproven.Front(); e != nil; e = next {
		next = e.Next()
		p := e.Value.(*place)
		if now.Sub(p.since) < turnTime {
			return
		}
		if p.left {
			r.free(p)
		}
	}
}

// oldest is the unproven place to go next, or nil.
func (r *room) oldest(now time.Time) *place {
	for e := r.unproven.Front(); e != nil; e = e.Next() {
		if p := e.Value.(*place); !p.heard(now) {
			return p
		}
	}
	return nil
}

// heard reports whether the kernel works on a call of p for so long that it must
// have found its token good. The proof is the answer, which may take minutes.
func (p *place) heard(now time.Time) bool {
	return !p.left && p.asking > 0 && now.Sub(p.askedAt) >= askTime
}

// leave ends p's place; it reports whether it had one.
func (r *room) leave(p *place, now time.Time) bool {
	if !p.entered || p.left {
		return false
	}
	p.left = true
	if p.entry == nil || now.Sub(p.since) >= turnTime {
		r.free(p)
	}
	return true
}

// free lets the next one have p's place.
func (r *room) free(p *place) {
	r.taken--
	r.prove(p)
}

// prove takes p out of those that may be pushed out.
func (r *room) prove(p *place) {
	if p.entry != nil {
		r.unproven.Remove(p.entry)
		p.entry = nil
	}
}

// asks counts a call to the kernel in.
func (p *place) asks(now time.Time) {
	if p.asking++; p.asking == 1 {
		p.askedAt = now
	}
}

// answered counts a call to the kernel out; known says that the kernel knew its
// token, whatever else it answered. After any other end, also when the client gave
// the call up, nothing speaks for the calls that are left.
func (r *room) answered(p *place, known bool, now time.Time) {
	p.asking--
	p.askedAt = now
	if known && !p.left {
		r.prove(p)
	}
}

// proven reports whether p can no longer be pushed out.
func (p *place) proven() bool { return p.entered && !p.left && p.entry == nil }
