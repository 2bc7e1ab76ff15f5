package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// identified is a deployment under a request id.
func identified(name, id string) *solov1.DeployRequest {
	m := deployment(name)
	m.RequestId = id
	return m
}

// TestRequestID: however often and whenever it comes, one request id makes one service
// and has one answer, also of the next kernel.
func TestRequestID(t *testing.T) {
	r := newRig(t)
	r.boot()
	hold := r.hold("solo-fs")
	var all []*call
	for range 8 {
		all = append(all, r.request(deployOp(identified("x", "once"))))
	}
	other := r.request(deployOp(identified("y", "once")))
	r.until("the followers", func(k *Kernel) bool { return len(k.api.following["once"]) == 8 })
	hold()
	first := r.await(all[0]).GetDeploy()
	if first.GetState() != stateReady {
		t.Fatalf("%v", r.await(all[0]))
	}
	for _, c := range all[1:] {
		got := r.await(c).GetDeploy()
		if diff := cmp.Diff(first, got, protocmp.Transform(), protocmp.IgnoreFields(got, "startup_ms")); diff != "" {
			t.Errorf("a follower's answer (-first +it):\n%s", diff)
		}
	}
	reused := func(resp *controlv1.Response) {
		t.Helper()
		if e := resp.GetError(); e.GetReason() != "REQUEST_ID_REUSED" || control.Code(e.GetCode()) != control.AlreadyExists {
			t.Errorf("another manifest under the id: %v", resp)
		}
	}
	reused(r.await(other))
	again := func() *solov1.DeployResponse {
		t.Helper()
		resp := r.ask(deployOp(identified("x", "once")))
		if resp.GetDeploy().GetServiceId() != first.GetServiceId() {
			t.Errorf("again: %v, first %v", resp, first)
		}
		return resp.GetDeploy()
	}
	if got := again(); got.GetState() != stateReady {
		t.Errorf("again: %v", got)
	}
	// What does not change what is deployed does not make it another manifest.
	m := identified("x", "once")
	m.Wait = false
	if resp := r.ask(deployOp(m)); resp.GetDeploy().GetServiceId() != first.GetServiceId() {
		t.Errorf("without wait: %v", resp)
	}
	if found := r.log.records("deploy", "x"); len(found) != 1 {
		t.Errorf("%d records of the deployment", len(found))
	}
	must(t, r.stop())
	close(r.over)
	r.boot()
	again()
	m = identified("x", "once")
	m.Env = map[string]string{"A": "1"}
	reused(r.ask(deployOp(m)))
	if resp := r.ask(deleteOp("x")); resp.GetDelete() == nil {
		t.Fatalf("%v", resp)
	}
	// It has been answered, so the answer stays the same; a new id is a new service.
	if got := again(); got.GetState() != stateStarting {
		t.Errorf("after the deletion: %v", got)
	}
	r.own(func(k *Kernel) {
		if k.services["x"] != nil {
			t.Error("the service is there again")
		}
	})
	if resp := r.ask(deployOp(identified("x", "twice"))); resp.GetDeploy().GetServiceId() == first.GetServiceId() || resp.GetDeploy() == nil {
		t.Errorf("under a new id: %v", resp)
	}
	must(t, r.stop())
	r.sound()
}

// TestFollowersOfAFailure try themselves.
func TestFollowersOfAFailure(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.react("solo-fs", func(_ *actor, m *controlv1.FromKernel) bool {
		return m.GetResolveCode().GetId() == 1 // later
	})
	calls := []*call{r.request(deployOp(identified("x", "id")))}
	r.until("the first", func(k *Kernel) bool { return len(k.files.asked) == 1 })
	calls = append(calls, r.request(deployOp(identified("x", "id"))), r.request(deployOp(identified("x", "id"))))
	r.until("the followers", func(k *Kernel) bool { return len(k.api.following["id"]) == 2 })
	r.of("solo-fs")[0].tell(&controlv1.FromService{Item: &controlv1.FromService_CodeResolved{CodeResolved: &controlv1.CodeResolved{
		Id: 1, Result: &controlv1.CodeResolved_Error{Error: &controlv1.Error{Code: uint32(control.InvalidArgument), Reason: "INVALID_MANIFEST", Message: "no"}},
	}}})
	if e := r.await(calls[0]).GetError(); e.GetReason() != "INVALID_MANIFEST" {
		t.Errorf("%v", e)
	}
	second, third := r.await(calls[1]).GetDeploy(), r.await(calls[2]).GetDeploy()
	if second.GetServiceId() == "" || second.GetServiceId() != third.GetServiceId() {
		t.Errorf("%v, %v", second, third)
	}
	r.own(func(k *Kernel) {
		if len(k.api.following)+len(k.reserved)+k.api.working != 0 {
			t.Errorf("left: %v, %v, %d", k.api.following, k.reserved, k.api.working)
		}
	})
	must(t, r.stop())
	r.sound()
}

