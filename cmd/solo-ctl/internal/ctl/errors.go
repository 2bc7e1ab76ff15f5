package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/manifest"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// failure is an error as -o json prints it.
type failure struct {
	Code       string            `json:"code"`
	Message    string            `json:"message"`
	Reason     string            `json:"reason,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Violations []violation       `json:"violations,omitempty"`
	Denial     *denial           `json:"denial,omitempty"`
}

type violation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

type denial struct {
	Layer        string `json:"layer"`
	Asked        string `json:"asked"`
	MissingRight string `json:"missing_right"`
	HowToRequest string `json:"how_to_request"`
}

// codeNames are the names of google.rpc.Code, which JSON uses.
var codeNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// explain takes an error apart and says which exit status it means.
func explain(err error) (failure, int) {
	var usage *usageError
	var bad *manifest.Error
	switch {
	case errors.As(err, &usage):
		return failure{Code: "USAGE", Message: usage.what}, exitUsage
	case errors.As(err, &bad):
		return failure{Code: "INVALID_ARGUMENT", Reason: "INVALID_MANIFEST", Message: err.Error(),
			Violations: []violation{{Field: bad.Field, Description: bad.What}}}, exitError
	case errors.Is(err, context.Canceled):
		return failure{Code: "CANCELLED", Message: "interrupted"}, exitError
	}
	st, ok := status.FromError(err)
	if !ok {
		return failure{Code: "CLIENT", Message: err.Error()}, exitError
	}
	f := failure{Code: st.Code().String(), Message: message(err)}
	if int(st.Code()) < len(codeNames) {
		f.Code = codeNames[st.Code()]
	}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			f.Reason, f.Metadata = d.GetReason(), d.GetMetadata()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				f.Violations = append(f.Violations, violation{v.GetField(), v.GetDescription()})
			}
		case *solov1.Denial:
			f.Denial = &denial{d.GetLayer(), d.GetAsked(), d.GetMissingRight(), d.GetHowToRequest()}
		}
	}
	if st.Code() == codes.PermissionDenied || st.Code() == codes.Unauthenticated {
		return f, exitDenied
	}
	return f, exitError
}

// message is the text of an error that is, or wraps, a gRPC status: what was done,
// and the server's words without gRPC's.
func message(err error) string {
	var st interface {
		error
		GRPCStatus() *status.Status
	}
	if !errors.As(err, &st) {
		return err.Error()
	}
	return strings.Replace(err.Error(), st.Error(), st.GRPCStatus().Message(), 1)
}

// report prints an error where its reader looks for it and returns the exit status.
func (a *app) report(err error) int {
	f, code := explain(err)
	if a.json() {
		doc := map[string]failure{"error": f}
		text, jerr := json.MarshalIndent(doc, "", "  ")
		if a.stream {
			text, jerr = json.Marshal(doc)
		}
		if jerr == nil {
			if a.write(append(text, '\n')) == nil {
				return code
			}
		}
	}
	a.tell("%s", f.text())
	return code
}

func (f failure) text() string {
	var b strings.Builder
	head := f.Message
	switch f.Code {
	case "USAGE", "CLIENT":
	default:
		name := f.Code
		if f.Reason != "" && f.Reason != name {
			name += " " + f.Reason
		}
		head = name + ": " + head
	}
	fmt.Fprintf(&b, "solo-ctl: %s\n", clean(head))
	for _, v := range f.Violations {
		line := v.Description
		if v.Field != "" {
			line = v.Field + ": " + line
		}
		if !strings.Contains(f.Message, line) {
			fmt.Fprintf(&b, "  %s\n", clean(line))
		}
	}
	if d := f.Denial; d != nil {
		fmt.Fprintf(&b, "  denied by: %s\n", clean(d.Layer))
		if d.Asked != "" {
			fmt.Fprintf(&b, "  asked for: %s\n", clean(d.Asked))
		}
		if d.MissingRight != "" {
			fmt.Fprintf(&b, "  missing right: %s\n", clean(d.MissingRight))
		}
		if d.HowToRequest != "" {
			fmt.Fprintf(&b, "  to get it: %s\n", clean(d.HowToRequest))
		}
	}
	return b.String()
}
