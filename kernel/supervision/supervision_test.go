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
		{"intensity 0 fails at once", State{}, Spec{Restart: Permanent, Period: 10 * s}, 5 * s, Exit{},
			State{Times: []time.Duration{5 * s}, Row: 1}, Decision{Action: Failed, Reason: "restart_intensity"}},
		{"transient is put in quarantine", State{}, spec(Transient), 5 * s, Exit{Quarantine: true}, State{}, Decision{Action: Failed, Reason: "quarantine"}},
		{"quarantine comes before intensity, and counts no restart", State{Times: []time.Duration{4 * s, 5 * s}, Row: 2}, spec(Permanent), 5 * s,
			Exit{Quarantine: true, Up: ResetAfter}, State{Times: []time.Duration{4 * s, 5 * s}, Row: 2}, Decision{Action: Failed, Reason: "quarantine"}},
		{"two ends at one moment are two restarts", State{Times: []time.Duration{5 * s}, Row: 1}, spec(Permanent), 5 * s, Exit{},
			State{Times: []time.Duration{5 * s, 5 * s}, Row: 2}, Decision{Action: Again, Delay: 100 * time.Millisecond}},
		{"a moment less than 30 s up does not reset it", State{Row: 4}, spec(Permanent), 50 * s, Exit{Up: ResetAfter - 1},
			State{Times: []time.Duration{50 * s}, Row: 5}, Decision{Action: Again, Delay: 800 * time.Millisecond}},
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

// TestDelay: at once, then 100 ms doubled up to 30 s, 20 % either way.
func TestDelay(t *testing.T) {
	const ms = time.Millisecond
	for row, want := range []time.Duration{0, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 12800 * ms, 25600 * ms, 30000 * ms, 30000 * ms} {
		if got := delay(row, 0.5); got != want {
			t.Errorf("restart %d waits %v, not %v", row, got, want)
		}
		least, most := delay(row, 0), delay(row, 1)
		if near := ms / 1000; least < want*8/10-near || least > want*8/10+near || most < want*12/10-near || most > want*12/10+near {
			t.Errorf("restart %d waits %v to %v about %v", row, least, most, want)
		}
	}
	if got := delay(1<<62, 0.5); got != MaxDelay {
		t.Errorf("after very many: %v", got)
	}
}

// TestStepKeepsItsInput: a state is a value; the one before stays as it was.
func TestStepKeepsItsInput(t *testing.T) {
	const s = time.Second
	times := make([]time.Duration, 2, 10)
	times[0], times[1] = 1*s, 2*s
	before := State{Times: times, Row: 2}
	spec := Spec{Restart: Permanent, Intensity: 9, Period: 10 * s}
	one, _ := Step(before, spec, 12*s, Exit{}, 0)
	other, _ := Step(before, spec, 11*s+1, Exit{}, 0)
	want := []State{
		{Times: []time.Duration{1 * s, 2 * s}, Row: 2},
		{Times: []time.Duration{2 * s, 12 * s}, Row: 3},
		{Times: []time.Duration{2 * s, 11*s + 1}, Row: 3},
	}
	if diff := cmp.Diff(want, []State{before, one, other}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUserSpec(t *testing.T) {
	want := Spec{Restart: Transient, Intensity: 5, Period: time.Minute}
	if got := UserSpec(Transient); got != want {
		t.Errorf("user services are under %+v", got)
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
	for text, want := range map[string]Restart{
		"": Permanent, "permanent": Permanent, "transient": Transient, "temporary": Temporary,
	} {
		if got, err := ParseRestart(text); err != nil || got != want {
			t.Errorf("ParseRestart(%q) = %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"always", "Permanent", " permanent", "Restart(3)"} {
		if _, err := ParseRestart(bad); err == nil {
			t.Errorf("ParseRestart accepts %q", bad)
		}
	}
}
