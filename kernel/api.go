package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	// maxOpenRequests bounds the calls in flight, waiting ones included.
	maxOpenRequests = 4096
	// maxWorking bounds the manifests that are being looked into, whether their clients
	// have gone meanwhile or not.
	maxWorking = 256
)

// api holds the calls that the gateway has passed on and that are not answered.
type api struct {
	k    *Kernel
	open map[uint64]*request
	// answered are the answers to request ids; following waits for one that is being
	// made.
	answered  map[string]*controlv1.RequestRecord
	following map[string][]func()
	// working counts manifests that are being looked into.
	working int
	// order are the ids of answered, oldest first.
	order []string
}

func newAPI(k *Kernel) *api {
	return &api{k: k, open: map[uint64]*request{}, answered: map[string]*controlv1.RequestRecord{}, following: map[string][]func(){}}
}

// request is one call. It is answered once.
type request struct {
	k     *Kernel
	id    uint64
	op    control.Operation
	actor string
	scope string
	at    time.Duration
	// gone is called when the client has gone before the answer.
	gone func()
	over bool
}

// A request id is known for keepRequests, and the last maxRequests are.
const (
	keepRequests = 24 * time.Hour
	maxRequests  = 10_000
)

// remember takes over what the store knows of request ids.
func (a *api) remember(known map[string]*controlv1.RequestRecord) {
	for id, r := range known {
		a.answered[id] = r
		a.order = append(a.order, id)
	}
	slices.SortFunc(a.order, func(x, y string) int {
		return cmp.Compare(known[x].GetTimeUnixNano(), known[y].GetTimeUnixNano())
	})
}

// forgotten takes the ids out that are too old, or too many.
func (a *api) forgotten(now time.Time) (old []string) {
	for len(a.order) > 0 {
		id := a.order[0]
		if len(a.order) < maxRequests && now.UnixNano()-a.answered[id].GetTimeUnixNano() < keepRequests.Nanoseconds() {
			break
		}
		a.order = a.order[1:]
		delete(a.answered, id)
		old = append(old, id)
	}
	return old
}

// answer sends the response and ends the request, unless more follows. It takes
// ownership of the files.
func (r *request) answer(resp *controlv1.Response, files ...*os.File) {
	if r.over {
		ipc.Files(files).Close()
		return
	}
	if !resp.GetMore() {
		r.over = true
		delete(r.k.api.open, r.id)
	}
	resp.Id = r.id
	err := r.k.system.to(r.k.system.gateway, &controlv1.FromKernel{Item: &controlv1.FromKernel_Response{Response: resp}}, files...)
	if errors.Is(err, ipc.ErrTooLong) {
		// Much of an answer is what the client itself has said.
		e := control.Errorf(control.ResourceExhausted, "ANSWER_TOO_LONG", "the answer to %s does not fit into %d bytes", r.op.Name, ipc.MaxMessage)
		_ = r.k.system.to(r.k.system.gateway, &controlv1.FromKernel{Item: &controlv1.FromKernel_Response{Response: &controlv1.Response{Id: r.id, Error: e.Proto()}}})
	}
}

// refuse answers with an error. That a change of state was refused is recorded.
func (r *request) refuse(err error) {
	e := control.As(err)
	if r.op.Changes && !r.over {
		r.k.record.refusal(r.actor, r.op, e)
	}
	r.answer(&controlv1.Response{Error: e.Proto()})
}

// lost: the gateway has ended, and every call with it.
func (a *api) lost() {
	for _, r := range a.open {
		r.leave()
	}
}

func (r *request) leave() {
	r.over = true
	delete(r.k.api.open, r.id)
	if r.gone != nil {
		r.gone()
	}
}

// shutdown refuses what still waits.
func (a *api) shutdown() {
	for _, r := range a.open {
		if r.op.Name != "shutdown" {
			r.refuse(errShuttingDown())
		}
	}
}

func errShuttingDown() *control.Error {
	return control.Errorf(control.Unavailable, "SHUTTING_DOWN", "Solo is shutting down")
}

// fromGateway is the switch over what solo-gateway may say.
func fromGateway(k *Kernel, _ *instance, m *controlv1.FromService, files ipc.Files) error {
	switch item := m.GetItem().(type) {
	case *controlv1.FromService_Request:
		return k.api.request(item.Request, files)
	case *controlv1.FromService_Cancel:
		files.Close()
		if r := k.api.open[item.Cancel.GetId()]; r != nil {
			r.leave()
		}
		return nil
	}
	files.Close()
	return &ipc.ProtocolError{What: fmt.Sprintf("unexpected message %T", m.GetItem())}
}