// memfds counts the open memfds of a name in this process, which is also the kernel's.
func memfds(t *testing.T, name string) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && strings.HasPrefix(target, "/memfd:"+name) {
			n++
		}
	}
	return n
}

// TestGoneWhileFollowing: what a client has sent goes when it is the client's turn, and
// nothing is made of it.
func TestGoneWhileFollowing(t *testing.T) {
	r := newRig(t)
	r.boot()
	hold := r.hold("solo-fs")
	first := r.request(deployOp(identified("x", "id")))
	r.until("the first", func(k *Kernel) bool { return len(k.files.asked) == 1 })
	m := identified("x", "id")
	m.Files = []*solov1.File{{Path: "/etc/a"}, {Path: "/etc/b"}}
	name := fmt.Sprintf("solo-follow-%d", os.Getpid())
	var files ipc.Files
	for range 2 {
		f, err := ipc.SealedFile(name, []byte("content"))
		must(t, err)
		files = append(files, f)
	}
	follower := r.request(&controlv1.Request{Op: &controlv1.Request_Deploy{Deploy: &controlv1.DeployOp{Request: m, FileContents: []uint32{0, 1}}}}, &files)
	files.Close()
	r.until("the follower", func(k *Kernel) bool { return len(k.api.following["id"]) == 1 })
	if n := memfds(t, name); n != 2 {
		t.Fatalf("%d memfds wait", n)
	}
	r.cancel(follower)
	r.until("the cancellation", func(k *Kernel) bool { return len(k.api.open) == 1 })
	hold()
	if r.await(first).GetDeploy() == nil {
		t.Errorf("%v", r.await(first))
	}
	r.until("the follower's turn", func(k *Kernel) bool { return len(k.api.following) == 0 })
	if n := memfds(t, name); n != 0 {
		t.Errorf("%d memfds are open", n)
	}
	if follower.final != nil {
		t.Errorf("a client that has gone was answered: %v", follower.final)
	}
	must(t, r.stop())
	r.sound()
}

// TestContentsAreCounted: the kernel holds at most so many manifests, also of clients
// that have gone.
func TestContentsAreCounted(t *testing.T) {
	r := newRig(t)
	r.boot()
	hold := r.hold("solo-fs")
	var waiting []*call
	for i := range maxWorking {
		m := deployment(fmt.Sprint("v", i))
		m.ValidateOnly = true
		c := r.request(deployOp(m))
		waiting = append(waiting, c)
		if i%2 == 0 {
			r.cancel(c)
		}
	}
	r.until("all of them", func(k *Kernel) bool { return k.api.working == maxWorking && len(k.api.open) == maxWorking/2 })
	if e := r.ask(deployOp(deployment("x"))).GetError(); e.GetReason() != "TOO_MANY_REQUESTS" {
		t.Errorf("one too many: %v", e)
	}
	hold()
	r.react("solo-fs", nil)
	for i, c := range waiting {
		if i%2 != 0 {
			if resp := r.await(c); resp.GetDeploy().GetPlan() == nil {
				t.Fatalf("%v", resp)
			}
		}
	}
	r.until("the end of all", func(k *Kernel) bool { return k.api.working == 0 })
	r.deploy(proto.CloneOf(deployment("x")), stateReady)
	must(t, r.stop())
	r.sound()
}
