package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// program plays a program: it owns its ends of the pipes.
type program func(stdin, stdout, stderr *os.File) *solov1.RunExit

// runner is a kernel that runs that program.
func runner(t *testing.T, p program) gatewaytest.Handler {
	return func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		files.Close()
		in, out, errs := pipe(t), pipe(t), pipe(t)
		err := k.Respond(req, &controlv1.Response{More: true, Result: &controlv1.Response_RunStarted{RunStarted: &controlv1.RunStarted{ServiceId: "run-1"}}},
			in[1], out[0], errs[0])
		for _, f := range []*os.File{in[1], out[0], errs[0]} {
			_ = f.Close()
		}
		if err != nil {
			t.Errorf("respond: %v", err)
		}
		exit := p(in[0], out[1], errs[1])
		_ = k.Respond(req, &controlv1.Response{Result: &controlv1.Response_RunExit{RunExit: exit}})
	}
}

// pipe returns its read end and its write end.
func pipe(t *testing.T) [2]*os.File {
	r, w, err := os.Pipe()
	if err != nil {
		t.Errorf("pipe: %v", err)
	}
	return [2]*os.File{r, w}
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func stdin(b []byte) *solov1.RunRequest {
	return &solov1.RunRequest{Item: &solov1.RunRequest_Stdin{Stdin: b}}
}

// begin starts a run.
func begin(t *testing.T, ctx context.Context, g *gatewaytest.Gateway) api.LifecycleService_RunClient {
	t.Helper()
	stream, err := open(t, g).Lifecycle.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&solov1.RunRequest{Item: &solov1.RunRequest_Start{Start: &solov1.RunStart{
		Manifest: &solov1.DeployRequest{Code: &solov1.DeployRequest_Source{Source: &solov1.Source{File: "a.sh", Code: "true"}}}, TimeoutMs: 7}}})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// outcome is everything that a run has sent.
type outcome struct {
	stdout, stderr string
	exit           *solov1.RunExit
	err            error
}

// collect reads a run to its end. The exit must be the last message.
func collect(t *testing.T, stream api.LifecycleService_RunClient) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	var o outcome
	for {
		m, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				o.err = err
			}
			o.stdout, o.stderr = out.String(), errs.String()
			return o
		}
		if o.exit != nil {
			t.Errorf("%T comes after the exit", m.GetItem())
		}
		switch item := m.GetItem().(type) {
		case *solov1.RunResponse_Stdout:
			out.Write(item.Stdout)
		case *solov1.RunResponse_Stderr:
			errs.Write(item.Stderr)
		case *solov1.RunResponse_Exit:
			o.exit = item.Exit
		}
	}
}

// expect fails the test unless the run ended well and so.
func expect(t *testing.T, o outcome, stdout, stderr string, exit *solov1.RunExit) {
	t.Helper()
	if o.err != nil {
		t.Fatal(o.err)
	}
	if o.stdout != stdout || o.stderr != stderr {
		t.Errorf("output of %d and %d bytes, want %d and %d", len(o.stdout), len(o.stderr), len(stdout), len(stderr))
	}
	if diff := cmp.Diff(exit, o.exit, protocmp.Transform()); diff != "" {
		t.Errorf("exit (-want +got):\n%s", diff)
	}
}

// echo copies its input to its output, and complains.
func echo(exit *solov1.RunExit) program {
	return func(stdin, stdout, stderr *os.File) *solov1.RunExit {
		defer closeAll(stdin, stdout, stderr)
		_, _ = io.Copy(stdout, stdin)
		_, _ = io.WriteString(stderr, "done\n")
		return exit
	}
}

