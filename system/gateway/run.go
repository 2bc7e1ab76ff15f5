package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	maxChunk    = 1 << 20
	outputChunk = 32 << 10
	// lingerTime bounds how long an output pipe may stay open and silent after the
	// program's end: everything that held it is dead by then.
	lingerTime = 5 * time.Second
)

type runStream = grpc.BidiStreamingServer[solov1.RunRequest, solov1.RunResponse]

// Run implements solo.v1.LifecycleService.
//
//	client            gateway              kernel
//	start      ──▶    RunOp + memfds  ──▶
//	                  ◀── RunStarted + stdin, stdout, stderr
//	stdin      ══▶    pipe
//	stdout/err ◀══    pipes
//	                  ◀── RunExit
//	exit       ◀──    after both outputs ended
func (s lifecycleService) Run(stream runStream) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return invalid(map[string]string{"start": "the first message must be start"})
		}
		return err
	}
	start := first.GetStart()
	if start == nil {
		return invalid(map[string]string{"start": "the first message must be start"})
	}
	op, files, err := packDeploy(start.GetManifest())
	if err != nil {
		return err
	}
	req := s.request(ctx)
	req.Op = &controlv1.Request_Run{Run: &controlv1.RunOp{Deploy: op, TimeoutMs: start.GetTimeoutMs()}}
	c, err := s.link.begin(connectionOf(ctx), req, files...)
	files.Close()
	if err != nil {
		return err
	}
	defer c.cancel()
	r, err := c.next(ctx)
	if err != nil {
		return err
	}
	if r.GetRunStarted() == nil || len(r.files) != 3 || !r.GetMore() {
		r.files.Close()
		return unexpected(r)
	}
	p := &pump{stream: stream, fail: make(chan error, 1)}
	return p.run(ctx, c, r.files)
}

// pump moves a run's input and output between the stream and the pipes.
type pump struct {
	stream  runStream
	sending sync.Mutex // stream.Send is not safe for concurrent use
	ended   atomic.Bool
	fail    chan error
}

// run owns files.
func (p *pump) run(ctx context.Context, c *call, files []*os.File) error {
	pipes := make([]*os.File, 0, len(files))
	defer func() {
		for _, f := range pipes {
			_ = f.Close()
		}
	}()
	for i, f := range files {
		nf, err := pollable(f)
		if err != nil {
			for _, rest := range files[i+1:] {
				_ = rest.Close()
			}
			return status.Errorf(codes.Internal, "pipe: %v", err)
		}
		pipes = append(pipes, nf)
	}
	stdin, stdout, stderr := pipes[0], pipes[1], pipes[2]

	go p.input(stdin)
	var outputs sync.WaitGroup
	outputs.Go(func() {
		p.output(stdout, func(b []byte) *solov1.RunResponse {
			return &solov1.RunResponse{Item: &solov1.RunResponse_Stdout{Stdout: b}}
		})
	})
	outputs.Go(func() {
		p.output(stderr, func(b []byte) *solov1.RunResponse {
			return &solov1.RunResponse{Item: &solov1.RunResponse_Stderr{Stderr: b}}
		})
	})
	// The pipes are closed before the outputs are waited for, whatever happens.
	defer outputs.Wait()
	defer func() { _ = stdout.Close(); _ = stderr.Close() }()

	exit := make(chan error, 1)
	var last *solov1.RunExit
	waitCtx, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	waited := make(chan struct{})
	defer func() { <-waited }()
	defer stopWaiting()
	go func() {
		defer close(waited)
		r, err := c.next(waitCtx)
		if err == nil {
			r.files.Close()
			if last = r.GetRunExit(); last == nil {
				err = unexpected(r)
			}
		}
		exit <- err
	}()

	select {
	case err := <-p.fail:
		// Now, not when the outputs are done: they may wait for the client.
		c.cancel()
		return err
	case err := <-exit:
		if err != nil {
			return err
		}
	}
	p.ended.Store(true)
	now := time.Now()
	_ = stdout.SetReadDeadline(now.Add(lingerTime))
	_ = stderr.SetReadDeadline(now.Add(lingerTime))
	drained := make(chan struct{})
	go func() { outputs.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	return p.send(&solov1.RunResponse{Item: &solov1.RunResponse_Exit{Exit: last}})
}

func (p *pump) send(m *solov1.RunResponse) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	return p.stream.Send(m)
}

// broken ends the run with an error, unless another was first.
func (p *pump) broken(err error) {
	select {
	case p.fail <- err:
	default:
	}
}

// input copies the client's input until it closes it; the pipe's fullness holds
// the client back. Once the program reads no more, the rest is dropped. It ends
// with the stream's context at the latest.
func (p *pump) input(stdin *os.File) {
	open := true
	shut := func() {
		if open {
			_ = stdin.Close()
			open = false
		}
	}
	defer shut()
	for {
		m, err := p.stream.Recv()
		if errors.Is(err, io.EOF) {
			return // the client has said all; output goes on
		}
		if err != nil {
			p.broken(err)
			return
		}
		switch item := m.GetItem().(type) {
		case *solov1.RunRequest_Stdin:
			if !open {
				continue
			}
			if _, err := stdin.Write(item.Stdin); err != nil {
				shut() // EPIPE: the program has closed its input or ended
			}
		case *solov1.RunRequest_CloseStdin:
			if item.CloseStdin {
				shut()
			}
		default:
			p.broken(invalid(map[string]string{"item": "after start only stdin and close_stdin may follow"}))
			return
		}
	}
}

// output copies one pipe to the client until its end.
func (p *pump) output(from *os.File, wrap func([]byte) *solov1.RunResponse) {
	buf := make([]byte, outputChunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if err := p.send(wrap(buf[:n])); err != nil {
				p.broken(err)
				return
			}
			if p.ended.Load() {
				_ = from.SetReadDeadline(time.Now().Add(lingerTime))
			}
		}
		if err != nil {
			return
		}
	}
}

// pollable makes f non-blocking and hands it to the runtime's poller, so that
// reads and writes end when it is closed. It takes ownership of f.
func pollable(f *os.File) (*os.File, error) {
	defer func() { _ = f.Close() }()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var ferr error
	if err := raw.Control(func(old uintptr) {
		var st unix.Stat_t
		if ferr = unix.Fstat(int(old), &st); ferr != nil {
			return
		}
		if st.Mode&unix.S_IFMT != unix.S_IFIFO && st.Mode&unix.S_IFMT != unix.S_IFSOCK {
			ferr = fmt.Errorf("descriptor is neither a pipe nor a socket: %w", syscall.EINVAL)
			return
		}
		fd, ferr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		ferr = err
	}
	if ferr != nil {
		return nil, ferr
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pipe"), nil
}
