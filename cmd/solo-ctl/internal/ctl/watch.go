package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
)

const progressAfter = time.Second

func (a *app) logs() *cobra.Command {
	var follow bool
	var since string
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Show what a service wrote",
		Long: `Logs prints the lines that a service has written to standard output and standard
error, as far as they are kept; with -f also those that come, until interrupted.
Solo's own remarks in a log are marked [solo]. With -o json each line is one document;
its text is base64, since a log need not be text.

On a terminal control characters in the text are escaped.`,
		Example: "  solo-ctl logs web\n  solo-ctl logs -f --since now web",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if err := checkSince(since); err != nil {
				return err
			}
			return a.follow(cmd, &solov1.WatchRequest{Service: list[0], Kinds: []string{"log"}, Since: since, NoFollow: !follow}, a.logText)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	cmd.Flags().StringVar(&since, "since", "start", "begin at `WHEN`: start, now, or after a sequence number")
	return cmd
}

func (a *app) watch() *cobra.Command {
	var since string
	var kinds []string
	var once bool
	cmd := &cobra.Command{
		Use:   "watch [NAME]",
		Short: "Follow logs, metrics and events",
		Long: `Watch prints what happens, of one service or of all, until interrupted: log lines,
metrics (memory, CPU, processes) and events (deployed, starting, ready, exited,
restarting, stopped, failed, deleted, limit, updated, denied). With -o json each is
one document on a line.`,
		Example: "  solo-ctl watch\n  solo-ctl watch --kinds event,log --since start web -o json",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if err := checkSince(since); err != nil {
				return err
			}
			for _, k := range kinds {
				if k != "log" && k != "metric" && k != "event" {
					return usagef("--kinds: %q is none of log, metric, event", k)
				}
			}
			req := &solov1.WatchRequest{Kinds: kinds, Since: since, NoFollow: once}
			if len(list) == 1 {
				req.Service = list[0]
			}
			return a.follow(cmd, req, a.itemText)
		},
	}
	cmd.Flags().StringVar(&since, "since", "now", "begin at `WHEN`: now, start, or after a sequence number")
	cmd.Flags().StringSliceVar(&kinds, "kinds", nil, "`LIST` of log, metric, event (default: all)")
	cmd.Flags().BoolVar(&once, "no-follow", false, "end when what is kept has been shown")
	return cmd
}

func checkSince(since string) error {
	if since == "now" || since == "start" {
		return nil
	}
	if _, err := strconv.ParseUint(since, 10, 64); err != nil {
		return usagef("--since %s: give now, start or a sequence number", since)
	}
	return nil
}

func (a *app) follow(cmd *cobra.Command, req *solov1.WatchRequest, text func(*solov1.WatchResponse) []byte) error {
	a.stream = true
	return a.call(cmd, func(ctx context.Context, c *client.Client) error {
		stream, err := c.Solo.Watch(ctx, req)
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if a.json() {
				err = a.line(m)
			} else {
				err = a.write(text(m))
			}
			if err != nil {
				return err
			}
		}
	})
}

// logText is the line as it was written; only a terminal is protected from it.
func (a *app) logText(m *solov1.WatchResponse) []byte {
	l := m.GetLog()
	if l == nil {
		return nil
	}
	text := l.GetText()
	if a.StdoutTerminal {
		text = []byte(clean(string(text)))
	}
	if l.GetStream() == "solo" {
		text = append([]byte("[solo] "), text...)
	}
	if l.GetPartial() {
		return text
	}
	return append(text[:len(text):len(text)], '\n')
}

func (a *app) itemText(m *solov1.WatchResponse) []byte {
	var what string
	switch item := m.GetItem().(type) {
	case *solov1.WatchResponse_Log:
		what = item.Log.GetStream() + " | " + string(item.Log.GetText())
	case *solov1.WatchResponse_Metric:
		what = fmt.Sprintf("metric | memory %s, cpu %s, processes %d", size(item.Metric.GetMemoryBytes()), cpu(item.Metric.GetCpuUsec()), item.Metric.GetProcesses())
	case *solov1.WatchResponse_Event:
		e := item.Event
		what = "event | " + strings.Join(strings.Fields(e.GetType()+" "+e.GetState()+" "+e.GetReason()), " ")
		if e.GetDetail() != "" {
			what += ": " + e.GetDetail()
		}
	default:
		return nil
	}
	at := "-"
	if m.GetTime() != nil {
		at = m.GetTime().AsTime().Local().Format("15:04:05.000")
	}
	return []byte(clean(fmt.Sprintf("%s %s %s", at, dash(m.GetService()), what)) + "\n")
}

func (a *app) audit() *cobra.Command {
	var follow bool
	var after uint64
	tail := &cobra.Command{
		Use:   "tail",
		Short: "Print the records of the audit log",
		Long: `Tail prints the records of the audit log, each a JSON document on a line, from the
first or from the one after --after; with -f also those that come, until interrupted.`,
		Example: "  solo-ctl audit tail\n  solo-ctl audit tail -f --after 100",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.stream = true
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				stream, err := c.Audit.Tail(ctx, &solov1.TailRequest{After: after, Follow: follow})
				if err != nil {
					return err
				}
				for {
					m, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						return nil
					}
					if err != nil {
						return err
					}
					record := m.GetRecord()
					if a.StdoutTerminal {
						record = clean(record)
					}
					if err := a.write([]byte(record + "\n")); err != nil {
						return err
					}
				}
			})
		},
	}
	tail.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	tail.Flags().Uint64Var(&after, "after", 0, "begin after the record with this `NUMBER`")
	return group("audit", "Read the audit log",
		"The audit log holds a record of everything that changed anything, and of every\nrefusal, each chained to the one before by its hash.",
		"  solo-ctl audit tail -f", tail)
}

// progress runs f and, when it takes longer than a second on a terminal, says what
// is going on.
func (a *app) progress(what string, f func() error) error {
	if !a.StderrTerminal {
		return f()
	}
	begin := time.Now()
	done := make(chan struct{})
	var shown sync.WaitGroup
	shown.Go(func() {
		tick := time.NewTicker(progressAfter)
		defer tick.Stop()
		drawn := false
		for {
			select {
			case <-tick.C:
				drawn = true
				a.tell("\r\x1b[K%s … %d s", clean(what), int(time.Since(begin).Seconds()))
			case <-done:
				if drawn {
					a.tell("\r\x1b[K")
				}
				return
			}
		}
	})
	defer shown.Wait()
	defer close(done)
	return f()
}

func (a *app) upload() *cobra.Command {
	return &cobra.Command{
		Use:   "upload FILE|-",
		Short: "Send a file to be deployed later",
		Long: `Upload sends a file, or standard input, and prints its digest. A manifest names it
by that: artifact: {digest: sha256:...}, or source, binary and files with artifact.
The same content is kept once.`,
		Example: "  solo-ctl upload ./server\n  tar c dir | solo-ctl upload -",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			in := a.Stdin
			if list[0] != "-" {
				f, err := openRegular(list[0])
				if err != nil {
					return err
				}
				defer func(f *os.File) { _ = f.Close() }(f)
				in = f
			}
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				var r *solov1.UploadResponse
				err := a.progress("uploading "+list[0], func() (err error) {
					r, err = c.Upload(ctx, in)
					return err
				})
				if err != nil {
					return err
				}
				return a.document(r, func() string { return clean(r.GetDigest()) + "\n" })
			})
		},
	}
}
