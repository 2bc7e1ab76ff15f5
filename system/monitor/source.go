package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	// readBytes is how much of a pipe is read at once.
	readBytes = 32 << 10
	// maxBatch is how many lines are stored at once.
	maxBatch = 1024
	// defaultRate is taken when the kernel names none.
	defaultRate = 1 << 20
	// idle is how long an unfinished line waits for its end before what there is of
	// it is passed on as a piece, and how often what was dropped is remarked.
	idle = time.Second
)

// source reads one pipe of an instance until its end. What is written faster than its
// rate is dropped and counted; the pipe's own buffer is the only queue, so that a
// writer waits while the store is slow.
type source struct {
	store    *store
	series   *series
	instance string
	kind     kind
	dropped  func(bytes int)

	pipe  *os.File
	raw   syscall.RawConn
	lines splitter
	rate  *bucket
	// lost counts what was dropped since the last remark.
	lost int
	// armed says that a read deadline is set; heard is when the pipe spoke last.
	armed bool
	heard time.Time

	batch []record
	// arena holds the batch's texts. It is no larger than they need: the store's ring
	// keeps it as long as one of them. pending is how much may still come of what was
	// read.
	arena   []byte
	pending int
}

// buffers are for the time between a pipe's being readable and its being read: a
// thousand quiet pipes need none.
var buffers = sync.Pool{New: func() any { return new([readBytes]byte) }}

// newSource takes f over, also when it fails.
func newSource(st *store, m *controlv1.LogSource, f *os.File, dropped func(int)) (*source, error) {
	pipe, err := pollable(f)
	if err != nil {
		return nil, fmt.Errorf("log pipe of %.80q: %w", m.GetService(), err)
	}
	s := &source{
		store: st, series: st.open(m.GetService(), m.GetTier()), instance: clip(m.GetInstance(), maxInstance),
		kind: kindStdout, dropped: dropped, pipe: pipe,
	}
	if s.series == nil {
		_ = pipe.Close()
		return nil, fmt.Errorf("log pipe of %.80q: no service has such a name", m.GetService())
	}
	if s.raw, err = pipe.SyscallConn(); err != nil {
		_ = pipe.Close()
		return nil, fmt.Errorf("log pipe of %.80q: %w", m.GetService(), err)
	}
	if m.GetStream() == "stderr" {
		s.kind = kindStderr
	}
	rate := m.GetRate()
	if rate == 0 {
		rate = defaultRate
	}
	s.rate = newBucket(rate, time.Now())
	return s, nil
}

// run reads until the end of the pipe, or until ctx ends; what is in the pipe then
// stays there for the next reader.
func (s *source) run(ctx context.Context) {
	defer func() { _ = s.pipe.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = s.pipe.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		n, buf, err := s.read()
		now := time.Now()
		s.rate.fill(now)
		if n > 0 {
			s.heard = now
			s.take(buf[:n])
			buffers.Put(buf)
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
			s.armed = false
			s.deadline(ctx, time.Time{})
			s.remark()
			if now.Sub(s.heard) >= idle {
				s.lines.flush(true, s.line)
			}
		default:
			// The end, or a stop: then the line may go on in the next reader.
			s.lines.flush(ctx.Err() != nil, s.line)
			s.remark()
			s.flush()
			return
		}
		s.flush()
		s.rate.grace(time.Now())
		s.arm(ctx)
	}
}

// arm sets a deadline when something is to be done even if the pipe stays silent.
func (s *source) arm(ctx context.Context) {
	if s.armed || len(s.lines.rest) == 0 && s.lost == 0 {
		return
	}
	s.armed = true
	s.deadline(ctx, time.Now().Add(idle))
}

// deadline sets the pipe's deadline, unless it is to stop.
func (s *source) deadline(ctx context.Context, t time.Time) {
	_ = s.pipe.SetReadDeadline(t)
	if ctx.Err() != nil {
		_ = s.pipe.SetReadDeadline(time.Unix(1, 0))
	}
}

var errEnd = errors.New("end of pipe")

// read waits for the pipe and then takes a buffer, which is the caller's if n > 0.
func (s *source) read() (n int, buf *[readBytes]byte, err error) {
	werr := s.raw.Read(func(fd uintptr) bool {
		b := buffers.Get().(*[readBytes]byte)
		for {
			n, err = unix.Read(int(fd), b[:])
			if err != unix.EINTR {
				break
			}
		}
		if n > 0 {
			buf = b
			return true
		}
		buffers.Put(b)
		if n == 0 && err == nil {
			err = errEnd
		}
		return err != unix.EAGAIN
	})
	if werr != nil {
		return 0, nil, werr
	}
	return max(n, 0), buf, err
}

// take splits what was read.
func (s *source) take(data []byte) {
	s.pending = len(s.lines.rest) + len(data)
	s.lines.write(data, s.line)
}

// line takes one line into the batch, or drops it.
func (s *source) line(text []byte, partial bool) {
	cost := len(text)
	if !partial {
		cost++ // the newline
	}
	room := max(len(text), s.pending)
	s.pending = max(0, s.pending-cost)
	if !s.rate.take(cost) {
		s.lost += cost
		s.dropped(cost)
		return
	}
	if len(s.arena)+len(text) > cap(s.arena) {
		s.arena = make([]byte, 0, room)
	}
	start := len(s.arena)
	s.arena = append(s.arena, text...)
	s.add(record{kind: s.kind, partial: partial, text: s.arena[start:len(s.arena):len(s.arena)]})
}

// remark says how much was dropped, if anything was.
func (s *source) remark() {
	if s.lost > 0 {
		s.add(record{kind: kindSolo, text: fmt.Appendf(nil, "dropped %d bytes over log_rate", s.lost)})
		s.lost = 0
	}
}

func (s *source) add(r record) {
	r.time, r.instance = time.Now().UnixNano(), s.instance
	s.batch = append(s.batch, r)
	if len(s.batch) == maxBatch {
		s.flush()
	}
}

// flush stores the batch. The store keeps its records, so the next one is a new one.
func (s *source) flush() {
	s.store.append(s.series, s.batch)
	s.batch, s.arena = nil, nil
}

// pollable makes f non-blocking and hands it to the runtime's poller, so that a read
// ends when it is told to. It takes f over.
func pollable(f *os.File) (*os.File, error) {
	defer func() { _ = f.Close() }()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var ferr error
	err = raw.Control(func(old uintptr) {
		var st unix.Stat_t
		if ferr = unix.Fstat(int(old), &st); ferr != nil {
			return
		}
		if typ := st.Mode & unix.S_IFMT; typ != unix.S_IFIFO && typ != unix.S_IFSOCK {
			ferr = errors.New("descriptor is neither a pipe nor a socket")
			return
		}
		fd, ferr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, ferr); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "log pipe"), nil
}
