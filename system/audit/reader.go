package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// cursor walks the stored records after a number.
type cursor struct {
	after uint64
	path  string
	file  *os.File
	lines *lines
}

// next returns the record after the last one, valid until the next call, and io.EOF
// when that is beyond count.
func (c *cursor) next(files []segment, count uint64) ([]byte, error) {
	if c.after >= count {
		return nil, io.EOF
	}
	if c.file == nil {
		if err := c.find(files); err != nil {
			return nil, err
		}
	}
	line, err := c.lines.next()
	if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
		// The next file has it, or this one has grown since.
		if err := c.again(files); err != nil {
			return nil, err
		}
		line, err = c.lines.next()
	}
	if err != nil {
		return nil, c.broken(err)
	}
	number, _, err := parse(line)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.path, err)
	}
	if number != c.after+1 {
		return nil, &ChainError{Number: c.after + 1, What: fmt.Sprintf("record %d stands in its place", number)}
	}
	c.after = number
	return line, nil
}

// holder is the file that has the record after c.after.
func (c *cursor) holder(files []segment) (segment, error) {
	var s segment
	for _, f := range files {
		if f.first != 0 && f.first <= c.after+1 {
			s = f
		}
	}
	if s.path == "" {
		return s, &ChainError{Number: c.after + 1, What: "is older than the log"}
	}
	return s, nil
}

// find goes to the record after c.after. The ones before it are counted, not read.
func (c *cursor) find(files []segment) error {
	s, err := c.holder(files)
	if err != nil {
		return err
	}
	if err := c.open(s.path, 0); err != nil {
		return err
	}
	for range c.after + 1 - s.first {
		if _, err := c.lines.next(); err != nil {
			return c.broken(err)
		}
	}
	return nil
}

// again goes on after the end of what was there to read: in the next file, or in the
// same one after the last whole line.
func (c *cursor) again(files []segment) error {
	path, offset := c.path, c.lines.offset
	c.close()
	s, err := c.holder(files)
	if err != nil {
		return err
	}
	if s.path != path {
		offset = 0
	}
	return c.open(s.path, offset)
}

func (c *cursor) open(path string, offset int64) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		_ = f.Close()
		return fmt.Errorf("read audit log: %w", err)
	}
	c.path, c.file, c.lines = path, f, newLines(f)
	c.lines.offset = offset
	return nil
}

// broken is the error of a file that ends too early or cannot be read.
func (c *cursor) broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %s: %w", c.path, err)
}

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close()
	}
	c.file, c.lines = nil, nil
}

// tail writes the records after a number to conn, and then, if follow is set, each
// new one until the other side closes or ctx ends. It waits while the other side does
// not read; it closes conn.
func (l *Log) tail(ctx context.Context, conn *ipc.Conn, after uint64, follow bool) error {
	ctx, cancel := context.WithCancel(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer cancel()
		// The other side has nothing to say: whatever comes ends the reader.
		files, _, _ := conn.Receive(&solov1.TailRequest{})
		files.Close()
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
		cancel()
		<-gone
	}()
	c := &cursor{after: after}
	defer c.close()
	for {
		files, count, grown := l.view()
		for {
			line, err := c.next(files, count)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			err = conn.Send(&solov1.TailResponse{Record: string(line)})
			switch {
			case err == nil:
			case ctx.Err() != nil, errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
				return nil
			default:
				return fmt.Errorf("audit reader: %w", err)
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil
		}
	}
}