// request is the one way in: who asks is decided by the token alone, here.
func (a *api) request(req *controlv1.Request, files ipc.Files) error {
	k := a.k
	op, known := control.Identify(req)
	if !known || a.open[req.GetId()] != nil {
		files.Close()
		return &ipc.ProtocolError{What: fmt.Sprintf("request %d is not one", req.GetId())}
	}
	r := &request{k: k, id: req.GetId(), op: op, at: k.uptime()}
	a.open[r.id] = r
	who, denied := k.tokens.Authorize(req.GetToken(), op)
	r.actor, r.scope = who.ID, who.Scope
	switch {
	case denied != nil:
		files.Close()
		k.record.refusal(r.actor, op, denied)
		r.answer(&controlv1.Response{Error: denied.Proto()})
		return nil
	case len(a.open) > maxOpenRequests:
		files.Close()
		r.refuse(control.Errorf(control.ResourceExhausted, "TOO_MANY_REQUESTS", "%d calls are waiting, which is the limit; try again", maxOpenRequests))
		return nil
	case k.ending.begun:
		files.Close()
		r.refuse(errShuttingDown())
		return nil
	}
	if field, found := ipc.UnknownField(req); found {
		files.Close()
		r.refuse(control.Invalid([]manifest.Violation{{Field: fieldOf(field), Description: "is unknown to this version of Solo"}}))
		return nil
	}
	return a.dispatch(r, req, files)
}

// fieldOf is a field of the control protocol as the client knows it.
func fieldOf(field string) string {
	if _, inner, ok := strings.Cut(field, "request."); ok {
		return inner // deploy.request.resources.17
	}
	_, inner, _ := strings.Cut(field, ".") // status.17
	return inner
}

// dispatch owns files. Every operation of control.Identify has its case here.
func (a *api) dispatch(r *request, req *controlv1.Request, files ipc.Files) error {
	k := a.k
	switch o := req.GetOp().(type) {
	case *controlv1.Request_Deploy:
		return k.deploy(r, o.Deploy, files)
	case *controlv1.Request_Run:
		return k.run(r, o.Run, files)
	case *controlv1.Request_StoreArtifact:
		return k.storeArtifact(r, o.StoreArtifact, files)
	}
	if len(files) > 0 {
		files.Close()
		return &ipc.ProtocolError{What: r.op.Name + " with descriptors"}
	}
	switch o := req.GetOp().(type) {
	case *controlv1.Request_Status:
		k.status(r, o.Status)
	case *controlv1.Request_List:
		k.list(r, o.List)
	case *controlv1.Request_Kill:
		k.killService(r, o.Kill)
	case *controlv1.Request_Watch:
		k.watchService(r, o.Watch)
	case *controlv1.Request_Shutdown:
		k.shutdown(r, o.Shutdown)
	case *controlv1.Request_Start:
		k.startService(r, o.Start)
	case *controlv1.Request_Restart:
		k.restartService(r, o.Restart)
	case *controlv1.Request_Delete:
		k.deleteService(r, o.Delete)
	case *controlv1.Request_Info:
		k.info(r)
	case *controlv1.Request_AuditTail:
		k.auditTail(r, o.AuditTail)
	case *controlv1.Request_AuthorizeUpload:
		r.answer(&controlv1.Response{Result: &controlv1.Response_UploadAuthorized{UploadAuthorized: &controlv1.UploadAuthorized{MaxBytes: k.maxUpload()}}})
	case *controlv1.Request_Grant:
		r.refuse(control.Errorf(control.Unimplemented, "UNIMPLEMENTED", "GrantCapability is not part of this version of Solo"))
	case *controlv1.Request_Update:
		r.refuse(control.Errorf(control.Unimplemented, "UNIMPLEMENTED", "Update is not part of this version of Solo; delete the service and deploy it anew"))
	default:
		return &ipc.ProtocolError{What: r.op.Name + " has no handler"}
	}
	return nil
}

// find looks a service up for a request, or refuses it.
func (r *request) find(name string) *service {
	s := r.k.services[name]
	if s == nil {
		r.refuse(control.Errorf(control.NotFound, "SERVICE_NOT_FOUND", "there is no service %.80q", name).With("service", name))
	}
	return s
}

// own is find for operations on services that users deploy. Solo's own need the
// kernel's admin right, and of them only restart makes sense.
func (r *request) own(name string) *service {
	s := r.find(name)
	switch {
	case s == nil:
	case s.role != nil:
		r.refuse(control.Errorf(control.FailedPrecondition, "SYSTEM_SERVICE", "%s is part of Solo: it can be restarted, not stopped or deleted", s.name))
		return nil
	case s.oneshot != nil && r.op.Name != "kill":
		r.refuse(control.Errorf(control.FailedPrecondition, "ONE_SHOT", "%s is a run: it can only be killed", s.name))
		return nil
	case !s.durable && s.oneshot == nil:
		r.refuse(control.Errorf(control.FailedPrecondition, "BEING_DEPLOYED", "%s is being deployed; try again", s.name))
		return nil
	case s.deleting && r.op.Name != "kill":
		r.refuse(control.Errorf(control.FailedPrecondition, "BEING_DELETED", "%s is being deleted", s.name))
		return nil
	}
	return s
}

// maxUpload is the operator's limit of an upload.
func (k *Kernel) maxUpload() uint64 {
	if n := k.boot.GetConfig().GetMaxUploadBytes(); n > 0 {
		return n
	}
	return 64 << 20
}

// maxServices is the operator's limit of services.
func (k *Kernel) maxServices() int {
	if n := k.boot.GetConfig().GetMaxServices(); n > 0 {
		return int(n)
	}
	return 1000
}
