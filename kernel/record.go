package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/store"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	// batchBytes is how much of the outbox goes to solo-audit in one message.
	batchBytes = 40 << 10
	// refusalsPerSecond is how many refusals of one capability are recorded one by
	// one; the surplus is counted.
	refusalsPerSecond = 20
)

// record is the way into the store and, from its outbox, to solo-audit.
type record struct {
	k          *Kernel
	generation uint64
	// sent and hash are the number and the hash of the last record sent; flying says
	// that it waits for its acknowledgement.
	sent   uint64
	hash   []byte
	flying bool
	// pending counts commits that are not on disk.
	pending int
	refused map[string]int
	ticking bool
}

// commit hands a change to the store; done, if any, is called by the owner when it is
// on disk or has failed.
func (r *record) commit(c store.Change, done func(error)) {
	r.pending++
	r.k.store.Commit(c, func(_ uint64, err error) {
		r.k.post(func() {
			r.pending--
			switch {
			case err == nil:
			case errors.Is(err, store.ErrOutboxFull):
				err = control.Errorf(control.ResourceExhausted, "AUDIT_BACKLOG",
					"the audit log has not kept up with %d records: see solo-audit in the log of solod; kill and shutdown still work", store.OutboxLimit)
			default:
				// The disk does not take it: nothing that changes state can go on.
				say("%v", err)
			}
			if err != nil && done == nil {
				say("record: %v", err)
			}
			r.drain()
			if done != nil {
				done(err)
			}
			r.k.ending.check()
		})
	})
}

// drain sends what solo-audit has not got, one batch at a time.
func (r *record) drain() {
	if r.flying || r.k.system.audit == nil {
		return
	}
	records, err := r.k.store.Outbox(r.sent, batchBytes)
	if err != nil {
		say("%v", err)
		return
	}
	if len(records) == 0 {
		return
	}
	last := records[len(records)-1]
	r.sent, r.hash, r.flying = last.GetNumber(), last.GetHash(), true
	r.k.system.toAudit(&controlv1.FromKernel{Item: &controlv1.FromKernel_AuditBatch{AuditBatch: &controlv1.AuditBatch{Records: records}}})
}

// rejoin begins again behind what solo-audit has acknowledged.
func (r *record) rejoin() {
	acked, err := r.k.store.Acked()
	if err != nil {
		say("%v", err)
		return
	}
	r.sent, r.flying = acked, false
	r.drain()
}

// clear says that everything committed is in the audit log.
func (r *record) clear() bool { return r.pending == 0 && !r.flying }

// fromAudit is the switch over what solo-audit may say: that the batch it was sent is
// on its disk, behind everything before.
func fromAudit(k *Kernel, _ *instance, m *controlv1.FromService, files ipc.Files) error {
	files.Close()
	ack := m.GetAuditAck()
	r := k.record
	switch {
	case ack == nil || len(files) > 0:
		return &ipc.ProtocolError{What: fmt.Sprintf("unexpected message %T", m.GetItem())}
	case !r.flying || ack.GetCount() != r.sent || !bytes.Equal(ack.GetHead(), r.hash):
		return &ipc.ProtocolError{What: fmt.Sprintf("acknowledges record %d with head %x, record %d with head %x was sent", ack.GetCount(), ack.GetHead(), r.sent, r.hash)}
	}
	r.flying = false
	k.store.Acknowledge(r.sent)
	r.drain()
	k.ending.check()
	return nil
}

// refusal records that an operation was refused. Those without a valid token are only
// counted, and so is what one capability is refused more than refusalsPerSecond times:
// a second later the counts become one record each.
func (r *record) refusal(actor string, op control.Operation, e *control.Error) {
	if r.refused == nil {
		r.refused = map[string]int{}
	}
	r.tick()
	if actor == "" {
		r.refused[""]++
		return
	}
	if r.refused[actor]++; r.refused[actor] > refusalsPerSecond {
		return
	}
	r.commit(store.Change{Audit: []store.Entry{{Operation: op.Name, Actor: actor, Object: op.Object, Result: e.Reason, Detail: [][2]string{{"message", e.Message}}}}}, nil)
}

func (r *record) tick() {
	if r.ticking {
		return
	}
	r.ticking = true
	r.k.later(time.Second, func() {
		r.ticking = false
		r.counts()
	})
}

// counts records what has only been counted.
func (r *record) counts() {
	for actor, n := range r.refused {
		if actor == "" {
			r.count("unauthenticated", "UNAUTHENTICATED", n)
		} else if n > refusalsPerSecond {
			r.count(actor, "MORE_REFUSALS", n-refusalsPerSecond)
		}
	}
	r.refused = nil
}

func (r *record) count(actor, result string, n int) {
	r.commit(store.Change{Audit: []store.Entry{{Operation: "denied", Actor: actor, Result: result, Detail: [][2]string{{"count", strconv.Itoa(n)}}}}}, nil)
}
