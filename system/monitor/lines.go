package monitor

import (
	"bytes"
	"time"
)

// splitter cuts a stream of bytes into lines of at most maxLine bytes. Every byte
// but the newlines is handed on once and in order.
type splitter struct {
	// rest is the beginning of a line whose end has not come; at most maxLine bytes.
	rest []byte
}

// emit takes one line, or with partial a piece of one that goes on in the next call.
// The text is valid during the call only.
type emit func(text []byte, partial bool)

// write takes more of the stream.
func (s *splitter) write(data []byte, out emit) {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			s.push(data, out)
			return
		}
		if len(s.rest) == 0 && end <= maxLine {
			out(data[:end], false)
		} else {
			s.push(data[:end], out)
			s.finish(false, out)
		}
		data = data[end+1:]
	}
}

// push adds a part of a line. A line of exactly maxLine bytes waits for its newline.
func (s *splitter) push(part []byte, out emit) {
	for len(s.rest)+len(part) > maxLine {
		n := maxLine - len(s.rest)
		if len(s.rest) == 0 {
			out(part[:n], true)
		} else {
			s.rest = append(s.rest, part[:n]...)
			s.finish(true, out)
		}
		part = part[n:]
	}
	s.rest = append(s.rest, part...)
}

// finish hands on what is held as a line or as a piece of one.
func (s *splitter) finish(partial bool, out emit) {
	out(s.rest, partial)
	if cap(s.rest) > maxLine/4 {
		s.rest = nil // most sources never need so much
	} else {
		s.rest = s.rest[:0]
	}
}

// flush hands on what is held, if anything is.
func (s *splitter) flush(partial bool, out emit) {
	if len(s.rest) > 0 {
		s.finish(partial, out)
	}
}

// minBurst is what a source may write at once however low its rate is.
const minBurst = 64 << 10

// maxGrace bounds, in seconds, what a bucket collects while its source waits for us.
const maxGrace = 30

// bucket is a token bucket: rate bytes a second, and a second's worth (at least
// minBurst) at once.
type bucket struct {
	rate   float64
	tokens float64
	last   time.Time
}

func newBucket(rate uint64, now time.Time) *bucket {
	b := &bucket{rate: float64(rate), last: now}
	b.tokens = b.burst()
	return b
}

func (b *bucket) burst() float64 { return max(b.rate, minBurst) }

// fill adds the tokens of the time that has passed waiting for the source.
func (b *bucket) fill(now time.Time) {
	if b.tokens < b.burst() {
		b.tokens = min(b.tokens+b.earned(now), b.burst())
	}
	b.last = now
}

// grace adds the tokens of the time that the source has waited for us: what it could
// not write meanwhile does not count against it later.
func (b *bucket) grace(now time.Time) {
	b.tokens = min(b.tokens+b.earned(now), maxGrace*b.burst())
	b.last = now
}

func (b *bucket) earned(now time.Time) float64 {
	return max(0, now.Sub(b.last).Seconds()) * b.rate
}

// take spends n tokens if there are so many.
func (b *bucket) take(n int) bool {
	if b.tokens < float64(n) {
		return false
	}
	b.tokens -= float64(n)
	return true
}
