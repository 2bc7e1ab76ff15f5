package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

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
	for {
		if c.after >= count {
			return nil, io.EOF
		}
		if c.file == nil {
			if err := c.open(files); err != nil {
				return nil, err
			}
		}
		line, err := c.lines.next()
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			// The next file has it, or this one has grown since: begin anew.
			old, offset := c.path, c.lines.offset
			c.close()
			if err := c.open(files); err != nil {
				return nil, err
			}
			if c.path == old {
				if err := c.skip(offset); err != nil {
					return nil, err
				}
			}
			if line, err = c.lines.next(); err != nil {
				return nil, fmt.Errorf("read %s: %w", c.path, io.ErrUnexpectedEOF)
			}
		} else if err != nil {
			return nil, fmt.Errorf("read %s: %w", c.path, err)
		}
		number, _, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", c.path, err)
		}
		if number <= c.after {
			continue
		}
		if number != c.after+1 {
			return nil, &ChainError{Number: c.after + 1, What: fmt.Sprintf("record %d stands in its place", number)}
		}
		c.after = number
		return line, nil
	}
}

// open opens the file that holds the record after c.after.
func (c *cursor) open(files []segment) error {
	for _, s := range files {
		if s.first != 0 && s.first <= c.after+1 {
			c.path = s.path
		}
	}
	if c.path == "" {
		return &ChainError{Number: c.after + 1, What: "is older than the log"}
	}
	f, err := os.Open(c.path)
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	c.file, c.lines = f, newLines(f)
	return nil
}

func (c *cursor) skip(offset int64) error {
	if _, err := c.file.Seek(offset, io.SeekStart); err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	c.lines = newLines(c.file)
	c.lines.offset = offset
	return nil
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
			if err := conn.Send(&solov1.TailResponse{Record: string(line)}); err != nil {
				if ctx.Err() != nil {
					return nil
				}
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
