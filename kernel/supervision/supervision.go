// Package supervision decides what happens when a child ends, with the words and
// meanings of OTP's supervisor (https://www.erlang.org/doc/apps/stdlib/supervisor):
// restart types, and more than Intensity restarts within Period ends the supervisor.
// Beyond OTP, restarts are spaced by a backoff. It is pure: time comes in as a
// duration since any fixed moment, chance as a number.
package supervision

import (
	"fmt"
	"time"
)

// Restart is OTP's restart type of a child.
type Restart int

// The restart types.
const (
	// Permanent children are always restarted.
	Permanent Restart = iota
	// Transient children are restarted when they end abnormally.
	Transient
	// Temporary children are never restarted.
	Temporary
)

// ParseRestart reads a restart type; the empty string is Permanent, OTP's default.
func ParseRestart(s string) (Restart, error) {
	switch s {
	case "", "permanent":
		return Permanent, nil
	case "transient":
		return Transient, nil
	case "temporary":
		return Temporary, nil
	}
	return 0, fmt.Errorf("restart %q is none of permanent, transient, temporary", s)
}

// Backoff bounds.
const (
	// FirstDelay is the wait before the second restart in a row; the first is at once.
	FirstDelay = 100 * time.Millisecond
	// MaxDelay is the longest wait.
	MaxDelay = 30 * time.Second
	// ResetAfter is how long a child must have been up for the backoff to begin anew.
	ResetAfter = 30 * time.Second
	// jitter is the share by which a wait varies either way.
	jitter = 0.2
)

// Spec is what a supervisor knows of its child.
type Spec struct {
	Restart Restart
	// More than Intensity restarts within Period end the supervisor.
	Intensity int
	Period    time.Duration
}

// UserSpec is the supervisor of every user service: 5 restarts in 60 s.
func UserSpec(r Restart) Spec { return Spec{Restart: r, Intensity: 5, Period: 60 * time.Second} }

// State is the history of one child. The zero value is a child that never ended.
type State struct {
	// Times of the restarts within the last period, oldest first.
	Times []time.Duration
	// Row counts the restarts since the child was last up for ResetAfter.
	Row int
}

// Exit is how a child ended.
type Exit struct {
	// Normal is an exit with status 0.
	Normal bool
	// Quarantine ends the supervisor whatever the restart type: exit status 125 and
	// a seccomp kill say that this version will never work.
	Quarantine bool
	// Up is how long the child had run.
	Up time.Duration
}

// Action is what the supervisor does.
type Action int

// The actions.
const (
	// Again restarts the child after the delay.
	Again Action = iota
	// Finished leaves the child ended; nothing is wrong.
	Finished
	// Failed ends the supervisor: its intensity is spent, or the version is in quarantine.
	Failed
)

// Decision is the answer of Step.
type Decision struct {
	Action Action
	Delay  time.Duration
	// Reason of a failure: restart_intensity or quarantine.
	Reason string
}

// Step decides what follows the end of a child at the time now. chance is a number
// in [0, 1) that varies the delay.
func Step(s State, spec Spec, now time.Duration, exit Exit, chance float64) (State, Decision) {
	if exit.Quarantine && spec.Restart != Temporary {
		return s, Decision{Action: Failed, Reason: "quarantine"}
	}
	if spec.Restart == Temporary || spec.Restart == Transient && exit.Normal {
		return s, Decision{Action: Finished}
	}
	times := make([]time.Duration, 0, len(s.Times)+1)
	for _, t := range s.Times {
		// OTP counts a restart as within the period up to and including its edge.
		if now-t <= spec.Period {
			times = append(times, t)
		}
	}
	times = append(times, now)
	row := s.Row
	if exit.Up >= ResetAfter {
		row = 0
	}
	next := State{Times: times, Row: row + 1}
	if len(times) > spec.Intensity {
		return next, Decision{Action: Failed, Reason: "restart_intensity"}
	}
	return next, Decision{Action: Again, Delay: delay(row, chance)}
}

// delay is the wait before the restart number row (from 0) of a row.
func delay(row int, chance float64) time.Duration {
	if row == 0 {
		return 0
	}
	d := FirstDelay
	for i := 1; i < row && d < MaxDelay; i++ {
		d *= 2
	}
	d = min(d, MaxDelay)
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*chance))
}