func TestRun(t *testing.T) {
	exit := &solov1.RunExit{ExitStatus: 3, Reason: "exit:3", CpuUsec: 5, WallMs: 1.5}
	g := gatewaytest.Start(t, runner(t, echo(exit)), nil)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // more than pipes and windows hold
	for name, input := range map[string][][]byte{
		"no input": nil, "a little": {[]byte("one "), []byte("two")}, "much": {big, big, big, big, big, big, big, big},
	} {
		t.Run(name, func(t *testing.T) {
			for _, how := range []string{"close_stdin", "half close"} {
				stream := begin(t, patient(t), g)
				go func() {
					for _, b := range input {
						if err := stream.Send(stdin(b)); err != nil {
							t.Errorf("send: %v", err)
						}
					}
					if how == "close_stdin" {
						_ = stream.Send(&solov1.RunRequest{Item: &solov1.RunRequest_CloseStdin{CloseStdin: true}})
						_ = stream.Send(stdin([]byte("too late"))) // dropped
						return
					}
					_ = stream.CloseSend()
				}()
				expect(t, collect(t, stream), string(bytes.Join(input, nil)), "done\n", exit)
			}
		})
	}
}

// TestRunRequest: what the kernel gets of a run.
func TestRunRequest(t *testing.T) {
	seen := make(chan *controlv1.Request, 1)
	g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		defer files.Close()
		for _, f := range files {
			b, err := io.ReadAll(f)
			if err != nil || string(b) != "true" {
				t.Errorf("code %q, %v", b, err)
			}
		}
		seen <- proto.CloneOf(req)
		_ = k.Fail(req, &controlv1.Error{Code: uint32(codes.PermissionDenied), Message: "no", Reason: "DENIED"})
	}, nil)
	refused(t, collect(t, begin(t, patient(t), g)).err, codes.PermissionDenied, "DENIED")
	want := &controlv1.Request{Token: token, Transport: "unix", Op: &controlv1.Request_Run{Run: &controlv1.RunOp{TimeoutMs: 7,
		Deploy: &controlv1.DeployOp{HasCode: true, Request: &solov1.DeployRequest{Code: &solov1.DeployRequest_Source{Source: &solov1.Source{File: "a.sh"}}}}}}}
	if diff := cmp.Diff(want, take(t, seen, "the request"), protocmp.Transform(), protocmp.IgnoreFields(&controlv1.Request{}, "id")); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// TestRunStart: a run begins with start.
