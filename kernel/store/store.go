// Package store is the kernel's durable state: one bbolt file that only the kernel
// opens. Every change of state carries the audit record of the decision that made
// it, in the same transaction: the audit outbox.
//
// Trust: the file is written by the kernel alone, in a directory of mode 0700.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

var (
	bucketMeta     = []byte("meta")
	bucketServices = []byte("services")
	bucketRequests = []byte("requests")
	bucketTokens   = []byte("tokens")
	bucketOutbox   = []byte("outbox")

	keySchema     = []byte("schema")
	keyGeneration = []byte("generation")
	keyNumber     = []byte("audit_number")
	keyHead       = []byte("audit_head")
	keyAcked      = []byte("audit_acked")
)

// schema is the version of the file's layout.
const schema = 1

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
)

// Change is what one decision changes. All of it happens, or nothing.
type Change struct {
	PutService    *ServiceChange
	DeleteService string
	PutRequest    *RequestChange
	PutToken      *controlv1.TokenRecord
	Audit         []Entry
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

// State is everything in the file but the outbox.
type State struct {
	Services map[string]*controlv1.ServiceRecord
	Requests map[string]*controlv1.RequestRecord
	Tokens   []*controlv1.TokenRecord
	// Generation counts the kernel's starts, this one included.
	Generation uint64
}

// Store owns the open file. Commit may be called from any goroutine.
type Store struct {
	db      *bolt.DB
	pending chan pending
	done    chan struct{}
	now     func() time.Time
	// acked and last bound the outbox; only the committer touches them.
	waiting uint64
}

type pending struct {
	change Change
	answer func(last uint64, err error)
	ack    uint64
	close  bool
}

// Open opens or creates the file and starts the committer. now stamps audit records.
// It fails when another process has the file open.
func Open(path string, now func() time.Time) (*Store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 2 * time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", path, err)
	}
	s := &Store{db: db, pending: make(chan pending, 1024), done: make(chan struct{}), now: now}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketServices, bucketRequests, bucketTokens, bucketOutbox} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if v := number(meta.Get(keySchema)); v > schema {
			return fmt.Errorf("state is of schema %d, this kernel knows %d", v, schema)
		}
		s.waiting = number(meta.Get(keyNumber)) - number(meta.Get(keyAcked))
		return errors.Join(meta.Put(keySchema, encode(schema)), meta.Put(keyGeneration, encode(number(meta.Get(keyGeneration))+1)))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare state %s: %w", path, err), db.Close())
	}
	go s.commit()
	return s, nil
}

// Close waits for the changes that were handed in, then closes the file.
func (s *Store) Close() error {
	s.pending <- pending{close: true}
	<-s.done
	return s.db.Close()
}

// Load reads the whole state.
func (s *Store) Load() (State, error) {
	st := State{Services: map[string]*controlv1.ServiceRecord{}, Requests: map[string]*controlv1.RequestRecord{}}
	err := s.db.View(func(tx *bolt.Tx) error {
		st.Generation = number(tx.Bucket(bucketMeta).Get(keyGeneration))
		err := tx.Bucket(bucketServices).ForEach(func(k, v []byte) error {
			r := &controlv1.ServiceRecord{}
			st.Services[string(k)] = r
			return proto.Unmarshal(v, r)
		})
		if err != nil {
			return fmt.Errorf("service record: %w", err)
		}
		err = tx.Bucket(bucketRequests).ForEach(func(k, v []byte) error {
			r := &controlv1.RequestRecord{}
			st.Requests[string(k)] = r
			return proto.Unmarshal(v, r)
		})
		if err != nil {
			return fmt.Errorf("request record: %w", err)
		}
		return tx.Bucket(bucketTokens).ForEach(func(_, v []byte) error {
			r := &controlv1.TokenRecord{}
			st.Tokens = append(st.Tokens, r)
			return proto.Unmarshal(v, r)
		})
	})
	if err != nil {
		return State{}, fmt.Errorf("load state: %w", err)
	}
	return st, nil
}

// Commit hands in a change and returns at once; answer is called from the committer
// when it is on disk, with the number of the last audit record, or has failed. It
// must not block. Changes become durable in the order they are handed in; those that
// wait together share one transaction.
func (s *Store) Commit(c Change, answer func(last uint64, err error)) {
	s.pending <- pending{change: c, answer: answer}
}

