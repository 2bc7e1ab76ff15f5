package gateway

import (
	"fmt"
	"sort"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// Domain is ErrorInfo.domain of every error of Solo.
const Domain = "solo"

// statusOf turns the kernel's error into a gRPC status with its details. An error
// without a usable code is Internal: a refusal must never look like success.
func statusOf(e *controlv1.Error) error {
	code := codes.Code(e.GetCode())
	if code == codes.OK || code > codes.Unauthenticated {
		code = codes.Internal
	}
	var details []protoadapt.MessageV1
	if e.GetReason() != "" || len(e.GetMetadata()) > 0 {
		details = append(details, &errdetails.ErrorInfo{Reason: e.GetReason(), Domain: Domain, Metadata: e.GetMetadata()})
	}
	if len(e.GetViolations()) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.GetViolations() {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.GetField(), Description: v.GetDescription()})
		}
		details = append(details, bad)
	}
	if e.GetDenial() != nil {
		details = append(details, protoadapt.MessageV1Of(e.GetDenial()))
	}
	return withDetails(status.New(code, strings.ToValidUTF8(e.GetMessage(), "�")), details)
}

// refuse makes an error of the gateway's own.
func refuse(code codes.Code, reason string, metadata map[string]string, format string, args ...any) error {
	return withDetails(status.New(code, fmt.Sprintf(format, args...)),
		[]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: Domain, Metadata: metadata}})
}

// invalid is INVALID_ARGUMENT with one violation per field.
func invalid(violations map[string]string) error {
	fields := make([]string, 0, len(violations))
	for f := range violations {
		fields = append(fields, f)
	}
	sort.Strings(fields)
	bad := &errdetails.BadRequest{}
	texts := make([]string, 0, len(fields))
	for _, f := range fields {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f, Description: violations[f]})
		texts = append(texts, f+": "+violations[f])
	}
	return withDetails(status.New(codes.InvalidArgument, strings.Join(texts, "; ")),
		[]protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: "INVALID_MANIFEST", Domain: Domain}, bad})
}

// withDetails leaves the details out rather than lose the status when one of them
// cannot be encoded.
func withDetails(st *status.Status, details []protoadapt.MessageV1) error {
	if len(details) == 0 {
		return st.Err()
	}
	full, err := st.WithDetails(details...)
	if err != nil {
		return st.Err()
	}
	return full.Err()
}

// malformed is the answer to a body that is not protobuf: the client's mistake.
func malformed(err error) error {
	return refuse(codes.InvalidArgument, "MALFORMED_BODY", nil, "the request body is not the protobuf message of this method: %v", err)
}

func tooLarge(limit uint64) error {
	return refuse(codes.ResourceExhausted, "UPLOAD_TOO_LARGE", map[string]string{"limit": "max_upload_bytes", "limit_bytes": fmt.Sprint(limit)},
		"the upload is over the limit max_upload_bytes of %d bytes", limit)
}

func tooManyUploads() error {
	return refuse(codes.ResourceExhausted, "TOO_MANY_UPLOADS", map[string]string{"limit": fmt.Sprint(MaxUploads)},
		"%d uploads are under way, which is the limit; try again", MaxUploads)
}
