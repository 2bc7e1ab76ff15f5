package ctl

import (
	"context"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
)

// shape are the flags that change a manifest, or stand for one.
type shape struct {
	name, restart, ready, memory string
	language                     string
	env, ports, files            []string
	processes, shares, replicas  uint32
	startup                      time.Duration
}

// flagsOf adds what deploy and run share.
func (s *shape) flagsOf(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&s.env, "env", nil, "environment variable `NAME=VALUE`; may be repeated")
	f.StringArrayVar(&s.files, "file", nil, "`PATH=LOCAL`: a file of the client at an absolute path inside; may be repeated")
	f.StringVar(&s.language, "language", "", "`RUNTIME` of the source: python, sh (default: recognised)")
	f.StringVar(&s.memory, "memory", "", "limit of memory, a `SIZE` as 64M or 1G")
	f.Uint32Var(&s.processes, "processes", 0, "limit of processes, a `NUMBER`")
	f.Uint32Var(&s.shares, "cpu-shares", 0, "share of the CPU, a `NUMBER`; 1024 is usual")
	f.DurationVar(&s.startup, "startup-timeout", 0, "`TIME` until ready, as 5s")
}

func (a *app) deploy() *cobra.Command {
	var s shape
	var wait, plan bool
	var requestID string
	cmd := &cobra.Command{
		Use:   "deploy FILE|MANIFEST [flags] [-- ARGS...]",
		Short: "Make a program a supervised service",
		Long: `Deploy hands a program over; Solo runs it in a sandbox and keeps it running. FILE is

  a .yaml or .yml file   a manifest with the API's field names; files that it names
                         (source.file, binary.file, bytecode.file, files[].from) are
                         relative to it and sent along
  /absolute/path         an ELF program below /usr, /bin or /opt is run from the host
  another ELF file       is uploaded
  any other file         is source text; the server recognises the runtime from the
                         name and the first line
  -                      is source text from standard input; needs --name

Flags go before the manifest's own values. Arguments for the program follow "--". A
name that is taken is an error. Without --name the name is made from FILE's.

Without --wait the answer comes when the service is stored and will be started. With
--wait it comes when the service is ready or has failed, and the exit status says
which.`,
		Example: `  solo-ctl deploy app.py
  solo-ctl deploy --name nap --wait /bin/sleep -- 60
  solo-ctl deploy web.yaml --env GREETING=hi --port 127.0.0.1:8080:8080/http
  solo-ctl deploy --validate-only web.yaml`,
		Annotations: map[string]string{exitNote: waitNote},
		Args: func(cmd *cobra.Command, list []string) error {
			n := cmd.ArgsLenAtDash()
			if n < 0 {
				n = len(list)
			}
			if n != 1 {
				return usagef("deploy: needs one FILE or MANIFEST, got %d; the program's arguments follow --", n)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, list []string) error {
			if list[0] == "-" && s.name == "" {
				return usagef("deploy: source from standard input needs --name")
			}
			if err := s.check(); err != nil {
				return err
			}
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				var r *solov1.DeployResponse
				var req *solov1.DeployRequest
				err := a.progress("deploying "+list[0], func() (err error) {
					send := &sender{ctx: ctx, client: c}
					if req, err = a.load(send, list[0]); err != nil {
						return err
					}
					if err := s.apply(req, send, list[1:]); err != nil {
						return err
					}
					if req.GetName() == "" {
						req.Name = nameOf(list[0])
					}
					req.Wait = req.GetWait() || wait
					req.ValidateOnly = req.GetValidateOnly() || plan
					if requestID != "" {
						req.RequestId = requestID
					}
					r, err = c.Solo.Deploy(ctx, req)
					return err
				})
				if err != nil {
					return err
				}
				err = a.document(r, func() string { return deployText(req, r) })
				if err != nil || req.GetValidateOnly() {
					return err
				}
				return waited(req.GetWait(), r.GetState())
			})
		},
	}
	s.flagsOf(cmd)
	f := cmd.Flags()
	f.StringVar(&s.name, "name", "", "`NAME` of the service")
	f.BoolVar(&wait, "wait", false, "until it is ready or has failed")
	f.BoolVar(&plan, "validate-only", false, "show the plan and change nothing")
	f.StringVar(&requestID, "request-id", "", "`ID` that makes a repeated deploy answer like the first")
	f.StringVar(&s.restart, "restart", "", "restart `TYPE`: permanent, transient or temporary")
	f.StringVar(&s.ready, "ready", "", "readiness `PROBE`: notify, tcp:PORT, http:PORT[/PATH] or exec:COMMAND")
	f.Uint32Var(&s.replicas, "replicas", 0, "`NUMBER` of instances")
	f.StringArrayVar(&s.ports, "port", nil, "publish `LISTEN:TO[/http]`, as 127.0.0.1:8080:80; may be repeated")
	return cmd
}

