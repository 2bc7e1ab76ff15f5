package control

import (
	"errors"
	"fmt"

	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Code is a gRPC status code (https://grpc.github.io/grpc/core/md_doc_statuscodes.html);
// the kernel links no gRPC.
type Code uint32

// The codes in use.
const (
	Canceled           Code = 1
	InvalidArgument    Code = 3
	DeadlineExceeded   Code = 4
	NotFound           Code = 5
	AlreadyExists      Code = 6
	PermissionDenied   Code = 7
	ResourceExhausted  Code = 8
	FailedPrecondition Code = 9
	Aborted            Code = 10
	Unimplemented      Code = 12
	Internal           Code = 13
	Unavailable        Code = 14
	Unauthenticated    Code = 16
)

// Error is a refusal: a code, a reason that programs compare, and words for people
// that say what to do.
type Error struct {
	Code    Code
	Reason  string
	Message string
	// Meta are names and values for programs: limit, step, resource.
	Meta       map[string]string
	Violations []manifest.Violation
	Denial     *solov1.Denial
}

func (e *Error) Error() string { return e.Message }

// Errorf makes a refusal.
func Errorf(code Code, reason, format string, args ...any) *Error {
	return &Error{Code: code, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// With adds one fact for programs.
func (e *Error) With(name, value string) *Error {
	if e.Meta == nil {
		e.Meta = map[string]string{}
	}
	e.Meta[name] = value
	return e
}

// Invalid makes the refusal of a manifest.
func Invalid(violations []manifest.Violation) *Error {
	e := &Error{Code: InvalidArgument, Reason: "INVALID_MANIFEST", Violations: violations}
	e.Message = "manifest is not valid"
	if len(violations) > 0 {
		e.Message = fmt.Sprintf("%s: %s", violations[0].Field, violations[0].Description)
		if n := len(violations) - 1; n > 0 {
			e.Message += fmt.Sprintf(" (and %d more)", n)
		}
	}
	return e
}

// As turns any error into a refusal; what is not one already becomes Internal.
func As(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: Internal, Reason: "INTERNAL", Message: err.Error()}
}

// Proto is the error as the gateway gets it.
func (e *Error) Proto() *controlv1.Error {
	out := &controlv1.Error{Code: uint32(e.Code), Message: e.Message, Reason: e.Reason, Metadata: e.Meta, Denial: e.Denial}
	for _, v := range e.Violations {
		out.Violations = append(out.Violations, &controlv1.Violation{Field: v.Field, Description: v.Description})
	}
	return out
}
