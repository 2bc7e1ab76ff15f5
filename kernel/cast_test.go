package kernel

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// tell sends what a system service says.
func (a *actor) tell(m *controlv1.FromService, files ...*ipc.Files) {
	var all ipc.Files
	for _, f := range files {
		all = append(all, *f...)
	}
	a.sending.Lock()
	defer a.sending.Unlock()
	_ = a.control.Send(m, all...)
}

// serve plays one of Solo's own services until the kernel ends it.
func (a *actor) serve(name string) {
	a.tell(&controlv1.FromService{Item: &controlv1.FromService_Hello{Hello: &controlv1.Hello{Protocol: 1}}})
	for {
		m := &controlv1.FromKernel{}
		files, _, err := a.control.Receive(m)
		if err != nil {
			return
		}
		a.st.mu.Lock()
		a.st.said[name] = append(a.st.said[name], m)
		on := a.st.on[name]
		a.st.mu.Unlock()
		switch {
		case on != nil && on(a, m):
		case m.GetStop() != nil:
			a.die(exited(cldExited, 0))
		case name == "solo-gateway":
			a.st.calls.answered(m.GetResponse(), files)
			continue
		case name == "solo-audit":
			a.keep(m.GetAuditBatch())
		case name == "solo-net":
			a.publish(m)
		case name == "solo-fs":
			a.resolve(m)
		}
		files.Close()
	}
}

// resolve answers as solo-fs does for a program of the host.
func (a *actor) resolve(m *controlv1.FromKernel) {
	if m.GetFilesystemConfig() != nil {
		a.tell(&controlv1.FromService{Item: &controlv1.FromService_FilesystemReady{FilesystemReady: &controlv1.FilesystemReady{}}})
	}
	if q := m.GetResolveCode(); q != nil {
		a.tell(resolved(q.GetId()))
	}
}

func resolved(id uint64) *controlv1.FromService {
	return &controlv1.FromService{Item: &controlv1.FromService_CodeResolved{CodeResolved: &controlv1.CodeResolved{
		Id: id, Result: &controlv1.CodeResolved_Code{Code: &controlv1.Code{
			Runtime: "binary", Digest: anyDigest, Program: "/usr/bin/x", Argv: []string{"x", "$ARGS"}, SeccompProfile: "default",
			Mounts: []*controlv1.CodeMount{{Source: "/usr", Target: "/usr", Directory: true}},
		}},
	}}}
}

// publish answers as solo-net does when every port is free and every probe succeeds.
func (a *actor) publish(m *controlv1.FromKernel) {
	if o := m.GetPortOpen(); o != nil {
		a.tell(portState(o.GetId(), 0))
	}
	if p := m.GetNetProbe(); p != nil {
		a.tell(&controlv1.FromService{Item: &controlv1.FromService_NetProbeResult{NetProbeResult: &controlv1.NetProbeResult{Id: p.GetId(), Ready: true}}})
	}
}

func portState(id uint64, errno int32) *controlv1.FromService {
	return &controlv1.FromService{Item: &controlv1.FromService_PortState{PortState: &controlv1.PortState{Id: id, Errno: errno}}}
}

// auditLog is what solo-audit has on its disk.
type auditLog struct {
	mu    sync.Mutex
	count uint64
	head  []byte
	lines []auditLine
	wrong []string
}

type auditLine struct {
	Number                    uint64
	Op, Actor, Object, Result string
	Detail                    map[string]string
	Prev                      string
}

// keep appends a batch and acknowledges it.
func (a *actor) keep(b *controlv1.AuditBatch) {
	if b != nil {
		a.tell(a.st.log.append(b))
	}
}

func (l *auditLog) append(b *controlv1.AuditBatch) *controlv1.FromService {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range b.GetRecords() {
		if r.GetNumber() <= l.count {
			continue // it was sent before, and the acknowledgement was lost
		}
		var line auditLine
		if err := json.Unmarshal(r.GetLine(), &line); err != nil || line.Number != r.GetNumber() || r.GetNumber() != l.count+1 {
			l.wrong = append(l.wrong, fmt.Sprintf("after %d: %s (%v)", l.count, r.GetLine(), err))
		}
		if l.head == nil {
			l.head = make([]byte, sha256.Size)
		}
		sum := sha256.Sum256(append(bytes.Clone(l.head), r.GetLine()...))
		if line.Prev != hex.EncodeToString(l.head) || !bytes.Equal(sum[:], r.GetHash()) {
			l.wrong = append(l.wrong, fmt.Sprintf("the chain breaks at %s", r.GetLine()))
		}
		l.count, l.head, l.lines = r.GetNumber(), r.GetHash(), append(l.lines, line)
	}
	return auditAck(l.count, l.head)
}

func auditAck(count uint64, head []byte) *controlv1.FromService {
	return &controlv1.FromService{Item: &controlv1.FromService_AuditAck{AuditAck: &controlv1.AuditAck{Count: count, Head: head}}}
}

// total is how many there are.
func (l *auditLog) total() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// records are the log's lines of an operation on an object.
func (l *auditLog) records(op, object string) (found []auditLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if line.Op == op && line.Object == object {
			found = append(found, line)
		}
	}
	return found
}

// calls are the requests that solo-gateway has passed on.
type calls struct {
	mu    sync.Mutex
	next  uint64
	all   map[uint64]*call
	wrong []string
}