func TestRunStart(t *testing.T) {
	g := gatewaytest.Start(t, nothing(t), nil)
	for name, say := range map[string]func(api.LifecycleService_RunClient) error{
		"nothing": func(s api.LifecycleService_RunClient) error { return s.CloseSend() },
		"input":   func(s api.LifecycleService_RunClient) error { return s.Send(stdin([]byte("x"))) },
		"empty":   func(s api.LifecycleService_RunClient) error { return s.Send(&solov1.RunRequest{}) },
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := open(t, g).Lifecycle.Run(patient(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := say(stream); err != nil {
				t.Fatal(err)
			}
			err = collect(t, stream).err
			if diff := cmp.Diff([]string{"start"}, violations(err)); diff != "" || status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v, violations (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestRunDeafProgram: a program that does not read its input holds nobody up.
func TestRunDeafProgram(t *testing.T) {
	exit := &solov1.RunExit{Reason: "exit:0"}
	g := gatewaytest.Start(t, runner(t, func(stdin, stdout, stderr *os.File) *solov1.RunExit {
		closeAll(stdin)
		defer closeAll(stdout, stderr)
		_, _ = io.WriteString(stdout, "deaf")
		return exit
	}), nil)
	stream := begin(t, patient(t), g)
	go func() {
		for stream.Send(stdin(make([]byte, 64<<10))) == nil { // until the run is over
		}
	}()
	expect(t, collect(t, stream), "deaf", "", exit)
}

// TestRunOutputAfterExit: what a descendant of the program still writes arrives,
// before the exit.
func TestRunOutputAfterExit(t *testing.T) {
	exit := &solov1.RunExit{Reason: "exit:0"}
	late := make(chan *os.File, 1)
	exited := make(chan struct{})
	run := runner(t, func(stdin, stdout, stderr *os.File) *solov1.RunExit {
		closeAll(stdin, stderr)
		late <- stdout
		return exit
	})
	g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
		run(k, req, files)
		close(exited)
	}, nil)
	stream := begin(t, patient(t), g)
	done := make(chan outcome, 1)
	go func() { done <- collect(t, stream) }()
	take(t, exited, "the program to end")
	stdout := take(t, late, "its output")
	text := strings.Repeat("late ", 100_000)
	if _, err := io.WriteString(stdout, text); err != nil {
		t.Error(err)
	}
	closeAll(stdout)
	expect(t, take(t, done, "the run to end"), text, "", exit)
}

// TestRunSilentOutput: an output that is held open after the exit without a word
// does not hold the run open.
func TestRunSilentOutput(t *testing.T) {
	t.Parallel()
	exit := &solov1.RunExit{Reason: "exit:0"}
	held := make(chan *os.File, 2)
	g := gatewaytest.Start(t, runner(t, func(stdin, stdout, stderr *os.File) *solov1.RunExit {
		closeAll(stdin)
		_, _ = io.WriteString(stdout, "last words")
		held <- stdout
		held <- stderr
		return exit
	}), nil)
	o := collect(t, begin(t, patient(t), g))
	closeAll(<-held, <-held)
	expect(t, o, "last words", "", exit)
}

// TestRunSlowReader: a client that does not read stops the program, not the gateway,
// and loses nothing.
func TestRunSlowReader(t *testing.T) {
	exit := &solov1.RunExit{Reason: "exit:0"}
	stuck := make(chan int, 1)
	read := make(chan struct{})
	wrote := make(chan int, 1)
	g := gatewaytest.Start(t, runner(t, func(stdin, stdout, stderr *os.File) *solov1.RunExit {
		defer closeAll(stdin, stdout, stderr)
		before := writeUntilStuck(t, stdout)
		stuck <- before
		<-read
		n, _ := stdout.Write(make([]byte, 1<<20))
		wrote <- before + n
		return exit
	}), nil)
	stream := begin(t, patient(t), g)
	if n := take(t, stuck, "the program to be stopped"); n > 8<<20 {
		t.Errorf("%d bytes were taken that nobody reads", n)
	}
	close(read)
	o := collect(t, stream)
	expect(t, o, string(make([]byte, take(t, wrote, "the program"))), "", exit)
}

// writeUntilStuck writes zeros until the pipe stays full for a while.
func writeUntilStuck(t *testing.T, w *os.File) (total int) {
	for {
		if err := w.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Errorf("deadline: %v", err)
			return total
		}
		n, err := w.Write(make([]byte, 64<<10))
		total += n
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("write: %v", err)
			}
			_ = w.SetWriteDeadline(time.Time{})
			return total
		}
	}
}

// TestRunClientGone: when the client goes the kernel is told, and the pipes end.
func TestRunClientGone(t *testing.T) {
	for name, stuck := range map[string]bool{"idle": false, "with output that it does not read": true} {
		t.Run(name, func(t *testing.T) {
			ids := make(chan uint64, 1)
			ready, ended := make(chan struct{}), make(chan error, 1)
			run := runner(t, func(stdin, stdout, stderr *os.File) *solov1.RunExit {
				defer closeAll(stdin, stdout, stderr)
				if stuck {
					writeUntilStuck(t, stdout)
				}
				close(ready)
				_, err := io.Copy(io.Discard, stdin)
				for err == nil { // until the reader has gone
					_, err = stdout.Write(make([]byte, 1<<10))
				}
				ended <- err
				return &solov1.RunExit{Reason: "killed"}
			})
			g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
				ids <- req.GetId()
				run(k, req, files)
			}, nil)
			ctx, leave := context.WithCancel(patient(t))
			stream := begin(t, ctx, g)
			take(t, ready, "the program to start")
			leave()
			if err := collect(t, stream).err; status.Code(err) != codes.Canceled {
				t.Errorf("got %v", err)
			}
			if got, want := take(t, g.Kernel.Cancelled, "the kernel to be told"), take(t, ids, "the request"); got != want {
				t.Errorf("request %d is cancelled, want %d", got, want)
			}
			if err := take(t, ended, "the pipes to end"); !errors.Is(err, os.ErrClosed) && !strings.Contains(err.Error(), "broken pipe") {
				t.Errorf("the program's output: %v", err)
			}
		})
	}
}

