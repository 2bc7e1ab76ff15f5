package control

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/kernel/capability"
	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// operations is the whole switch, said once more: what each member of Request.op needs
// and whether it writes an audit record. A member that is missing here or in Identify
// fails TestEveryOperation.
var operations = map[protoreflect.Name]Operation{
	"deploy":           {"deploy", capability.Deploy, true, "x"},
	"status":           {"status", capability.Status, false, "x"},
	"list":             {"list", capability.Status, false, ""},
	"kill":             {"kill", capability.Kill, true, "x"},
	"watch":            {"watch", capability.Watch, false, "x"},
	"shutdown":         {"shutdown", capability.Shutdown, true, ""},
	"start":            {"start", capability.Deploy, true, "x"},
	"restart":          {"restart", capability.Kill, true, "x"},
	"delete":           {"delete", capability.Kill, true, "x"},
	"run":              {"run", capability.Deploy, true, "x"},
	"store_artifact":   {"upload", capability.Deploy, true, ""},
	"info":             {"info", capability.Status, false, ""},
	"audit_tail":       {"audit_tail", capability.Audit, false, ""},
	"authorize_upload": {"authorize_upload", capability.Deploy, false, ""},
	"grant":            {"grant", capability.Grant, true, "x"},
	"update":           {"update", capability.Update, true, "x"},
}

// members are the fields of the oneof Request.op.
func members(t *testing.T) []protoreflect.FieldDescriptor {
	t.Helper()
	fields := (&controlv1.Request{}).ProtoReflect().Descriptor().Oneofs().ByName("op").Fields()
	var all []protoreflect.FieldDescriptor
	for i := range fields.Len() {
		all = append(all, fields.Get(i))
	}
	return all
}

// name sets every field of a message that names what is acted on, at any depth.
func name(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.Name() == "request" || f.Name() == "deploy":
			name(m.Mutable(f).Message())
		case f.Name() == "service" || f.Name() == "name":
			m.Set(f, protoreflect.ValueOfString("x"))
		}
	}
}

func TestEveryOperation(t *testing.T) {
	names := map[string]bool{}
	for _, f := range members(t) {
		for _, named := range []bool{true, false} {
			r := &controlv1.Request{}
			m := r.ProtoReflect().Mutable(f).Message()
			want, known := operations[f.Name()]
			if !known {
				t.Errorf("%s is not in the test's table", f.Name())
				break
			}
			if named {
				name(m)
			} else {
				want.Object = ""
			}
			got, ok := Identify(r)
			if diff := cmp.Diff(want, got); diff != "" || !ok {
				t.Errorf("%s: %v (-want +got):\n%s", f.Name(), ok, diff)
			}
		}
		if op := operations[f.Name()]; names[op.Name] {
			t.Errorf("two operations are named %s", op.Name)
		} else {
			names[op.Name] = true
		}
		if !slices.Contains(capability.AllRights(), operations[f.Name()].Right) {
			t.Errorf("%s needs a right that root's token has not", f.Name())
		}
	}
	if len(operations) != len(members(t)) {
		t.Errorf("the test's table has %d operations, the oneof %d", len(operations), len(members(t)))
	}
	for _, r := range []*controlv1.Request{nil, {}, {Id: 1, Token: "t"}} {
		if op, ok := Identify(r); ok || op != (Operation{}) {
			t.Errorf("a request without an operation is %v", op)
		}
	}
	// A oneof whose member is there and holds nothing does not panic.
	if op, ok := Identify(&controlv1.Request{Op: &controlv1.Request_Run{}}); !ok || op.Object != "" {
		t.Errorf("an empty run is %v, %v", op, ok)
	}
}

func mint(first byte, rights ...capability.Right) (string, capability.Capability) {
	var random [capability.Entropy]byte
	for i := range random {
		random[i] = first + byte(i)
	}
	text, token := capability.Mint(random)
	return text, capability.Capability{ID: token.ID, SecretHash: token.Hash, Rights: rights}
}

