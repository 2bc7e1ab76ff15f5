// Package ctl is solo-ctl: commands that call Solo's API and print the answers.
//
// Trust: runs as its caller and holds his token. What comes from services (log
// text, names of states, program output) is untrusted: shown on a terminal, control
// characters in it are escaped.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/solo-os/solo/sdk/go/client"
)

// Exit statuses besides 0 and, for run, the program's own.
const (
	exitError       = 1
	exitUsage       = 2
	exitDenied      = 3
	exitInterrupted = 130
)

const (
	defaultStateDir = "/var/lib/solo"
	maxTokenFile    = 4096
)

// Env is what a run of solo-ctl touches besides files and the API.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// Terminal says whether standard output and error are terminals.
	StdoutTerminal, StderrTerminal bool
}

// System is the environment of this process.
func System() Env {
	return Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
		StdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		StderrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
}

// app is one invocation.
type app struct {
	Env
	flags globals
	// stream says that the output is one document a line: an error is one too.
	stream bool
}

// globals are the flags of every command.
type globals struct {
	addr, tokenFile string
	ca, cert, key   string
	output          string
	timeout         time.Duration
}

// usageError is a mistake in the command line.
type usageError struct{ what string }

func (e *usageError) Error() string { return e.what }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// exitStatus ends solo-ctl with a status without a message.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Main runs one command and returns the exit status. SIGINT and SIGTERM end the
// call under way; a run's program is killed then.
func Main(args []string, env Env) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case ctx.Err() != nil && a.stream:
		return exitInterrupted // which is how following ends
	}
	if errors.As(err, new(*usageError)) && asksJSON(args) {
		a.flags.output = "json" // the line may not have been read to its end
	}
	code := a.report(err)
	if ctx.Err() != nil && code == exitError {
		return exitInterrupted
	}
	return code
}

// asksJSON says whether a command line that is wrong asks for JSON all the same.
func asksJSON(args []string) bool {
	for i, arg := range args {
		switch arg {
		case "--":
			return false
		case "-ojson", "-o=json", "--output=json":
			return true
		case "-o", "--output":
			if i+1 < len(args) && args[i+1] == "json" {
				return true
			}
		}
	}
	return false
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "solo-ctl",
		Short: "Deploy, run and supervise programs on Solo",
		Long: `solo-ctl talks to a running solod. It hands programs over, as files, manifests or
paths on the host, and shows and steers the services that they become.

Where Solo is, and who asks:
  --addr, SOLO_ADDR      unix:///path/to/api.sock (default ` + client.DefaultAddr + `)
                         or host:port, which needs --ca, --cert and --key
  --token-file           file with the token (default ` + defaultStateDir + `/root.token)
  SOLO_TOKEN             the token itself; goes before the default token file

Every command takes -o json and then prints one JSON document (logs, watch and
audit tail: one a line), with the field names of the API. An error is then
{"error": {"code", "message", "reason", "violations", "denial"}}.`,
		Example: `  solo-ctl deploy --name web --wait app.py
  solo-ctl deploy --name nap /bin/sleep -- 60
  solo-ctl run hello.sh one two < input.txt
  solo-ctl status web -o json
  solo-ctl logs -f web`,
		Annotations:   map[string]string{exitNote: "run ends with the program's own status. 130: interrupted."},
		Args:          args(cobra.NoArgs),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.flags.output != "text" && a.flags.output != "json" {
				return usagef("-o %s: the output is text or json", a.flags.output)
			}
			if a.flags.timeout < 0 {
				return usagef("--timeout: %s is negative", a.flags.timeout)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("no command given; see solo-ctl help")
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&a.flags.addr, "addr", "", "`ADDRESS` of the API: unix:///path or host:port (SOLO_ADDR)")
	f.StringVar(&a.flags.tokenFile, "token-file", "", "`FILE` that holds the token (default "+defaultStateDir+"/root.token)")
	f.StringVar(&a.flags.ca, "ca", "", "`FILE` with the CA certificate, for host:port (SOLO_CA)")
	f.StringVar(&a.flags.cert, "cert", "", "`FILE` with the client certificate, for host:port (SOLO_CERT)")
	f.StringVar(&a.flags.key, "key", "", "`FILE` with its key, for host:port (SOLO_KEY)")
	f.StringVarP(&a.flags.output, "output", "o", "text", "`FORMAT`: text or json")
	f.DurationVar(&a.flags.timeout, "timeout", 0, "give up after this `TIME`, as 500ms or 2m (default: never)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err.Error()} })
	root.AddCommand(
		a.deploy(), a.run(), a.upload(),
		a.list(), a.status(), a.kill(), a.start(), a.restart(), a.delete(),
		a.logs(), a.watch(), a.shutdown(),
		a.kernel(), a.audit(), a.certs(), a.version(),
	)
	root.SetHelpCommand(a.help())
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { _ = a.write([]byte(helpText(cmd))) })
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// args makes a wrong number of arguments wrong usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		if err := check(cmd, list); err != nil {
			return usagef("%s: %v; see %s --help", cmd.Name(), err, cmd.CommandPath())
		}
		return nil
	}
}

// group is a command that only holds others.
func group(use, short, long, example string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("%s: no subcommand given; see %s --help", cmd.Name(), cmd.CommandPath())
		},
	}
	cmd.AddCommand(children...)
	return cmd
}

func (a *app) json() bool { return a.flags.output == "json" }

// call opens the API, runs f within --timeout, and closes the API.
func (a *app) call(cmd *cobra.Command, f func(context.Context, *client.Client) error) error {
	token, err := a.token()
	if err != nil {
		return err
	}
	or := func(flag, variable string) string {
		if flag != "" {
			return flag
		}
		return a.Getenv(variable)
	}
	o := client.Options{Addr: or(a.flags.addr, "SOLO_ADDR"), Token: token}
	if o.Addr == "" {
		o.Addr = client.DefaultAddr
	}
	// Over a socket only certificates that were asked for on the line are a mistake.
	o.CA, o.Cert, o.Key = a.flags.ca, a.flags.cert, a.flags.key
	if !strings.HasPrefix(o.Addr, "unix:") {
		o.CA, o.Cert, o.Key = or(o.CA, "SOLO_CA"), or(o.Cert, "SOLO_CERT"), or(o.Key, "SOLO_KEY")
	}
	if err := o.Validate(); err != nil {
		return usagef("%v (--addr, --ca, --cert, --key)", err)
	}
	c, err := client.Open(o)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	ctx := cmd.Context()
	if a.flags.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.flags.timeout)
		defer cancel()
	}
	return f(ctx, c)
}

// token returns the token of --token-file, SOLO_TOKEN or the default file, in this
// order. Without any it returns "": the refusal is the server's.
func (a *app) token() (string, error) {
	path := a.flags.tokenFile
	if path == "" {
		if token := strings.TrimSpace(a.Getenv("SOLO_TOKEN")); token != "" {
			return checkToken("SOLO_TOKEN", token)
		}
		path = defaultStateDir + "/root.token"
		if _, err := os.Stat(path); err != nil {
			return "", nil
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if len(text) > maxTokenFile {
		return "", fmt.Errorf("token: %s is longer than %d bytes: no token", path, maxTokenFile)
	}
	return checkToken(path, strings.TrimSpace(string(text)))
}

// checkToken keeps what cannot be a gRPC header out of one.
func checkToken(from, token string) (string, error) {
	for _, c := range []byte(token) {
		if c <= ' ' || c > '~' {
			return "", fmt.Errorf("token: %s holds characters that no token has", from)
		}
	}
	return token, nil
}
