package gateway

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// held is what the model keeps of a connection: its history, nothing derived.
type held struct {
	place *place
	since time.Time
	known bool
	calls int
	// quiet is when a call was asked beside no other, or one ended.
	quiet time.Time
	// left: it has gone, and its place is kept until its turn ends.
	left bool
}

// mayGo is the rule in one sentence: no call has proven it, and none is with the
// kernel for longer than a refusal takes.
func (h *held) mayGo(now time.Time) bool {
	return h.left || !h.known && (h.calls == 0 || now.Sub(h.quiet) < askTime)
}

// TestRoom compares room with a model that looks at everybody each time.
func TestRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := room{places: rapid.IntRange(1, 4).Draw(t, "places")}
		now := time.Unix(1_000_000, 0)
		var in []*held // in the order of entering
		pick := func() *held {
			here := slices.DeleteFunc(slices.Clone(in), func(h *held) bool { return h.left })
			if len(here) == 0 {
				t.Skip("nobody is there")
			}
			return rapid.SampledFrom(here).Draw(t, "who")
		}
		taken := func() (n int) {
			for _, h := range in {
				if !h.left || now.Sub(h.since) < turnTime {
					n++
				}
			}
			return n
		}
		remove := func(h *held) {
			in = slices.DeleteFunc(in, func(other *held) bool { return other == h })
		}
		t.Repeat(map[string]func(*rapid.T){
			"enter": func(t *rapid.T) {
				var want struct {
					out     *place
					wait    time.Duration
					entered bool
				}
				got := want
				in = slices.DeleteFunc(in, func(h *held) bool { return h.left && now.Sub(h.since) >= turnTime })
				want.entered = len(in) < r.places
				var victim *held
				if !want.entered {
					if i := slices.IndexFunc(in, func(h *held) bool { return h.mayGo(now) }); i >= 0 {
						victim = in[i]
						want.wait = max(0, turnTime-now.Sub(victim.since))
						want.entered = want.wait == 0
					}
				}
				if want.entered && victim != nil {
					want.out = victim.place
					remove(victim)
				}
				p := &place{}
				got.out, got.wait, got.entered = r.enter(p, now)
				if got != want {
					t.Fatalf("entered: %+v, want %+v", got, want)
				}
				if got.entered {
					in = append(in, &held{place: p, since: now})
				} else if r.leave(p, now) {
					t.Fatal("a place that nobody had was left")
				}
			},
			"leave": func(t *rapid.T) {
				h := pick()
				if h.left = true; h.known {
					remove(h)
				}
				if first, again := r.leave(h.place, now), r.leave(h.place, now); !first || again {
					t.Fatalf("left: %v, again: %v", first, again)
				}
			},
			"ask": func(*rapid.T) {
				h := pick()
				h.place.asks(now)
				if h.calls++; h.calls == 1 {
					h.quiet = now
				}
			},
			"answer": func(t *rapid.T) {
				h := pick()
				if h.calls == 0 {
					t.Skip("no call")
				}
				known := rapid.Bool().Draw(t, "known")
				r.answered(h.place, known, now)
				h.calls--
				h.known, h.quiet = h.known || known, now
			},
			"wait": func(t *rapid.T) {
				now = now.Add(rapid.SampledFrom([]time.Duration{1, askTime - 1, askTime, turnTime - 1, turnTime}).Draw(t, "time"))
			},
			"sweep": func(t *rapid.T) {
				if r.sweep(now); r.taken != taken() {
					t.Fatalf("%d places are taken, %d by the model", r.taken, taken())
				}
			},
			"": func(t *rapid.T) {
				var want, got []bool
				for _, h := range in {
					want, got = append(want, h.known), append(got, h.place.proven())
				}
				if diff := cmp.Diff(want, got); diff != "" || r.taken < taken() || r.taken > r.places {
					t.Fatalf("%d of %d places taken, %d by the model; proven (-want +got):\n%s", r.taken, r.places, taken(), diff)
				}
			},
		})
	})
}

// TestRoomLateAnswer: an answer to a connection that has gone changes nothing.
func TestRoomLateAnswer(t *testing.T) {
	r, now := room{places: 1}, time.Now()
	var first, second, third place
	r.enter(&first, now)
	first.asks(now)
	if out, _, entered := r.enter(&second, now.Add(turnTime)); out != nil || entered {
		t.Fatalf("a call is with the kernel, and %v went for another", out)
	}
	first.asks(now.Add(turnTime))
	r.answered(&first, false, now.Add(turnTime)) // so the other call means nothing yet
	if out, _, entered := r.enter(&second, now.Add(turnTime)); out != &first || !entered {
		t.Fatalf("%v went for a new one, entered: %v", out, entered)
	}
	r.answered(&first, true, now.Add(turnTime))
	if first.proven() || r.taken != 1 {
		t.Errorf("after the answer: proven %v, %d places taken", first.proven(), r.taken)
	}
	if out, _, entered := r.enter(&third, now.Add(2*turnTime)); out != &second || !entered {
		t.Errorf("%v went for a new one, entered: %v", out, entered)
	}
}