func TestAuthorize(t *testing.T) {
	root, rootCap := mint(1, capability.AllRights()...)
	reader, readerCap := mint(50, capability.Status)
	nobody, nobodyCap := mint(100)
	unknown, _ := mint(150)
	// A secret of one's own under the id of another: the checksum is right.
	var random [capability.Entropy]byte
	for i := range random {
		random[i] = byte(i + 1)
		if i >= 8 {
			random[i] = 0xee
		}
	}
	otherSecret, _ := capability.Mint(random)
	if otherSecret[:len("solo_")+16] != root[:len("solo_")+16] {
		t.Fatal("the forged token has another id")
	}
	table := Table{rootCap.ID: rootCap, readerCap.ID: readerCap, nobodyCap.ID: nobodyCap}

	status := Operation{Name: "status", Right: capability.Status}
	kill := Operation{Name: "kill", Right: capability.Kill, Changes: true, Object: "x"}
	invalid := func(op Operation, message string) *Error {
		return &Error{Code: Unauthenticated, Reason: "UNAUTHENTICATED", Message: message,
			Denial: &solov1.Denial{Layer: "capability", Asked: op.Name, MissingRight: string(op.Right), HowToRequest: howTo}}
	}
	denied := &Error{Code: PermissionDenied, Reason: "PERMISSION_DENIED", Message: `kill needs the right "kill", which the token does not have`,
		Denial: &solov1.Denial{Layer: "capability", Asked: "kill", MissingRight: "kill",
			HowToRequest: "ask the holder of a wider token to derive one with this right"}}
	for _, c := range []struct {
		name, token string
		op          Operation
		actor       string
		want        *Error
	}{
		{"root", root, kill, rootCap.ID, nil},
		{"a right that it has", reader, status, readerCap.ID, nil},
		{"a right that it has not", reader, kill, readerCap.ID, denied},
		{"no right at all", nobody, kill, nobodyCap.ID, denied},
		{"no token", "", kill, "", invalid(kill, "no token: "+howTo)},
		{"no token to read", "", status, "", invalid(status, "no token: "+howTo)},
		{"text", "root", kill, "", invalid(kill, "the token is not valid")},
		{"a wrong checksum", root[:len(root)-1] + "x", kill, "", invalid(kill, "the token is not valid")},
		{"an unknown token", unknown, kill, "", invalid(kill, "the token is not valid")},
		{"a wrong secret", otherSecret, kill, "", invalid(kill, "the token is not valid")},
		{"root's with a space", " " + root, kill, "", invalid(kill, "the token is not valid")},
		{"root's id alone", root[:len("solo_")+16], kill, "", invalid(kill, "the token is not valid")},
	} {
		got, err := table.Authorize(c.token, c.op)
		if diff := cmp.Diff(c.want, err, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if got.ID != c.actor {
			t.Errorf("%s: the actor is %q, not %q", c.name, got.ID, c.actor)
		}
	}
	if _, err := (Table)(nil).Authorize(root, status); err == nil {
		t.Error("an empty table knows a token")
	}
}

// TestEveryRightIsNeeded takes from root's token one right after the other: only the
// operations that need it are refused then.
func TestEveryRightIsNeeded(t *testing.T) {
	for _, lacking := range capability.AllRights() {
		rights := slices.DeleteFunc(capability.AllRights(), func(r capability.Right) bool { return r == lacking })
		token, c := mint(7, rights...)
		for _, op := range operations {
			_, err := Table{c.ID: c}.Authorize(token, op)
			if refused := err != nil; refused != (op.Right == lacking) {
				t.Errorf("%s without %s: %v", op.Name, lacking, err)
			}
		}
	}
}

func TestInvalid(t *testing.T) {
	one := []manifest.Violation{{Field: "name", Description: "is required"}}
	three := append(one, manifest.Violation{Field: "code", Description: "x"}, manifest.Violation{Field: "env", Description: "y"})
	for _, c := range []struct {
		in   []manifest.Violation
		want string
	}{
		{nil, "manifest is not valid"}, {one, "name: is required"}, {three, "name: is required (and 2 more)"},
	} {
		want := &Error{Code: InvalidArgument, Reason: "INVALID_MANIFEST", Message: c.want, Violations: c.in}
		if diff := cmp.Diff(want, Invalid(c.in)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestErrors(t *testing.T) {
	e := Errorf(ResourceExhausted, "RESOURCE_EXHAUSTED", "%d services exist", 3).With("resource", "services").With("limit", "3")
	if e.Error() != "3 services exist" {
		t.Errorf("Error is %q", e.Error())
	}
	// A refusal stays one however it is wrapped; anything else is ours to answer for.
	if got := As(fmt.Errorf("deploy x: %w", e)); got != e {
		t.Errorf("As of a wrapped refusal: %v", got)
	}
	internal := &Error{Code: Internal, Reason: "INTERNAL", Message: "disk on fire"}
	if diff := cmp.Diff(internal, As(errors.New("disk on fire"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	e.Violations = []manifest.Violation{{Field: "a", Description: "b"}}
	e.Denial = &solov1.Denial{Layer: "limit", Asked: "deploy"}
	want := &controlv1.Error{
		Code: 8, Message: "3 services exist", Reason: "RESOURCE_EXHAUSTED", Metadata: map[string]string{"resource": "services", "limit": "3"},
		Violations: []*controlv1.Violation{{Field: "a", Description: "b"}}, Denial: e.Denial,
	}
	if diff := cmp.Diff(want, e.Proto(), protocmp.Transform()); diff != "" {
		t.Errorf("Proto (-want +got):\n%s", diff)
	}
	// Nothing of the message is left out, here or there.
	fields := want.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if !e.Proto().ProtoReflect().Has(fields.Get(i)) {
			t.Errorf("Proto leaves out %s", fields.Get(i).Name())
		}
	}
}
