package manifest

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Mount is a host file or directory, or the code's artifact, seen read-only inside.
type Mount struct {
	// Source is empty for the artifact.
	Source, Target string
	Directory      bool
	Artifact       bool
}

// Code is what the host found out about the code of a manifest.
type Code struct {
	// Runtime is "binary" or a runtime's name.
	Runtime string
	// Digest of the code: of the artifact, or of the host's binary.
	Digest string
	// Program is the path inside of what is executed; Argv its argument vector, where
	// "$FILE" and "$ARGS" stand for the source's path and the manifest's arguments.
	Program string
	Argv    []string
	// File is the path inside of the source; empty for binaries.
	File string
	Env  []string
	// Mounts in any order; those below a directory of the list are dropped.
	Mounts []Mount
	// Profile is the name of the seccomp profile.
	Profile string
	// StartupTimeoutMs is the runtime's default; 0 for Solo's.
	StartupTimeoutMs uint32
}

// Plan is what the kernel does for a manifest: a value that depends on nothing else.
type Plan struct {
	Manifest *solov1.DeployRequest
	Code     Code
	Argv     []string
	// Env is complete but for what only an instance knows (SOLO_CONTROL, LISTEN_PID).
	Env    []string
	Mounts []Mount
	// Listen are the ports whose socket the program gets by LISTEN_FDS, in order.
	Listen []*solov1.PortUse
	// Ports are all published ports, in the manifest's order.
	Ports []*solov1.PortUse
}

// Make builds the plan for a valid manifest and its code. It fills in the manifest's
// startup timeout, whose default is the runtime's; the plan keeps the manifest.
func Make(m *solov1.DeployRequest, code Code) (Plan, []Violation) {
	p := Plan{Manifest: m, Code: code}
	if m.GetResources().GetStartupTimeoutMs() == 0 {
		m.Resources.StartupTimeoutMs = max(code.StartupTimeoutMs, DefaultTimeout)
	}
	for _, a := range code.Argv {
		switch a {
		case "$FILE":
			p.Argv = append(p.Argv, code.File)
		case "$ARGS":
			p.Argv = append(p.Argv, Args(m)...)
		default:
			p.Argv = append(p.Argv, a)
		}
	}
	if name := m.GetBinary().GetArgv0(); name != "" && len(p.Argv) > 0 {
		p.Argv[0] = name
	}
	p.Mounts = dedupe(code.Mounts)
	var found []Violation
	for i, f := range m.GetFiles() {
		if why := p.conflict(inside(f.GetPath())); why != "" {
			found = append(found, Violation{Field: fmt.Sprintf("files[%d].path", i), Description: fmt.Sprintf("%q %s", clip(f.GetPath()), why)})
		}
	}
	for _, u := range m.GetUses() {
		if port := u.GetPort(); port != nil {
			p.Ports = append(p.Ports, port)
			if port.GetFdName() != "" {
				p.Listen = append(p.Listen, port)
			}
		}
	}
	p.Env = environment(m, code, p.Listen)
	if len(found) > 0 {
		return Plan{}, found
	}
	return p, nil
}

// conflict says what of the code is where a file is to be, or "".
func (p Plan) conflict(file string) string {
	for _, m := range p.Mounts {
		switch {
		case below(file, m.Target):
			return fmt.Sprintf("lies in %s, which is mounted read-only", m.Target)
		case below(m.Target, file):
			return fmt.Sprintf("is a directory, in which %s is mounted", m.Target)
		}
	}
	for _, code := range []string{p.Code.Program, p.Code.File} {
		if code != "" && (below(file, code) || below(code, file)) {
			return fmt.Sprintf("is in the way of %s, the code", code)
		}
	}
	return ""
}

// dedupe sorts mounts by target and drops those that lie below a mounted directory, and
// all but one of a target: a directory rather than a file, then the first source.
func dedupe(in []Mount) []Mount {
	all := slices.Clone(in)
	slices.SortFunc(all, func(a, b Mount) int {
		return cmp.Or(strings.Compare(a.Target, b.Target), strings.Compare(a.Source, b.Source))
	})
	var out []Mount
	covered := func(target string) bool {
		for _, o := range out {
			if target == o.Target || o.Directory && below(target, o.Target) {
				return true
			}
		}
		return false
	}
	for _, directories := range []bool{true, false} {
		for _, m := range all {
			if m.Directory == directories && !covered(m.Target) {
				out = append(out, m)
			}
		}
	}
	slices.SortFunc(out, func(a, b Mount) int { return strings.Compare(a.Target, b.Target) })
	return out
}

func environment(m *solov1.DeployRequest, code Code, listen []*solov1.PortUse) []string {
	env := map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "TMPDIR": "/tmp",
	}
	for _, kv := range code.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	for k, v := range m.GetEnv() {
		env[k] = v
	}
	env["NOTIFY_SOCKET"] = "/run/notify"
	if len(listen) > 0 {
		env["LISTEN_FDS"] = strconv.Itoa(len(listen))
		names := make([]string, len(listen))
		for i, p := range listen {
			names[i] = p.GetFdName()
		}
		env["LISTEN_FDNAMES"] = strings.Join(names, ":")
	}
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// Readiness names the probe in words.
func Readiness(r *solov1.Ready) string {
	switch probe := r.GetProbe().(type) {
	case *solov1.Ready_Notify:
		return "notify"
	case *solov1.Ready_Tcp:
		return fmt.Sprintf("tcp:%d", probe.Tcp)
	case *solov1.Ready_Http:
		return fmt.Sprintf("http:%d%s", probe.Http.GetPort(), probe.Http.GetPath())
	case *solov1.Ready_Exec:
		return "exec:" + path.Base(probe.Exec.GetCommand()[0])
	}
	return "started"
}

// Proto is the plan as the API shows it. Values of the environment are left out: they
// may hold secrets.
func (p Plan) Proto() *solov1.Plan {
	m := p.Manifest
	out := &solov1.Plan{
		Name: m.GetName(), Runtime: p.Code.Runtime, CodeDigest: p.Code.Digest,
		Program: p.Code.Program, Argv: p.Argv, Resources: m.GetResources(), Restart: m.GetRestart(),
		Ready: Readiness(m.GetReady()), Replicas: m.GetReplicas(), SeccompProfile: p.Code.Profile, StartupPath: "blank",
	}
	for _, kv := range p.Env {
		k, _, _ := strings.Cut(kv, "=")
		out.Env = append(out.Env, k)
	}
	for _, mount := range p.Mounts {
		out.Mounts = append(out.Mounts, mount.Target)
	}
	for _, f := range m.GetFiles() {
		out.Files = append(out.Files, f.GetMode()+" "+f.GetPath())
	}
	for _, port := range p.Ports {
		out.Ports = append(out.Ports, fmt.Sprintf("%s -> %d", port.GetListen(), port.GetTo()))
	}
	return out
}