func deployText(req *solov1.DeployRequest, r *solov1.DeployResponse) string {
	if req.GetValidateOnly() {
		return planText(r.GetPlan())
	}
	line := clean(req.GetName()) + " " + clean(r.GetState())
	if r.GetReason() != "" {
		line += " (" + clean(r.GetReason()) + ")"
	}
	if r.GetStartupMs() > 0 {
		line += fmt.Sprintf(" after %.1f ms", r.GetStartupMs())
	}
	return fmt.Sprintf("%s, version %d, id %s\n", line, r.GetVersion(), clean(r.GetServiceId()))
}

// check says which flag is wrong, before anything is sent.
func (s *shape) check() error {
	for _, pf := range s.files {
		if inside, local, ok := strings.Cut(pf, "="); !ok || inside == "" || local == "" {
			return usagef("--file %s: give PATH=LOCAL", pf)
		}
	}
	return s.lay(&solov1.DeployRequest{})
}

// apply lays the flags and the program's arguments over a request, and sends files.
func (s *shape) apply(req *solov1.DeployRequest, send *sender, argv []string) error {
	if err := s.lay(req); err != nil {
		return err
	}
	for _, pf := range s.files {
		inside, local, _ := strings.Cut(pf, "=")
		content, digest, err := send.take(local, maxInline, false)
		if err != nil {
			return fmt.Errorf("--file %s: %w", pf, err)
		}
		req.Files = append(req.Files, &solov1.File{Path: inside, Content: content, Artifact: digest})
	}
	if s.language != "" {
		src := req.GetSource()
		if src == nil {
			return usagef("--language: the program is not source text")
		}
		src.Language = s.language
	}
	if len(argv) > 0 {
		return setArgs(req, argv)
	}
	return nil
}

// lay lays over a request what needs nothing but the flags.
func (s *shape) lay(req *solov1.DeployRequest) error {
	if s.name != "" {
		req.Name = s.name
	}
	if s.restart != "" {
		req.Restart = s.restart
	}
	if s.replicas > 0 {
		req.Replicas = s.replicas
	}
	for _, kv := range s.env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return usagef("--env %s: give NAME=VALUE", kv)
		}
		if req.Env == nil {
			req.Env = map[string]string{}
		}
		req.Env[k] = v
	}
	for _, p := range s.ports {
		port, err := parsePort(p)
		if err != nil {
			return err
		}
		req.Uses = append(req.Uses, &solov1.Use{Use: &solov1.Use_Port{Port: port}})
	}
	if s.ready != "" {
		ready, err := parseReady(s.ready)
		if err != nil {
			return err
		}
		req.Ready = ready
	}
	return s.resources(req)
}