// TestRunNonsense: a client that sends something else after start ends its run.
func TestRunNonsense(t *testing.T) {
	g := gatewaytest.Start(t, runner(t, echo(&solov1.RunExit{})), nil)
	stream := begin(t, patient(t), g)
	if err := stream.Send(&solov1.RunRequest{Item: &solov1.RunRequest_Start{Start: &solov1.RunStart{}}}); err != nil {
		t.Fatal(err)
	}
	err := collect(t, stream).err
	if diff := cmp.Diff([]string{"item"}, violations(err)); diff != "" {
		t.Errorf("got %v, violations (-want +got):\n%s", err, diff)
	}
	take(t, g.Kernel.Cancelled, "the kernel to be told")
}

// TestRunKernel: what goes wrong on the kernel's side is an error, and never an exit.
func TestRunKernel(t *testing.T) {
	started := func(more bool) *controlv1.Response {
		return &controlv1.Response{More: more, Result: &controlv1.Response_RunStarted{RunStarted: &controlv1.RunStarted{}}}
	}
	for _, test := range []struct {
		name string
		do   func(k *gatewaytest.Kernel, req *controlv1.Request, pipes [3]*os.File) error
		code codes.Code
	}{
		{"two descriptors", func(k *gatewaytest.Kernel, req *controlv1.Request, p [3]*os.File) error {
			return k.Respond(req, started(true), p[0], p[1])
		}, codes.Internal},
		{"no exit to follow", func(k *gatewaytest.Kernel, req *controlv1.Request, p [3]*os.File) error {
			return k.Respond(req, started(false), p[0], p[1], p[2])
		}, codes.Internal},
		{"no pipe", func(k *gatewaytest.Kernel, req *controlv1.Request, p [3]*os.File) error {
			f, err := os.Open("/dev/null")
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			return k.Respond(req, started(true), p[0], f, p[2])
		}, codes.Internal},
		{"another answer", func(k *gatewaytest.Kernel, req *controlv1.Request, _ [3]*os.File) error {
			return k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Kill{Kill: &solov1.KillResponse{}}})
		}, codes.Internal},
		{"another end", func(k *gatewaytest.Kernel, req *controlv1.Request, p [3]*os.File) error {
			return errors.Join(k.Respond(req, started(true), p[:]...),
				k.Respond(req, &controlv1.Response{Result: &controlv1.Response_Kill{Kill: &solov1.KillResponse{}}}))
		}, codes.Internal},
		{"an error later", func(k *gatewaytest.Kernel, req *controlv1.Request, p [3]*os.File) error {
			return errors.Join(k.Respond(req, started(true), p[:]...),
				k.Fail(req, &controlv1.Error{Code: uint32(codes.ResourceExhausted), Message: "no memory"}))
		}, codes.ResourceExhausted},
		{"death", func(k *gatewaytest.Kernel, req *controlv1.Request, p [3]*os.File) error {
			err := k.Respond(req, started(true), p[:]...)
			k.Close()
			return err
		}, codes.Unavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := gatewaytest.Start(t, func(k *gatewaytest.Kernel, req *controlv1.Request, files ipc.Files) {
				files.Close()
				in, out, errs := pipe(t), pipe(t), pipe(t)
				defer closeAll(in[0], in[1], out[0], out[1], errs[0], errs[1])
				if err := test.do(k, req, [3]*os.File{in[1], out[0], errs[0]}); err != nil {
					t.Errorf("respond: %v", err)
				}
			}, nil)
			o := collect(t, begin(t, patient(t), g))
			if status.Code(o.err) != test.code || o.exit != nil {
				t.Errorf("got %v and exit %v, want %v", o.err, o.exit, test.code)
			}
		})
	}
}
