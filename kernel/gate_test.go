package kernel

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/capability"
	"github.com/solo-os/solo/kernel/control"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// operations are one request for every member of the oneof Request.op, with nothing in
// it.
func operations() (all []*controlv1.Request) {
	fields := (&controlv1.Request{}).ProtoReflect().Descriptor().Oneofs().ByName("op").Fields()
	for i := range fields.Len() {
		r := &controlv1.Request{}
		r.ProtoReflect().Mutable(fields.Get(i))
		all = append(all, r)
	}
	return all
}

// inner is the operation's own message.
func inner(r *controlv1.Request) protoreflect.Message {
	m := r.ProtoReflect()
	return m.Get(m.WhichOneof(m.Descriptor().Oneofs().ByName("op"))).Message()
}

// grant makes a token with rights that only this kernel's memory knows.
func (r *rig) grant(first byte, rights ...capability.Right) string {
	var random [capability.Entropy]byte
	for i := range random {
		random[i] = first
	}
	text, token := capability.Mint(random)
	r.own(func(k *Kernel) {
		k.tokens[token.ID] = capability.Capability{ID: token.ID, SecretHash: token.Hash, Rights: rights}
	})
	return text
}

// TestGateDenies: whatever is asked for, without the right nothing of it happens, and
// the denial says what is missing.
func TestGateDenies(t *testing.T) {
	r := newRig(t)
	r.boot()
	forged, _ := capability.Mint([capability.Entropy]byte{1, 2, 3})
	for i, req := range operations() {
		op, ok := control.Identify(req)
		if !ok {
			t.Fatalf("%T is no operation", req.GetOp())
		}
		var others []capability.Right
		for _, right := range capability.AllRights() {
			if right != op.Right {
				others = append(others, right)
			}
		}
		for name, c := range map[string]struct {
			token string
			code  control.Code
		}{
			"no token":          {"", control.Unauthenticated},
			"a forged token":    {forged, control.Unauthenticated},
			"not a token":       {"root", control.Unauthenticated},
			"every other right": {r.grant(byte(i+1), others...), control.PermissionDenied},
		} {
			req := proto.CloneOf(req)
			req.Token = c.token
			e := r.await(r.pass(req)).GetError()
			want := &solov1.Denial{Layer: "capability", Asked: op.Name, MissingRight: string(op.Right)}
			got := e.GetDenial()
			if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&solov1.Denial{}, "how_to_request")); diff != "" {
				t.Errorf("%s with %s (-want +got):\n%s", op.Name, name, diff)
			}
			if control.Code(e.GetCode()) != c.code || got.GetHowToRequest() == "" {
				t.Errorf("%s with %s: %v", op.Name, name, e)
			}
		}
	}
	r.own(func(k *Kernel) {
		if len(k.api.open) != 0 || len(k.reserved) != 0 {
			t.Errorf("%d requests are open, %d names reserved", len(k.api.open), len(k.reserved))
		}
	})
	must(t, r.stop())
	r.sound()
}

// TestEveryOperationIsHandled: none falls through the switch, which would end the
// gateway.
func TestEveryOperationIsHandled(t *testing.T) {
	r := newRig(t)
	r.boot()
	gateway := r.of("solo-gateway")[0]
	for _, req := range operations() {
		op, _ := control.Identify(req)
		var files ipc.Files
		switch o := req.GetOp().(type) {
		case *controlv1.Request_Shutdown:
			o.Shutdown.TimeoutMs = 1 << 31 // over the limit: refused by its handler
		case *controlv1.Request_StoreArtifact:
			f, err := ipc.SealedFile("test", []byte("x"))
			must(t, err)
			files, o.StoreArtifact.Size = ipc.Files{f}, 1
		}
		resp := r.await(r.request(req, &files))
		files.Close()
		if resp == nil || resp.GetError() == nil && resp.GetResult() == nil {
			t.Errorf("%s: %v", op.Name, resp)
		}
		if e := control.Code(resp.GetError().GetCode()); e == control.Unauthenticated || e == control.PermissionDenied || e == control.Internal {
			t.Errorf("%s: %v", op.Name, resp.GetError())
		}
	}
	if now := r.of("solo-gateway"); len(now) != 1 || now[0] != gateway {
		t.Error("the gateway was ended")
	}
	must(t, r.stop())
	r.sound()
}

