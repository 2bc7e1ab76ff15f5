package kernel

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// tally is what the clients were told.
type tally struct {
	mu  sync.Mutex
	ops map[string]*answers
	// refused counts refusals of operations that change state, unknown the answers that
	// nobody waited for.
	refused, unknown int
	wrong            []string
}

// answers counts those to one operation on one name.
// overtaken are refusals of what had been stored before.
type answers struct{ ok, overtaken, unknown int }

func (t *tally) fault(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.wrong) < 20 {
		t.wrong = append(t.wrong, fmt.Sprintf(format, args...))
	}
}

// count takes an answer, or nil for one that nobody waited for.
func (t *tally) count(op, name string, resp *controlv1.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.ops[op+" "+name]
	if a == nil {
		a = &answers{}
		t.ops[op+" "+name] = a
	}
	switch {
	case resp == nil:
		a.unknown++
		t.unknown++
	case resp.GetError() == nil:
		a.ok++
	default:
		t.refused++
		if reason := resp.GetError().GetReason(); reason == "OVERTAKEN" || reason == "NOT_STARTED" {
			a.overtaken++
		}
	}
}

// client asks for one thing after the other. What it owns nobody else asks for, so it
// knows what the answers must be.
type client struct {
	r *rig
	*tally
	rng    *rand.Rand
	number int
	name   string
	exists bool
}

// common are names that all clients ask for.
var common = []string{"common-a", "common-b"}

// parts are what programs do.
var parts = [][]string{
	nil, nil, nil, nil, nil, {"exit=0"}, {"exit=1"}, {"exit=125"}, {"stubborn"}, {"silent"}, {"fail-lease"}, {"fail-start"}, {"lie"},
}

func (c *client) manifest(name string) *solov1.DeployRequest {
	part := parts[c.rng.IntN(len(parts))]
	m := deployment(name, part...)
	m.Restart = []string{"permanent", "transient", "temporary"}[c.rng.IntN(3)]
	m.Replicas = []uint32{1, 1, 1, 2, 3}[c.rng.IntN(5)]
	m.Wait = c.rng.IntN(4) > 0
	if slices.Contains(part, "stubborn") {
		m.Resources.ShutdownTimeoutMs = 20
	}
	if slices.Contains(part, "silent") {
		m.Resources.StartupTimeoutMs = 20
	}
	if c.rng.IntN(3) == 0 {
		m.RequestId = fmt.Sprintf("%s-%d", name, c.rng.Uint64())
	}
	if name == c.name && c.rng.IntN(3) == 0 {
		m.Uses = []*solov1.Use{{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: fmt.Sprint("127.0.0.1:", 21000+c.number), To: 80}}}}
	}
	return m
}

// ask waits for the answer, or goes before it comes and answers nil.
func (c *client) ask(op, name string, req *controlv1.Request) *controlv1.Response {
	call := c.r.request(req)
	leaves := c.rng.IntN(8) == 0
	wait := testenv.Scale(hang)
	if leaves {
		wait = time.Duration(c.rng.IntN(4000)) * time.Microsecond
	}
	var resp *controlv1.Response
	select {
	case <-call.done:
		resp = call.final
	case <-time.After(wait):
		if !leaves {
			c.fault("%s %s was not answered: %s", op, name, c.r.dump())
			return nil
		}
		c.r.cancel(call)
		// On the same connection: when this is answered, the kernel knows.
		fence := c.r.request(statusOp("fence"))
		<-fence.done
	}
	if op != "status" {
		c.count(op, name, resp)
	}
	return resp
}

// resync waits until nothing is under way for the client's name, and looks.
func (c *client) resync() {
	deadline := time.Now().Add(testenv.Scale(hang))
	for time.Now().Before(deadline) {
		settled := false
		c.r.own(func(k *Kernel) {
			s := k.services[c.name]
			settled = !k.reserved[c.name] && (s == nil || s.durable && !s.deleting) && k.record.pending == 0
			c.exists = s != nil
		})
		if settled {
			return
		}
		time.Sleep(time.Millisecond)
	}
	c.fault("%s does not settle: %s", c.name, c.r.dump())
}