func (s *shape) resources(req *solov1.DeployRequest) error {
	set := &solov1.Resources{MaxProcesses: s.processes, CpuShares: s.shares}
	if s.memory != "" {
		n, err := parseSize(s.memory)
		if err != nil {
			return err
		}
		set.MaxMemoryBytes = n
	}
	if s.startup != 0 {
		ms := s.startup.Milliseconds()
		if ms < 1 || ms > math.MaxUint32 {
			return usagef("--startup-timeout: %s is out of range", s.startup)
		}
		set.StartupTimeoutMs = uint32(ms)
	}
	if set.MaxProcesses == 0 && set.CpuShares == 0 && set.MaxMemoryBytes == 0 && set.StartupTimeoutMs == 0 {
		return nil
	}
	if req.Resources == nil {
		req.Resources = &solov1.Resources{}
	}
	r := req.Resources
	if set.MaxProcesses > 0 {
		r.MaxProcesses = set.MaxProcesses
	}
	if set.CpuShares > 0 {
		r.CpuShares = set.CpuShares
	}
	if set.MaxMemoryBytes > 0 {
		r.MaxMemoryBytes = set.MaxMemoryBytes
	}
	if set.StartupTimeoutMs > 0 {
		r.StartupTimeoutMs = set.StartupTimeoutMs
	}
	return nil
}

func setArgs(req *solov1.DeployRequest, argv []string) error {
	switch code := req.GetCode().(type) {
	case *solov1.DeployRequest_Source:
		code.Source.Args = argv
	case *solov1.DeployRequest_Bytecode:
		code.Bytecode.Args = argv
	case *solov1.DeployRequest_Binary:
		code.Binary.Args = argv
	case *solov1.DeployRequest_Artifact:
		code.Artifact.Args = argv
	default:
		return usagef("arguments were given, but the manifest has no program")
	}
	return nil
}

// parsePort reads LISTEN:TO[/http], LISTEN being an address with its port.
func parsePort(text string) (*solov1.PortUse, error) {
	spec, http := strings.CutSuffix(text, "/http")
	i := strings.LastIndexByte(spec, ':')
	if i < 0 {
		return nil, usagef("--port %s: give ADDRESS:PORT:TO or ADDRESS:PORT:TO/http", text)
	}
	listen := spec[:i]
	if _, _, err := net.SplitHostPort(listen); err != nil {
		return nil, usagef("--port %s: %q is not ADDRESS:PORT", text, listen)
	}
	to, err := strconv.ParseUint(spec[i+1:], 10, 16)
	if err != nil || to == 0 {
		return nil, usagef("--port %s: %q is not a port", text, spec[i+1:])
	}
	return &solov1.PortUse{Listen: listen, To: uint32(to), Http: http}, nil
}

func parseReady(text string) (*solov1.Ready, error) {
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "notify":
		if text == "notify" {
			return &solov1.Ready{Probe: &solov1.Ready_Notify{Notify: true}}, nil
		}
	case "tcp":
		if port, err := strconv.ParseUint(rest, 10, 16); err == nil && port > 0 {
			return &solov1.Ready{Probe: &solov1.Ready_Tcp{Tcp: uint32(port)}}, nil
		}
	case "http":
		number, path, slash := strings.Cut(rest, "/")
		if slash {
			path = "/" + path
		}
		if port, err := strconv.ParseUint(number, 10, 16); err == nil && port > 0 {
			return &solov1.Ready{Probe: &solov1.Ready_Http{Http: &solov1.HttpProbe{Port: uint32(port), Path: path}}}, nil
		}
	case "exec":
		if command := strings.Fields(rest); len(command) > 0 {
			return &solov1.Ready{Probe: &solov1.Ready_Exec{Exec: &solov1.ExecProbe{Command: command}}}, nil
		}
	}
	return nil, usagef("--ready %s: give notify, tcp:PORT, http:PORT[/PATH] or exec:COMMAND", text)
}

// parseSize reads bytes, with K, M, G or T (also KiB, kB and so on) for powers of
// 1024.
func parseSize(text string) (uint64, error) {
	s := strings.ToUpper(strings.TrimSpace(text))
	s = strings.TrimSuffix(strings.TrimSuffix(s, "B"), "I")
	shift := 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("KMGT", s[n-1]); i >= 0 {
			shift, s = 10*(i+1), s[:n-1]
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 || n > math.MaxUint64>>shift {
		return 0, usagef("%q is not a size; give bytes, or as 64M, 1G", text)
	}
	return n << shift, nil
}