// TestUnknownFields of a client are refused by name, wherever they are.
func TestUnknownFields(t *testing.T) {
	r := newRig(t)
	r.boot()
	strange := protoreflect.RawFields(protowire.AppendVarint(protowire.AppendTag(nil, 1234, protowire.VarintType), 1))
	check := func(req *controlv1.Request, field string) {
		t.Helper()
		e := r.ask(req).GetError()
		if control.Code(e.GetCode()) != control.InvalidArgument || len(e.GetViolations()) != 1 || e.GetViolations()[0].GetField() != field {
			t.Errorf("%v, want a violation of %s", e, field)
		}
	}
	tried := 0
	for _, req := range operations() {
		// Those of the control protocol are the gateway's own: ipc refuses them.
		if inner(req).Descriptor().ParentFile().Package() == "solo.v1" {
			inner(req).SetUnknown(strange)
			check(req, "1234")
			tried++
		}
	}
	if tried < 8 {
		t.Errorf("only %d operations are a client's own message", tried)
	}
	for field, where := range map[string]func(*solov1.DeployRequest) proto.Message{
		"1234":                    func(m *solov1.DeployRequest) proto.Message { return m },
		"resources.1234":          func(m *solov1.DeployRequest) proto.Message { return m.GetResources() },
		"binary.1234":             func(m *solov1.DeployRequest) proto.Message { return m.GetBinary() },
		"files[1].1234":           func(m *solov1.DeployRequest) proto.Message { return m.GetFiles()[1] },
		"uses[0].port.1234":       func(m *solov1.DeployRequest) proto.Message { return m.GetUses()[0].GetPort() },
		"ready.http.1234":         func(m *solov1.DeployRequest) proto.Message { return m.GetReady().GetHttp() },
		"uses[0].1234":            func(m *solov1.DeployRequest) proto.Message { return m.GetUses()[0] },
		"ready.1234":              func(m *solov1.DeployRequest) proto.Message { return m.GetReady() },
		"resources.1234 in a run": func(m *solov1.DeployRequest) proto.Message { return m.GetResources() },
	} {
		m := deployment("x")
		m.Files = []*solov1.File{{}, {}}
		m.Uses = []*solov1.Use{{Use: &solov1.Use_Port{Port: &solov1.PortUse{}}}}
		m.Ready = &solov1.Ready{Probe: &solov1.Ready_Http{Http: &solov1.HttpProbe{}}}
		where(m).ProtoReflect().SetUnknown(strange)
		op := &controlv1.DeployOp{Request: m}
		req := &controlv1.Request{Op: &controlv1.Request_Deploy{Deploy: op}}
		if name, run := strings.CutSuffix(field, " in a run"); run {
			field = name
			req = &controlv1.Request{Op: &controlv1.Request_Run{Run: &controlv1.RunOp{Deploy: op}}}
		}
		check(req, field)
	}
	must(t, r.stop())
}

