package kernel

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/store"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

// TestRefusalsAreCounted: what one capability is refused too often becomes one record,
// and so does everything without a valid token.
func TestRefusalsAreCounted(t *testing.T) {
	r := newRig(t)
	r.boot()
	op := control.Operation{Name: "kill", Changes: true, Object: "x"}
	e := control.Errorf(control.NotFound, "SERVICE_NOT_FOUND", "there is no service x")
	r.own(func(k *Kernel) { // at once, whatever the clock does
		for range refusalsPerSecond + 7 {
			k.record.refusal("busy", op, e)
		}
		for range refusalsPerSecond {
			k.record.refusal("calm", op, e)
		}
		for range 1000 {
			k.record.refusal("", op, e)
		}
	})
	testenv.Eventually(t, hang, "the counts", func() bool { return len(r.log.records("denied", "")) == 2 })
	single := map[string]int{}
	for _, line := range r.log.records("kill", "x") {
		if line.Result != "SERVICE_NOT_FOUND" || line.Detail["message"] != "there is no service x" {
			t.Errorf("%+v", line)
		}
		single[line.Actor]++
	}
	if diff := cmp.Diff(map[string]int{"busy": refusalsPerSecond, "calm": refusalsPerSecond}, single); diff != "" {
		t.Errorf("single records (-want +got):\n%s", diff)
	}
	counted := map[string]string{}
	for _, line := range r.log.records("denied", "") {
		counted[line.Actor+" "+line.Result] = line.Detail["count"]
	}
	if diff := cmp.Diff(map[string]string{"busy MORE_REFUSALS": "7", "unauthenticated UNAUTHENTICATED": "1000"}, counted); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	// The next second begins at nothing.
	r.own(func(k *Kernel) {
		if len(k.record.refused) != 0 || k.record.ticking {
			t.Errorf("after the count: %v, %v", k.record.refused, k.record.ticking)
		}
		k.record.refusal("busy", op, e)
	})
	testenv.Eventually(t, hang, "the next record", func() bool { return len(r.log.records("kill", "x")) == 2*refusalsPerSecond+1 })
	// The end comes before the second is over.
	r.own(func(k *Kernel) { k.record.refusal("", op, e) })
	must(t, r.stop())
	if found := r.log.records("denied", ""); len(found) != 3 || found[2].Detail["count"] != "1" {
		t.Errorf("at the end: %+v", found)
	}
	r.sound()
}

// commits hands in records of about a size each.
func (r *rig) commits(n, size int) {
	r.t.Helper()
	text := strings.Repeat("x", size)
	r.own(func(k *Kernel) {
		for i := range n {
			k.record.commit(store.Change{Audit: []store.Entry{{Operation: "test", Actor: "test", Object: strconv.Itoa(i), Result: text}}}, nil)
		}
	})
	r.until("the commits", func(k *Kernel) bool { return k.record.pending == 0 })
}

// TestAuditBatches: one batch at a time, within its size, nothing missing; and who
// comes back gets again what was not acknowledged.
func TestAuditBatches(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.until("an empty outbox", func(k *Kernel) bool { return k.record.clear() })
	got := make(chan *controlv1.AuditBatch, 100)
	r.react("solo-audit", func(a *actor, m *controlv1.FromKernel) bool {
		if b := m.GetAuditBatch(); b != nil {
			got <- b
			return true
		}
		return false
	})
	const n = 60
	r.commits(n, 4000)
	audit := r.of("solo-audit")[0]
	batches := []*controlv1.AuditBatch{<-got}
	if len(got) != 0 {
		t.Error("a second batch before the first was acknowledged")
	}
	for len(batches) < 3 {
		audit.keep(batches[len(batches)-1])
		batches = append(batches, <-got)
	}
	// It ends with a batch that it has not acknowledged, as if it had not come.
	audit.die(nil)
	again := <-got
	if diff := cmp.Diff(numbers(batches[2]), numbers(again)[:len(numbers(batches[2]))]); diff != "" {
		t.Errorf("after the restart (-want +got):\n%s", diff)
	}
	if first, last := numbers(batches[1]), numbers(again); last[0] != first[len(first)-1]+1 {
		t.Errorf("record %d follows %d", last[0], first[len(first)-1])
	}
	for _, b := range append(batches, again) {
		if len(b.GetRecords()) == 0 || len(b.GetRecords()) > 1 && proto.Size(b) > batchBytes+1024 || proto.Size(b) > ipc.MaxMessage {
			t.Errorf("a batch of %d records and %d bytes", len(b.GetRecords()), proto.Size(b))
		}
	}
	r.react("solo-audit", nil)
	r.of("solo-audit")[0].keep(again)
	must(t, r.stop())
	for i := range n {
		if found := r.log.records("test", strconv.Itoa(i)); len(found) != 1 {
			t.Errorf("%d records of commit %d", len(found), i)
		}
	}
	r.sound()
}

func numbers(b *controlv1.AuditBatch) (all []uint64) {
	for _, r := range b.GetRecords() {
		all = append(all, r.GetNumber())
	}
	return all
}

// TestAuditLies: an acknowledgement of anything but what was sent ends solo-audit, and
// takes nothing out of the outbox.
func TestAuditLies(t *testing.T) {
	r := newRig(t)
	r.boot()
	r.until("an empty outbox", func(k *Kernel) bool { return k.record.clear() })
	lie := func(name string, m *controlv1.FromService, files ipc.Files) {
		t.Helper()
		var err error
		var before, after uint64
		r.own(func(k *Kernel) {
			before, _ = k.store.Acked()
			err = fromAudit(k, nil, m, files)
		})
		var protocol *ipc.ProtocolError
		if !errors.As(err, &protocol) {
			t.Errorf("%s is taken: %v", name, err)
		}
		r.own(func(k *Kernel) { after, _ = k.store.Acked() })
		if before != after {
			t.Errorf("%s: acknowledged %d, before %d", name, after, before)
		}
	}
	var count uint64
	var head []byte
	know := func(k *Kernel) { count, head = k.record.sent, k.record.hash }
	r.own(know)
	lie("an acknowledgement again", auditAck(count, head), nil)
	hold := r.hold("solo-audit")
	r.commits(3, 10)
	r.own(know)
	other := append([]byte{head[0] ^ 1}, head[1:]...)
	f, err := ipc.SealedFile("test", nil)
	must(t, err)
	lie("the right count with another head", auditAck(count, other), nil)
	lie("no head", auditAck(count, nil), nil)
	lie("half a head", auditAck(count, head[:16]), nil)
	lie("less than was sent", auditAck(count-1, head), nil)
	lie("more than was sent", auditAck(count+1, head), nil)
	lie("nothing", auditAck(0, nil), nil)
	lie("an acknowledgement with a descriptor", auditAck(count, head), ipc.Files{f})
	lie("another message", portState(1, 0), nil)
	if f.Close() == nil {
		t.Error("the descriptor stayed open")
	}
	hold()
	r.until("the right acknowledgement", func(k *Kernel) bool { return k.record.clear() })
	// And by the real way.
	audit := r.of("solo-audit")[0]
	audit.tell(auditAck(1, other))
	<-audit.done
	r.until("the next solo-audit", func(k *Kernel) bool {
		return k.system.audit != nil && k.system.audit.id != audit.id && k.record.clear()
	})
	if found := r.log.records("exit", "solo-audit"); len(found) != 1 || found[0].Result != reasonProtocol {
		t.Errorf("the log has %+v", found)
	}
	must(t, r.stop())
	r.sound()
}
