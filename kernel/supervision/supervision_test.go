package supervision

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestStep(t *testing.T) {
	const s = time.Second
	spec := func(r Restart) Spec { return Spec{Restart: r, Intensity: 2, Period: 10 * s} }
	tests := []struct {
		name  string
		state State
		spec  Spec
		now   time.Duration
		exit  Exit
		want  State
		does  Decision
	}{
		{"permanent restarts at once after a normal exit", State{}, spec(Permanent), 5 * s, Exit{Normal: true},
			State{Times: []time.Duration{5 * s}, Row: 1}, Decision{Action: Again}},
		{"transient ends after a normal exit", State{}, spec(Transient), 5 * s, Exit{Normal: true},
			State{}, Decision{Action: Finished}},
		{"transient restarts after a crash", State{}, spec(Transient), 5 * s, Exit{},
			State{Times: []time.Duration{5 * s}, Row: 1}, Decision{Action: Again}},
		{"temporary never restarts", State{}, spec(Temporary), 5 * s, Exit{}, State{}, Decision{Action: Finished}},
		{"temporary is not put in quarantine", State{}, spec(Temporary), 5 * s, Exit{Quarantine: true}, State{}, Decision{Action: Finished}},
		{"quarantine fails", State{}, spec(Permanent), 5 * s, Exit{Quarantine: true}, State{}, Decision{Action: Failed, Reason: "quarantine"}},
		{"second restart waits", State{Times: []time.Duration{5 * s}, Row: 1}, spec(Permanent), 6 * s, Exit{},
			State{Times: []time.Duration{5 * s, 6 * s}, Row: 2}, Decision{Action: Again, Delay: 100 * time.Millisecond}},
		{"over intensity fails", State{Times: []time.Duration{5 * s, 6 * s}, Row: 2}, spec(Permanent), 7 * s, Exit{},
			State{Times: []time.Duration{5 * s, 6 * s, 7 * s}, Row: 3}, Decision{Action: Failed, Reason: "restart_intensity"}},
		{"the edge of the period still counts", State{Times: []time.Duration{5 * s, 6 * s}, Row: 2}, spec(Permanent), 15 * s, Exit{},
			State{Times: []time.Duration{5 * s, 6 * s, 15 * s}, Row: 3}, Decision{Action: Failed, Reason: "restart_intensity"}},
		{"past the period is forgotten", State{Times: []time.Duration{5 * s, 6 * s}, Row: 2}, spec(Permanent), 15*s + 1, Exit{},
			State{Times: []time.Duration{6 * s, 15*s + 1}, Row: 3}, Decision{Action: Again, Delay: 200 * time.Millisecond}},
		{"30 s up resets the backoff", State{Row: 4}, spec(Permanent), 50 * s, Exit{Up: ResetAfter},
			State{Times: []time.Duration{50 * s}, Row: 1}, Decision{Action: Again}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, does := Step(tt.state, tt.spec, tt.now, tt.exit, 0.5)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.does, does); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}

// A child that crashes for ever fails after Intensity restarts, and delays grow
// within their bounds.
func TestStepProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := Spec{Restart: Permanent, Intensity: rapid.IntRange(0, 20).Draw(t, "intensity"), Period: 60 * time.Second}
		var s State
		var now time.Duration
		within := []time.Duration{}
		for range 40 {
			now += time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "gap"))
			up := time.Duration(rapid.Int64Range(0, int64(40*time.Second)).Draw(t, "up"))
			var d Decision
			s, d = Step(s, spec, now, Exit{Up: up}, rapid.Float64Range(0, 0.999).Draw(t, "chance"))
			within = append(within, now)
			for now-within[0] > spec.Period {
				within = within[1:]
			}
			if failed := d.Action == Failed; failed != (len(within) > spec.Intensity) {
				t.Fatalf("%d restarts in the period with intensity %d: %v", len(within), spec.Intensity, d)
			}
			if d.Delay < 0 || d.Delay > MaxDelay*12/10 {
				t.Fatalf("delay %v is out of bounds", d.Delay)
			}
		}
	})
}

func TestParseRestart(t *testing.T) {
	for _, r := range []Restart{Permanent, Transient, Temporary} {
		if got, err := ParseRestart(r.String()); err != nil || got != r {
			t.Errorf("ParseRestart(%v) = %v, %v", r, got, err)
		}
	}
	if _, err := ParseRestart("always"); err == nil {
		t.Error("ParseRestart accepts \"always\"")
	}
}