// TestGatewayLies ends it, and leaves no descriptor open.
func TestGatewayLies(t *testing.T) {
	r := newRig(t)
	r.boot()
	hold := r.hold("solo-fs")
	waiting := r.request(deployOp(deployment("x")))
	r.until("the request", func(k *Kernel) bool { return len(k.api.open) == 1 })
	two := func() ipc.Files {
		var files ipc.Files
		for range 2 {
			f, err := ipc.SealedFile("test", nil)
			must(t, err)
			files = append(files, f)
		}
		return files
	}
	item := func(req *controlv1.Request) *controlv1.FromService {
		req.Token = r.token
		return &controlv1.FromService{Item: &controlv1.FromService_Request{Request: req}}
	}
	files := func(op *controlv1.DeployOp) *controlv1.FromService {
		op.Request = deployment("y")
		op.Request.Files = []*solov1.File{{Path: "/a"}, {Path: "/b"}}
		return item(&controlv1.Request{Id: 1000, Op: &controlv1.Request_Deploy{Deploy: op}})
	}
	for name, m := range map[string]*controlv1.FromService{
		"no operation":              item(&controlv1.Request{Id: 1000}),
		"an id that is in use":      item(&controlv1.Request{Id: waiting.id, Op: statusOp("x").GetOp()}),
		"descriptors with a status": item(&controlv1.Request{Id: 1000, Op: statusOp("x").GetOp()}),
		"two uploads in one":        item(&controlv1.Request{Id: 1000, Op: &controlv1.Request_StoreArtifact{StoreArtifact: &controlv1.StoreArtifactOp{}}}),
		"contents not announced":    files(&controlv1.DeployOp{}),
		"fewer contents than said":  files(&controlv1.DeployOp{HasCode: true, FileContents: []uint32{0, 1}}),
		"two contents for one file": files(&controlv1.DeployOp{FileContents: []uint32{1, 1}}),
		"another service's message": {Item: &controlv1.FromService_AuditAck{AuditAck: &controlv1.AuditAck{}}},
		"nothing":                   {},
	} {
		given := two()
		var err error
		r.own(func(k *Kernel) { err = fromGateway(k, k.system.gateway, m, given) })
		var lie *ipc.ProtocolError
		if !errors.As(err, &lie) {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range given {
			if !errors.Is(f.Close(), os.ErrClosed) {
				t.Errorf("%s: a descriptor stayed open", name)
			}
		}
		r.own(func(k *Kernel) {
			if k.api.open[1000] != nil {
				delete(k.api.open, 1000) // with the gateway all its requests go
			}
		})
	}
	// And by the real way: it is ended and replaced, and its calls end with it.
	gateway := r.of("solo-gateway")[0]
	gateway.tell(&controlv1.FromService{Item: &controlv1.FromService_AuditAck{AuditAck: &controlv1.AuditAck{}}})
	<-gateway.done
	r.until("the next gateway", func(k *Kernel) bool { return k.system.gateway != nil && len(k.api.open) == 0 })
	hold()
	r.until("the deployment that nobody waits for", func(k *Kernel) bool { return k.services["x"] != nil && k.services["x"].state() == stateReady })
	if resp := r.ask(statusOp("x")); resp.GetStatus().GetService().GetState() != stateReady {
		t.Errorf("%v", resp)
	}
	must(t, r.stop())
	r.sound()
}

// TestTooManyRequests: one more than the limit is refused, and counts for nothing.
func TestTooManyRequests(t *testing.T) {
	r := newRig(t)
	r.boot()
	open := func(n int) {
		r.own(func(k *Kernel) {
			for id := range k.api.open {
				delete(k.api.open, id)
			}
			for i := range n {
				id := uint64(1<<40 + i)
				k.api.open[id] = &request{k: k, id: id, over: true}
			}
		})
	}
	open(maxOpenRequests - 1)
	if resp := r.ask(statusOp("none")); resp.GetError().GetReason() != "SERVICE_NOT_FOUND" {
		t.Errorf("the last that fits: %v", resp)
	}
	open(maxOpenRequests)
	if e := r.ask(statusOp("none")).GetError(); e.GetReason() != "TOO_MANY_REQUESTS" || control.Code(e.GetCode()) != control.ResourceExhausted {
		t.Errorf("one too many: %v", e)
	}
	r.own(func(k *Kernel) {
		if len(k.api.open) != maxOpenRequests {
			t.Errorf("%d requests are open", len(k.api.open))
		}
	})
	open(0)
	must(t, r.stop())
}
