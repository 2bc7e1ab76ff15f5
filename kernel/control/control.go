// Package control is the API's one gate: it names every operation, says which right
// each needs and whether it changes state, and decides by the token alone.
//
// Trust: requests come through solo-gateway from anybody; the gateway itself may be
// hostile.
package control

import (
	"fmt"

	"github.com/solo-os/solo/kernel/capability"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Operation is one thing a client may ask for.
type Operation struct {
	// Name as in the audit log.
	Name string
	// Right that the token must have.
	Right capability.Right
	// Changes says that the operation changes state, and so writes an audit record in
	// the transaction that does.
	Changes bool
	// Object is the name it acts on; empty for none.
	Object string
}

// Identify names the operation of a request; ok is false when the request has none.
func Identify(r *controlv1.Request) (op Operation, ok bool) {
	switch o := r.GetOp().(type) {
	case *controlv1.Request_Deploy:
		return Operation{"deploy", capability.Deploy, true, o.Deploy.GetRequest().GetName()}, true
	case *controlv1.Request_Status:
		return Operation{"status", capability.Status, false, o.Status.GetService()}, true
	case *controlv1.Request_List:
		return Operation{"list", capability.Status, false, ""}, true
	case *controlv1.Request_Kill:
		return Operation{"kill", capability.Kill, true, o.Kill.GetService()}, true
	case *controlv1.Request_Watch:
		return Operation{"watch", capability.Watch, false, o.Watch.GetService()}, true
	case *controlv1.Request_Shutdown:
		return Operation{"shutdown", capability.Shutdown, true, ""}, true
	case *controlv1.Request_Start:
		return Operation{"start", capability.Deploy, true, o.Start.GetService()}, true
	case *controlv1.Request_Restart:
		return Operation{"restart", capability.Kill, true, o.Restart.GetService()}, true
	case *controlv1.Request_Delete:
		return Operation{"delete", capability.Kill, true, o.Delete.GetService()}, true
	case *controlv1.Request_Run:
		return Operation{"run", capability.Deploy, true, o.Run.GetDeploy().GetRequest().GetName()}, true
	case *controlv1.Request_StoreArtifact:
		return Operation{"upload", capability.Deploy, true, ""}, true
	case *controlv1.Request_Info:
		return Operation{"info", capability.Status, false, ""}, true
	case *controlv1.Request_AuditTail:
		return Operation{"audit_tail", capability.Audit, false, ""}, true
	case *controlv1.Request_AuthorizeUpload:
		return Operation{"authorize_upload", capability.Deploy, false, ""}, true
	case *controlv1.Request_Grant:
		return Operation{"grant", capability.Grant, true, o.Grant.GetService()}, true
	case *controlv1.Request_Update:
		return Operation{"update", capability.Update, true, o.Update.GetService()}, true
	}
	return Operation{}, false
}

// Table are the capabilities that exist, by id.
type Table map[string]capability.Capability

// howTo is what a client without a token is told.
const howTo = "send the token as gRPC metadata authorization: Bearer …; root's is in root.token in the state directory"

// Authorize decides whether a token may do an operation. A token that is forged,
// unknown or missing looks the same to the caller.
func (t Table) Authorize(token string, op Operation) (capability.Capability, *Error) {
	unauthenticated := func(what string) *Error {
		return &Error{
			Code: Unauthenticated, Reason: "UNAUTHENTICATED", Message: what,
			Denial: &solov1.Denial{Layer: "capability", Asked: op.Name, MissingRight: string(op.Right), HowToRequest: howTo},
		}
	}
	if token == "" {
		return capability.Capability{}, unauthenticated("no token: " + howTo)
	}
	parsed, err := capability.Parse(token)
	if err != nil {
		return capability.Capability{}, unauthenticated("the token is not valid")
	}
	c, ok := t[parsed.ID]
	if !ok || !c.Matches(parsed) {
		return capability.Capability{}, unauthenticated("the token is not valid")
	}
	if !c.Has(op.Right) {
		return c, &Error{
			Code: PermissionDenied, Reason: "PERMISSION_DENIED",
			Message: fmt.Sprintf("%s needs the right %q, which the token does not have", op.Name, op.Right),
			Denial:  &solov1.Denial{Layer: "capability", Asked: op.Name, MissingRight: string(op.Right), HowToRequest: "ask the holder of a wider token to derive one with this right"},
		}
	}
	return c, nil
}