// Acknowledge drops the outbox's records up to and including number.
func (s *Store) Acknowledge(number uint64) {
	s.pending <- pending{ack: number}
}

const batch = 256

func (s *Store) commit() {
	defer close(s.done)
	for p := range s.pending {
		group := []pending{p}
	gather:
		for len(group) < batch && !group[len(group)-1].close {
			select {
			case more := <-s.pending:
				group = append(group, more)
			default:
				break gather
			}
		}
		s.apply(group)
		if group[len(group)-1].close {
			return
		}
	}
}

// apply commits a group; a change that is refused does not hold up the others.
func (s *Store) apply(group []pending) {
	errs := make([]error, len(group))
	var last uint64
	err := s.db.Update(func(tx *bolt.Tx) error {
		for i, p := range group {
			switch {
			case p.close:
			case p.ack > 0:
				if err := s.drop(tx, p.ack); err != nil {
					return err
				}
			default:
				if errs[i] = s.admit(p.change); errs[i] != nil {
					continue
				}
				if err := s.write(tx, p.change); err != nil {
					return err
				}
			}
		}
		last = number(tx.Bucket(bucketMeta).Get(keyNumber))
		return nil
	})
	for i, p := range group {
		if p.answer == nil {
			continue
		}
		if err != nil {
			p.answer(0, fmt.Errorf("commit state: %w", err))
			continue
		}
		p.answer(last, errs[i])
	}
}

func (s *Store) admit(c Change) error {
	if len(c.Audit) == 0 {
		return ErrNoRecord
	}
	limit := uint64(OutboxLimit)
	if c.Reserve {
		limit += OutboxReserve
	}
	if s.waiting+uint64(len(c.Audit)) > limit {
		return ErrOutboxFull
	}
	return nil
}

func (s *Store) write(tx *bolt.Tx, c Change) error {
	put := func(bucket []byte, key string, m proto.Message) error {
		v, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		return tx.Bucket(bucket).Put([]byte(key), v)
	}
	if c.PutService != nil {
		if err := put(bucketServices, c.PutService.Name, c.PutService.Record); err != nil {
			return err
		}
	}
	if c.DeleteService != "" {
		if err := tx.Bucket(bucketServices).Delete([]byte(c.DeleteService)); err != nil {
			return err
		}
	}
	if c.PutRequest != nil {
		if err := put(bucketRequests, c.PutRequest.ID, c.PutRequest.Record); err != nil {
			return err
		}
	}
	if c.PutToken != nil {
		if err := put(bucketTokens, c.PutToken.GetId(), c.PutToken); err != nil {
			return err
		}
	}
	meta, outbox := tx.Bucket(bucketMeta), tx.Bucket(bucketOutbox)
	n, head := number(meta.Get(keyNumber)), meta.Get(keyHead)
	if head == nil {
		head = make([]byte, 32)
	}
	for _, e := range c.Audit {
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
	if upTo > number(meta.Get(keyNumber)) || upTo <= number(meta.Get(keyAcked)) {
		return nil
	}
	c := tx.Bucket(bucketOutbox).Cursor()
	for k, _ := c.First(); k != nil && number(k) <= upTo; k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	s.waiting = number(meta.Get(keyNumber)) - upTo
	return meta.Put(keyAcked, encode(upTo))
}

// Outbox reads records after the given number, at most bytes of lines together but
// at least one.
func (s *Store) Outbox(after uint64, bytes int) ([]*controlv1.AuditRecord, error) {
	var out []*controlv1.AuditRecord
	err := s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketOutbox).Cursor()
		for k, v := c.Seek(encode(after + 1)); k != nil; k, v = c.Next() {
			r := &controlv1.AuditRecord{}
			if err := proto.Unmarshal(v, r); err != nil {
				return err
			}
			bytes -= len(v)
			if bytes < 0 && len(out) > 0 {
				return nil
			}
			out = append(out, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read audit outbox: %w", err)
	}
	return out, nil
}

// Acked is the number of the last record that solo-audit has stored.
func (s *Store) Acked() (n uint64, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		n = number(tx.Bucket(bucketMeta).Get(keyAcked))
		return nil
	})
	return n, err
}

func encode(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