// step asks for something.
func (c *client) step() {
	name, mine := c.name, true
	if c.rng.IntN(3) == 0 {
		name, mine = common[c.rng.IntN(len(common))], false
	}
	var op string
	var req *controlv1.Request
	kind := c.rng.IntN(10)
	if mine && !c.exists && c.rng.IntN(3) > 0 {
		kind = 0 // or most of it would be about nothing
	}
	switch kind {
	case 0, 1, 2:
		op, req = "deploy", deployOp(c.manifest(name))
	case 3:
		op, req = "kill", killOp(name, c.rng.IntN(2) == 0)
	case 4:
		op, req = "start", startOp(name)
	case 5:
		op, req = "restart", restartOp(name)
	case 6:
		op, req = "delete", deleteOp(name)
	case 7, 8:
		c.run()
		return
	default:
		op, req = "status", statusOp(name)
	}
	resp := c.ask(op, name, req)
	switch {
	case resp == nil && mine:
		c.resync()
	case resp == nil:
	case mine:
		c.judge(op, resp)
	default:
		allowed := []string{"", "NAME_TAKEN", "SERVICE_NOT_FOUND", "BEING_DEPLOYED", "BEING_DELETED", "OVERTAKEN", "SERVICE_RESTARTING"}
		if got := resp.GetError().GetReason(); !slices.Contains(allowed, got) {
			c.fault("%s %s: %v", op, name, resp)
		}
	}
}

// judge compares an answer about the client's own service with what it knows.
func (c *client) judge(op string, resp *controlv1.Response) {
	reason, state := resp.GetError().GetReason(), ""
	want := []string{stateReady, stateFailed, stateFinished}
	switch op {
	case "deploy":
		state = resp.GetDeploy().GetState()
		want = append(want, stateStarting, stateBackoff)
	case "kill":
		state, want = resp.GetKill().GetState(), []string{stateStopped}
	case "start":
		state = resp.GetStart().GetState()
	case "restart":
		state = resp.GetRestart().GetState()
	case "delete":
		want = []string{""}
	case "status":
		state = resp.GetStatus().GetService().GetState()
		want = append(want, stateStarting, stateBackoff, stateStopped, stateStopping)
	}
	exists := c.exists
	switch {
	case op == "deploy" && exists:
		want = []string{"NAME_TAKEN"}
	case op == "deploy" && reason == "SERVICE_RESTARTING":
		return // solo-fs was on its way
	case op == "deploy":
		c.exists = reason == ""
	case !exists:
		want = []string{"SERVICE_NOT_FOUND"}
	case op == "delete":
		c.exists = reason != ""
	}
	got := state
	if reason != "" {
		got = reason
	}
	if !slices.Contains(want, got) {
		c.fault("%s %s, which exists: %v: %v, want %q", op, c.name, exists, resp, want)
	}
}

// run runs something once.
func (c *client) run() {
	part := parts[c.rng.IntN(len(parts))]
	m := deployment("run", part...)
	m.Name, m.Wait = fmt.Sprintf("run-%d-%d", c.number, c.rng.Uint32()), false
	m.Resources.ShutdownTimeoutMs = 20
	if slices.Contains(part, "silent") {
		m.Resources.StartupTimeoutMs = 20
	}
	resp := c.ask("run", m.GetName(), &controlv1.Request{Op: &controlv1.Request_Run{Run: &controlv1.RunOp{Deploy: &controlv1.DeployOp{Request: m}, TimeoutMs: 30}}})
	if resp == nil {
		return
	}
	exit, e := resp.GetRunExit(), resp.GetError()
	ends := e.GetReason() == "SERVICE_RESTARTING" || exit.GetReason() == "signal:9" || exit.GetReason() == reasonTimeout || strings.HasPrefix(exit.GetReason(), "exit:")
	switch word := strings.Join(part, " "); word {
	case "silent", "fail-lease", "fail-start":
		ends = ends || e.GetReason() == "NOT_STARTED"
	case "lie":
		ends = ends || exit.GetReason() == reasonProtocol
	}
	// Whatever ends an instance may do it before the program has started.
	if !ends && e.GetReason() != "NOT_STARTED" {
		c.fault("a run with %q: %v", part, resp)
	}
}