// call is one request and what came back.
type call struct {
	id    uint64
	op    string
	more  []*controlv1.Response
	final *controlv1.Response
	files ipc.Files
	// done is closed with the last answer, and when none will come (final is nil).
	done chan struct{}
	over bool
}

func (c *calls) answered(m *controlv1.Response, files ipc.Files) {
	if m == nil {
		files.Close()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.all[m.GetId()]
	switch {
	case call == nil:
		c.wrong = append(c.wrong, fmt.Sprintf("an answer to nothing: %v", m))
		files.Close()
		return
	case call.final != nil:
		c.wrong = append(c.wrong, fmt.Sprintf("a second answer to %s: %v, then %v", call.op, call.final, m))
	}
	call.files = append(call.files, files...)
	if m.GetMore() {
		call.more = append(call.more, m)
		return
	}
	call.final = m
	call.end()
}

func (c *call) end() {
	if !c.over {
		c.over = true
		close(c.done)
	}
}

// lost: the gateway has gone with every call.
func (c *calls) lost() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.all {
		call.end()
		call.files.Close()
		call.files = nil
	}
}

// request fills a request in with root's token and passes it on.
func (st *stage) request(req *controlv1.Request, files ...*ipc.Files) *call {
	if req.GetToken() == "" {
		req.Token = st.token
	}
	return st.pass(req, files...)
}

// pass has solo-gateway pass a request on as it is.
func (st *stage) pass(req *controlv1.Request, files ...*ipc.Files) *call {
	c := &st.calls
	c.mu.Lock()
	if c.all == nil {
		c.all = map[uint64]*call{}
	}
	c.next++
	req.Id = c.next
	made := &call{id: req.GetId(), op: fmt.Sprintf("%T", req.GetOp()), done: make(chan struct{})}
	c.all[req.GetId()] = made
	c.mu.Unlock()
	for _, gw := range st.of("solo-gateway") {
		gw.tell(&controlv1.FromService{Item: &controlv1.FromService_Request{Request: req}}, files...)
		return made
	}
	made.end()
	return made
}

// cancel: the client has gone.
func (st *stage) cancel(c *call) {
	st.calls.mu.Lock()
	c.end()
	st.calls.mu.Unlock()
	for _, gw := range st.of("solo-gateway") {
		gw.tell(&controlv1.FromService{Item: &controlv1.FromService_Cancel{Cancel: &controlv1.Cancel{Id: c.id}}})
	}
}

// await waits for the last answer.
func (st *stage) await(c *call) *controlv1.Response {
	st.r.t.Helper()
	select {
	case <-c.done:
	case <-time.After(testenv.Scale(hang)):
		st.r.t.Fatalf("%s was not answered: %s", c.op, st.r.dump())
	}
	return c.final
}

// ask is request and await.
func (st *stage) ask(req *controlv1.Request) *controlv1.Response {
	st.r.t.Helper()
	return st.await(st.request(req))
}

// deployment is a manifest whose program plays a part.
func deployment(name string, parts ...string) *solov1.DeployRequest {
	return &solov1.DeployRequest{
		Name: name, Wait: true,
		Code:      &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: "/usr/bin/x", Args: append([]string{name}, parts...)}},
		Resources: &solov1.Resources{StartupTimeoutMs: 60_000, ShutdownTimeoutMs: 60_000},
	}
}

func deployOp(m *solov1.DeployRequest) *controlv1.Request {
	return &controlv1.Request{Op: &controlv1.Request_Deploy{Deploy: &controlv1.DeployOp{Request: m}}}
}

func statusOp(name string) *controlv1.Request {
	return &controlv1.Request{Op: &controlv1.Request_Status{Status: &solov1.StatusRequest{Service: name}}}
}

func killOp(name string, force bool) *controlv1.Request {
	return &controlv1.Request{Op: &controlv1.Request_Kill{Kill: &solov1.KillRequest{Service: name, Force: force}}}
}

func deleteOp(name string) *controlv1.Request {
	return &controlv1.Request{Op: &controlv1.Request_Delete{Delete: &solov1.DeleteRequest{Service: name}}}
}

func startOp(name string) *controlv1.Request {
	return &controlv1.Request{Op: &controlv1.Request_Start{Start: &solov1.StartRequest{Service: name, Wait: true}}}
}

func restartOp(name string) *controlv1.Request {
	return &controlv1.Request{Op: &controlv1.Request_Restart{Restart: &solov1.RestartRequest{Service: name, Wait: true}}}
}

// deploy deploys and wants the service in a state.
func (r *rig) deploy(m *solov1.DeployRequest, want string) *solov1.DeployResponse {
	r.t.Helper()
	resp := r.ask(deployOp(proto.CloneOf(m)))
	if resp.GetError() != nil || resp.GetDeploy().GetState() != want {
		r.t.Fatalf("deploy %s: %v, want state %s", m.GetName(), resp, want)
	}
	return resp.GetDeploy()
}

// sound checks what holds at any time of the log and of the answers.
func (r *rig) sound() {
	r.t.Helper()
	for _, l := range []struct {
		mu    *sync.Mutex
		wrong *[]string
	}{{&r.log.mu, &r.log.wrong}, {&r.calls.mu, &r.calls.wrong}} {
		l.mu.Lock()
		for _, w := range *l.wrong {
			r.t.Error(w)
		}
		l.mu.Unlock()
	}
}
