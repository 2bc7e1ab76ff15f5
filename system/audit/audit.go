// Package audit is solo-audit: it stores the chained audit records that the kernel
// makes, says how far they are on disk, and lets readers follow them.
//
// Trust: runs unprivileged in a sandbox with one writable directory. The kernel makes
// the chain; this package can store and send records, not alter them: it refuses a
// batch that does not continue what is stored. A reader is trusted with nothing; a
// slow one holds up only itself.
package audit

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/control"
)

// maxReaders bounds how many readers there are at once; one more is closed at once.
const maxReaders = 256

// Config says where and how the log is kept.
type Config struct {
	// Dir is an existing directory.
	Dir string
	// FileBytes is the size of a file of the log; 0 means DefaultFileBytes.
	FileBytes int64
}

// Serve opens the log, says that it is ready, and stores and sends records until the
// kernel asks for a stop or ctx ends (nil). A batch that breaks the chain, and a log
// that cannot be written, are errors: nothing after them is acknowledged.
func Serve(ctx context.Context, c *control.Conn, cfg Config) error {
	log, err := OpenLog(cfg.Dir, cfg.FileBytes)
	if err != nil {
		return err
	}
	readers, cancel := context.WithCancel(context.Background())
	s := &service{log: log, conn: c, ctx: readers, slots: make(chan struct{}, maxReaders)}
	defer func() {
		cancel()
		s.readers.Wait()
		_ = log.Close()
	}()
	if err := c.Ready(); err != nil {
		return err
	}
	return c.Serve(ctx, s)
}

type service struct {
	log     *Log
	conn    *control.Conn
	ctx     context.Context
	slots   chan struct{}
	readers sync.WaitGroup
}

// Handle implements control.Handler.
func (s *service) Handle(m *controlv1.FromKernel, files ipc.Files) error {
	switch item := m.GetItem().(type) {
	case *controlv1.FromKernel_AuditBatch:
		if err := control.Count(files, 0); err != nil {
			return err
		}
		state, err := s.log.Append(item.AuditBatch.GetRecords())
		if err != nil {
			return err
		}
		return s.conn.Send(&controlv1.FromService{Item: &controlv1.FromService_AuditAck{
			AuditAck: &controlv1.AuditAck{Count: state.Count, Head: state.Head[:]},
		}})
	case *controlv1.FromKernel_AuditReader:
		if err := control.Count(files, 1); err != nil {
			return err
		}
		return s.read(item.AuditReader, files[0])
	default:
		files.Close()
		return control.Unexpected(m)
	}
}

// read starts a reader; it takes the descriptor over.
func (s *service) read(r *controlv1.AuditReader, f *os.File) error {
	conn, err := ipc.FileConn(f)
	if err != nil {
		return fmt.Errorf("audit reader: %w", err)
	}
	select {
	case s.slots <- struct{}{}:
	default:
		return conn.Close()
	}
	s.readers.Go(func() {
		defer func() { <-s.slots }()
		if err := s.log.tail(s.ctx, conn, r.GetAfter(), r.GetFollow()); err != nil {
			fmt.Fprintln(os.Stderr, "solo-audit: "+err.Error())
		}
	})
	return nil
}
