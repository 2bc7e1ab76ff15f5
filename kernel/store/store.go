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
	"math"
	"os"
	"path/filepath"
	"sync"
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

// queue is how many changes may wait for the committer.
const queue = 1024

// State is everything in the file but the outbox.
type State struct {
	Services map[string]*controlv1.ServiceRecord
	Requests map[string]*controlv1.RequestRecord
	// Tokens by id, ascending.
	Tokens []*controlv1.TokenRecord
	// Generation counts the kernel's starts, this one included.
	Generation uint64
}

// Store owns the open file. Commit may be called from any goroutine.
type Store struct {
	db      *bolt.DB
	now     func() time.Time
	pending chan pending
	done    chan struct{}

	// mu keeps Close from closing between a look at closed and a send.
	mu     sync.RWMutex
	closed bool

	// Of the committer alone: how many records are in the outbox, and how many may be.
	waiting, limit, reserve uint64
}

// Open opens or creates the file and starts the committer. now stamps audit records.
// It fails when another process has the file open.
func Open(path string, now func() time.Time) (*Store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 2 * time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", path, err)
	}
	s := &Store{
		db: db, now: now, pending: make(chan pending, queue), done: make(chan struct{}),
		limit: OutboxLimit, reserve: OutboxReserve,
	}
	err = errors.Join(s.prepare(), syncDirectory(filepath.Dir(path)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare state %s: %w", path, err), db.Close())
	}
	go s.commit()
	return s, nil
}

// prepare makes the buckets, checks the schema and counts this start.
func (s *Store) prepare() error {
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketServices, bucketRequests, bucketTokens, bucketOutbox} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if v := number(meta.Get(keySchema)); v > schema {
			return fmt.Errorf("state is of schema %d, this kernel knows %d", v, schema)
		}
		written, acked := number(meta.Get(keyNumber)), number(meta.Get(keyAcked))
		if acked > written {
			return fmt.Errorf("audit record %d is acknowledged and only %d are written", acked, written)
		}
		s.waiting = written - acked
		return errors.Join(meta.Put(keySchema, encode(schema)), meta.Put(keyGeneration, encode(number(meta.Get(keyGeneration))+1)))
	})
}

// syncDirectory makes a new file's name durable, which bbolt does not do.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close waits for the changes that were handed in, then closes the file. Closing
// twice is fine.
func (s *Store) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if first {
		close(s.pending)
	}
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
			return unmarshal("service", k, v, r)
		})
		if err != nil {
			return err
		}
		err = tx.Bucket(bucketRequests).ForEach(func(k, v []byte) error {
			r := &controlv1.RequestRecord{}
			st.Requests[string(k)] = r
			return unmarshal("request", k, v, r)
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketTokens).ForEach(func(k, v []byte) error {
			r := &controlv1.TokenRecord{}
			st.Tokens = append(st.Tokens, r)
			return unmarshal("token", k, v, r)
		})
	})
	if err != nil {
		return State{}, fmt.Errorf("load state: %w", err)
	}
	return st, nil
}

func unmarshal(what string, key, value []byte, into proto.Message) error {
	if err := proto.Unmarshal(value, into); err != nil {
		return fmt.Errorf("%s record %.80q: %w", what, key, err)
	}
	return nil
}

// Outbox reads the records after a number that are not acknowledged, in order: at most
// bytes of them together, but at least one if there is one.
func (s *Store) Outbox(after uint64, bytes int) ([]*controlv1.AuditRecord, error) {
	if after == math.MaxUint64 {
		return nil, nil
	}
	var out []*controlv1.AuditRecord
	err := s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketOutbox).Cursor()
		for k, v := c.Seek(encode(after + 1)); k != nil; k, v = c.Next() {
			r := &controlv1.AuditRecord{}
			if err := proto.Unmarshal(v, r); err != nil {
				return fmt.Errorf("record %d: %w", number(k), err)
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
func (s *Store) Acked() (uint64, error) {
	var n uint64
	err := s.db.View(func(tx *bolt.Tx) error {
		n = number(tx.Bucket(bucketMeta).Get(keyAcked))
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read audit outbox: %w", err)
	}
	return n, nil
}

func encode(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
