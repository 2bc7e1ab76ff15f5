package filesystem

import (
	"errors"
	"fmt"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// The gRPC status codes that the driver answers with.
const (
	invalidArgument    = 3
	failedPrecondition = 9
	internal           = 13
)

// Error is a refusal: the kernel passes it on to the client (controlv1.Error).
type Error struct {
	Code    uint32
	Reason  string
	Message string
	// Meta are names and values for programs: problem, step, runtime, limit.
	Meta       map[string]string
	Violations []Violation
}

// Violation is a field of the manifest and what is wrong with it.
type Violation struct{ Field, Description string }

func (e *Error) Error() string { return e.Message }

func errorf(code uint32, reason, format string, args ...any) *Error {
	return &Error{Code: code, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// with adds one fact for programs.
func (e *Error) with(name, value string) *Error {
	if e.Meta == nil {
		e.Meta = map[string]string{}
	}
	e.Meta[name] = value
	return e
}

// invalid is the refusal of one field of the manifest.
func invalid(field, description string) *Error {
	e := errorf(invalidArgument, "INVALID_MANIFEST", "%s: %s", field, description)
	e.Violations = []Violation{{field, description}}
	return e
}

// asError turns any error into a refusal.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return errorf(internal, "INTERNAL", "%v", err)
}

func (e *Error) proto() *controlv1.Error {
	out := &controlv1.Error{Code: e.Code, Message: text(e.Message), Reason: e.Reason}
	for k, v := range e.Meta {
		if out.Metadata == nil {
			out.Metadata = map[string]string{}
		}
		out.Metadata[k] = text(v)
	}
	for _, v := range e.Violations {
		out.Violations = append(out.Violations, &controlv1.Violation{Field: v.Field, Description: text(v.Description)})
	}
	return out
}

// problem is why code cannot be used: a word for programs and a text that follows
// the name of the field.
type problem struct{ word, text string }

func (p *problem) Error() string { return p.text }

func problemf(word, format string, args ...any) *problem {
	return &problem{word, fmt.Sprintf(format, args...)}
}

// refuse makes the refusal of a field of a problem; other errors are left alone.
func refuse(field string, err error) error {
	var p *problem
	if !errors.As(err, &p) {
		return err
	}
	return invalid(field, p.text).with("problem", p.word)
}

// step makes an error of the host one that names what was being done.
func step(name string, err error) *Error {
	return errorf(internal, "INTERNAL", "%s: %v", name, err).with("step", name)
}

// unavailable is a runtime that the host lacks a part of.
func unavailable(runtime, format string, args ...any) *Error {
	return errorf(failedPrecondition, "RUNTIME_UNAVAILABLE",
		"runtime %s: %s", runtime, fmt.Sprintf(format, args...)).with("step", "runtime").with("runtime", runtime)
}

// clip shortens hostile text for a message.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "…"
	}
	return s
}
