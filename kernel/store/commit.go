package store

import (
	"errors"
	"fmt"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// OutboxLimit is how many records may wait for solo-audit; beyond it only changes
// marked Reserve are taken, up to OutboxLimit+OutboxReserve.
const (
	OutboxLimit   = 100_000
	OutboxReserve = 10_000
)

// Errors of Commit.
var (
	// ErrNoRecord says that a change of state came without its audit record.
	ErrNoRecord = errors.New("change of state without an audit record")
	// ErrOutboxFull says that the audit log has not kept up: privileged operations
	// fail closed until it does.
	ErrOutboxFull = errors.New("audit outbox is full")
	// ErrClosed says that the store is closed, or is closing.
	ErrClosed = errors.New("state is closed")
)

// Change is what one decision changes. All of it happens, or nothing.
type Change struct {
	PutService    *ServiceChange
	DeleteService string
	PutRequest    *RequestChange
	// DeleteRequests are request ids to be forgotten.
	DeleteRequests []string
	PutToken       *controlv1.TokenRecord
	Audit          []Entry
	// Reserve lets the change use the outbox's reserve: Kill, Revoke and Shutdown.
	Reserve bool
}

// ServiceChange writes a service's record under its name.
type ServiceChange struct {
	Name   string
	Record *controlv1.ServiceRecord
}

// RequestChange remembers the answer to a request id.
type RequestChange struct {
	ID     string
	Record *controlv1.RequestRecord
}

// pending is a change or an acknowledgement on its way to the committer.
type pending struct {
	puts    []put
	deletes []put
	audit   []Entry
	reserve bool
	answer  func(last uint64, err error)
	// err refuses the change before it is tried.
	err error
	// ack drops records instead.
	ack uint64
}

// put is a marshalled value for a bucket, or a key to be deleted.
type put struct {
	bucket, key, value []byte
}

// maxKey is bbolt's limit of a key.
const maxKey = bolt.MaxKeySize

// Commit hands in a change; it blocks only while the queue is full. answer, if any, is
// called when the change is on disk or has failed: from the committer, so it must not
// block or commit, or from Commit itself when the store is closed. It gets the number
// of the last audit record on disk. Changes become durable in the order they are handed
// in; those that wait together share one transaction. The records are marshalled before
// Commit returns: the caller may go on to change them.
func (s *Store) Commit(c Change, answer func(last uint64, err error)) {
	p := pending{deletes: c.deletes(), audit: c.Audit, reserve: c.Reserve, answer: answer}
	p.puts, p.err = c.puts()
	if len(c.Audit) == 0 {
		p.err = ErrNoRecord
	}
	if !s.send(p) && answer != nil {
		answer(0, ErrClosed)
	}
}

// Acknowledge drops the outbox's records up to and including number. A number that was
// never written, or was acknowledged before, changes nothing.
func (s *Store) Acknowledge(number uint64) {
	if number > 0 {
		s.send(pending{ack: number})
	}
}

func (s *Store) send(p pending) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return false
	}
	s.pending <- p
	return true
}

// puts marshals what the change writes. An error here is of this change alone; one in
// the transaction would end the others in it, too.
func (c Change) puts() ([]put, error) {
	var all []put
	var errs []error
	add := func(bucket []byte, what, key string, m proto.Message) {
		value, err := proto.Marshal(m)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s record %.80q: %w", what, key, err))
		case key == "" || len(key) > maxKey:
			errs = append(errs, fmt.Errorf("%s record: key of %d bytes, 1 to %d are allowed", what, len(key), maxKey))
		}
		all = append(all, put{bucket, []byte(key), value})
	}
	if c.PutService != nil {
		add(bucketServices, "service", c.PutService.Name, c.PutService.Record)
	}
	if c.PutRequest != nil {
		add(bucketRequests, "request", c.PutRequest.ID, c.PutRequest.Record)
	}
	if c.PutToken != nil {
		add(bucketTokens, "token", c.PutToken.GetId(), c.PutToken)
	}
	return all, errors.Join(errs...)
}

func (c Change) deletes() (all []put) {
	if c.DeleteService != "" {
		all = append(all, put{bucket: bucketServices, key: []byte(c.DeleteService)})
	}
	for _, id := range c.DeleteRequests {
		all = append(all, put{bucket: bucketRequests, key: []byte(id)})
	}
	return all
}

// batch bounds the changes of one transaction.
const batch = 256

// commit is the committer's goroutine: it ends when the channel is closed and empty.
func (s *Store) commit() {
	defer close(s.done)
	for p := range s.pending {
		group := []pending{p}
	gather:
		for len(group) < batch {
			select {
			case more, open := <-s.pending:
				if !open {
					break gather
				}
				group = append(group, more)
			default:
				break gather
			}
		}
		s.apply(group)
	}
}

// apply commits a group; a change that is refused does not hold up the others.
func (s *Store) apply(group []pending) {
	errs := make([]error, len(group))
	var last uint64
	waiting := s.waiting
	err := s.db.Update(func(tx *bolt.Tx) error {
		for i, p := range group {
			if p.ack > 0 {
				if err := s.drop(tx, p.ack); err != nil {
					return err
				}
				continue
			}
			if errs[i] = s.admit(p); errs[i] != nil {
				continue
			}
			if err := s.write(tx, p); err != nil {
				return err
			}
		}
		last = number(tx.Bucket(bucketMeta).Get(keyNumber))
		return nil
	})
	if err != nil {
		s.waiting, last = waiting, 0
	}
	for i, p := range group {
		if p.answer == nil {
			continue
		}
		refused := errs[i]
		if refused == nil {
			refused = err
		}
		if refused != nil {
			refused = fmt.Errorf("commit state: %w", refused)
		}
		p.answer(last, refused)
	}
}

func (s *Store) admit(p pending) error {
	if p.err != nil {
		return p.err
	}
	limit := s.limit
	if p.reserve {
		limit += s.reserve
	}
	if s.waiting+uint64(len(p.audit)) > limit {
		return ErrOutboxFull
	}
	return nil
}

func (s *Store) write(tx *bolt.Tx, p pending) error {
	for _, v := range p.puts {
		if err := tx.Bucket(v.bucket).Put(v.key, v.value); err != nil {
			return err
		}
	}
	for _, v := range p.deletes {
		if err := tx.Bucket(v.bucket).Delete(v.key); err != nil {
			return err
		}
	}
	meta, outbox := tx.Bucket(bucketMeta), tx.Bucket(bucketOutbox)
	n, head := number(meta.Get(keyNumber)), meta.Get(keyHead)
	if head == nil {
		head = make([]byte, 32)
	}
	for _, e := range p.audit {
		n++
		line := e.line(n, s.now(), head)
		head = chain(head, line)
		v, err := proto.Marshal(&controlv1.AuditRecord{Number: n, Line: line, Hash: head})
		if err != nil {
			return err
		}
		if err := outbox.Put(encode(n), v); err != nil {
			return err
		}
		s.waiting++
	}
	return errors.Join(meta.Put(keyNumber, encode(n)), meta.Put(keyHead, head))
}

func (s *Store) drop(tx *bolt.Tx, upTo uint64) error {
	meta := tx.Bucket(bucketMeta)
	written := number(meta.Get(keyNumber))
	if upTo > written || upTo <= number(meta.Get(keyAcked)) {
		return nil
	}
	c := tx.Bucket(bucketOutbox).Cursor()
	for k, _ := c.First(); k != nil && number(k) <= upTo; k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	s.waiting = written - upTo
	return meta.Put(keyAcked, encode(upTo))
}
