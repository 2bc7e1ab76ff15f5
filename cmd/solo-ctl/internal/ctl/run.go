package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/sdk/go/client"
)

const (
	inputChunk = 32 << 10
	// maxCollect bounds the output that -o json holds, per stream.
	maxCollect = 64 << 20
)

func (a *app) run() *cobra.Command {
	var s shape
	var limit time.Duration
	var limitMs uint32
	var noStdin bool
	cmd := &cobra.Command{
		Use:   "run [flags] FILE [ARGS...]",
		Short: "Run a program once, with its input and output here",
		Long: `Run runs a program in a sandbox of its own and leaves nothing of it: standard input
is piped in, output and errors come out here, and the exit status is the program's
(128 + the signal's number if a signal ended it). FILE is what deploy takes; what
follows it are the program's arguments, so flags of run go before FILE. With FILE "-"
the source text comes from standard input, and the program's own input is empty.

The program is killed when its time limit is over (reason "timeout"), when solo-ctl
is interrupted, and when the connection ends.

With -o json the output is collected, and one document says it all: stdout, stderr
(stdout_base64, stderr_base64 instead where they are not UTF-8), exit_status, reason,
cpu_usec, wall_ms; the exit status is still the program's.`,
		Example: `  solo-ctl run hello.py one two
  solo-ctl run --time-limit 5s count.sh < words.txt
  echo 'print(6*7)' | solo-ctl run --language python -
  solo-ctl run -o json /bin/ls -- -l /`,
		Args:        args(cobra.MinimumNArgs(1)),
		Annotations: map[string]string{exitNote: "Else the program's own status: its exit code, or 128 + the signal that ended it.\n130: interrupted."},
	}
	cmd.Flags().SetInterspersed(false)
	s.flagsOf(cmd)
	f := cmd.Flags()
	f.DurationVar(&limit, "time-limit", 0, "kill the program after this `TIME`, as 5s (default 1m)")
	f.Uint32Var(&limitMs, "timeout-ms", 0, "the same, a `NUMBER` of milliseconds")
	f.BoolVarP(&noStdin, "no-stdin", "n", false, "give the program an empty input")
	cmd.RunE = func(cmd *cobra.Command, list []string) error {
		start := &solov1.RunStart{TimeoutMs: limitMs}
		if limit != 0 {
			ms := limit.Milliseconds()
			if ms < 1 || ms > math.MaxUint32 {
				return usagef("--time-limit: %s is out of range", limit)
			}
			start.TimeoutMs = uint32(ms)
		}
		argv := list[1:]
		if len(argv) > 0 && argv[0] == "--" {
			argv = argv[1:]
		}
		if err := s.check(); err != nil {
			return err
		}
		return a.call(cmd, func(ctx context.Context, c *client.Client) error {
			send := &sender{ctx: ctx, client: c}
			req, err := a.load(send, list[0])
			if err != nil {
				return err
			}
			if err := s.apply(req, send, argv); err != nil {
				return err
			}
			start.Manifest = req
			stdin := a.Stdin
			if noStdin || list[0] == "-" {
				stdin = strings.NewReader("")
			}
			return a.runOnce(ctx, c.Lifecycle, start, stdin)
		})
	}
	return cmd
}

// outcome is what run -o json prints.
type outcome struct {
	Stdout       *string `json:"stdout,omitempty"`
	StdoutBase64 []byte  `json:"stdout_base64,omitempty"`
	Stderr       *string `json:"stderr,omitempty"`
	StderrBase64 []byte  `json:"stderr_base64,omitempty"`
	// Truncated says that output was over what -o json holds, and dropped.
	Truncated  bool    `json:"truncated"`
	ExitStatus int32   `json:"exit_status"`
	Reason     string  `json:"reason"`
	CPUUsec    uint64  `json:"cpu_usec"`
	WallMs     float64 `json:"wall_ms"`
}

// collector keeps the start of an output.
type collector struct {
	data      []byte
	truncated bool
}

func (c *collector) Write(p []byte) (int, error) {
	keep := min(len(p), maxCollect-len(c.data))
	c.data = append(c.data, p[:keep]...)
	c.truncated = c.truncated || keep < len(p)
	return len(p), nil
}

func (c *collector) value() (*string, []byte) {
	if utf8.Valid(c.data) {
		s := string(c.data)
		return &s, nil
	}
	return nil, c.data
}

func (a *app) runOnce(ctx context.Context, api api.LifecycleServiceClient, start *solov1.RunStart, stdin io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.Run(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&solov1.RunRequest{Item: &solov1.RunRequest_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return err // io.EOF: Recv says why
	}
	go feed(stream, stdin)

	var out, errs collector
	stdout, stderr := a.Stdout, a.Stderr
	if a.json() {
		stdout, stderr = &out, &errs
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the server ended the run without saying how the program ended")
		}
		if err != nil {
			return err
		}
		switch item := m.GetItem().(type) {
		case *solov1.RunResponse_Stdout:
			_, err = stdout.Write(item.Stdout)
		case *solov1.RunResponse_Stderr:
			_, err = stderr.Write(item.Stderr)
		case *solov1.RunResponse_Exit:
			return a.ended(item.Exit, &out, &errs)
		}
		if err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
}

// feed sends the input until it ends, or until the stream does. It may stay in a
// read of standard input when the run is over; the process ends then.
func feed(stream api.LifecycleService_RunClient, stdin io.Reader) {
	buf := make([]byte, inputChunk)
	for {
		n, err := stdin.Read(buf)
		if n > 0 {
			if stream.Send(&solov1.RunRequest{Item: &solov1.RunRequest_Stdin{Stdin: buf[:n]}}) != nil {
				return
			}
		}
		if err != nil {
			_ = stream.CloseSend() // the reader of the stream sees what is wrong
			return
		}
	}
}

func (a *app) ended(exit *solov1.RunExit, out, errs *collector) error {
	if a.json() {
		o := outcome{
			Truncated: out.truncated || errs.truncated, ExitStatus: exit.GetExitStatus(), Reason: exit.GetReason(),
			CPUUsec: exit.GetCpuUsec(), WallMs: exit.GetWallMs(),
		}
		o.Stdout, o.StdoutBase64 = out.value()
		o.Stderr, o.StderrBase64 = errs.value()
		if err := a.plainDocument(o, nil); err != nil {
			return err
		}
	} else if r := exit.GetReason(); r != "" && !strings.HasPrefix(r, "exit:") {
		a.tell("solo-ctl: the program was ended: %s\n", clean(r))
	}
	switch n := exit.GetExitStatus(); {
	case n == 0:
		return nil
	case n < 0 || n > 255: // exit(3) would keep the low byte, and call 256 success
		return exitStatus(exitError)
	default:
		return exitStatus(n)
	}
}
