// Package manifest says what a service may declare. Validate turns a request into a
// normal form or a list of what is wrong with it; Make turns the normal form and
// what the host offers into a plan. It is pure: the same input gives the same output.
//
// Trust: the request comes from a client and is hostile. Every limit is a constant
// here and is tested at its edge.
package manifest

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/proto"
)

// Limits of a manifest.
const (
	MaxSegments     = 4
	MaxRequestID    = 128
	MaxEnvArgBytes  = 32 << 10
	MaxCodeBytes    = 1 << 20
	MaxFiles        = 64
	MaxFileBytes    = 16 << 20
	MaxPath         = 1024
	MaxUses         = 64
	MaxReplicas     = 32
	MaxProbeArgs    = 64
	DefaultTimeout  = 100
	DefaultShutdown = 30_000
)

// Violation is one thing that is wrong with one field.
type Violation struct {
	// Field as the API names it: "resources.max_memory_bytes", "files[2].path".
	Field string
	// Description says what was wrong and what is allowed.
	Description string
}

// Contents says which contents came beside the request, as descriptors.
type Contents struct {
	Code  bool
	Files map[int]bool
}

var (
	segment  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	envName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	fileName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	fdName   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	digest   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	language = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
)

// CheckName says what is wrong with a service's name, or "".
func CheckName(name string) string {
	if name == "" {
		return "is required"
	}
	parts := strings.Split(name, "/")
	if len(parts) > MaxSegments {
		return fmt.Sprintf("has %d segments, at most %d are allowed", len(parts), MaxSegments)
	}
	for _, p := range parts {
		if !segment.MatchString(p) {
			return fmt.Sprintf("segment %q does not match [a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", clip(p))
		}
	}
	return ""
}

// CheckDigest says what is wrong with the digest of an artifact, or "".
func CheckDigest(d string) string {
	if !digest.MatchString(d) {
		return `is not "sha256:" and 64 hex digits`
	}
	return ""
}

// clip shortens hostile text for a message.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

type checker struct{ found []Violation }

func (c *checker) add(field, format string, args ...any) {
	c.found = append(c.found, Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

// Validate returns the request in its normal form: restart, replicas, file modes and
// resources filled in (but for the startup timeout, whose default is the runtime's).
// It returns every violation it finds, and then no manifest. It does not change req.
func Validate(req *solov1.DeployRequest, with Contents) (*solov1.DeployRequest, []Violation) {
	m := proto.CloneOf(req)
	c := &checker{}
	if why := CheckName(m.GetName()); why != "" {
		c.add("name", "%s", why)
	}
	if len(m.GetRequestId()) > MaxRequestID {
		c.add("request_id", "is %d bytes, at most %d are allowed", len(m.GetRequestId()), MaxRequestID)
	}
	c.code(m, with)
	c.files(m, with)
	c.environment(m)
	c.uses(m)
	c.ready(m)
	c.resources(m)
	switch m.GetRestart() {
	case "":
		m.Restart = "permanent"
	case "permanent", "transient", "temporary":
	default:
		c.add("restart", "%q is none of permanent, transient, temporary", clip(m.GetRestart()))
	}
	if m.GetReplicas() == 0 {
		m.Replicas = 1
	}
	if m.GetReplicas() > MaxReplicas {
		c.add("replicas", "%d is over the limit of %d", m.GetReplicas(), MaxReplicas)
	}
	if len(c.found) > 0 {
		return nil, c.found
	}
	return m, nil
}

func (c *checker) code(m *solov1.DeployRequest, with Contents) {
	if with.Code && m.GetSource() == nil {
		c.add("code", "a source text came without source")
	}
	switch code := m.GetCode().(type) {
	case *solov1.DeployRequest_Source:
		s := code.Source
		if s.GetLanguage() != "" && !language.MatchString(s.GetLanguage()) {
			c.add("source.language", "%q is not a runtime's name", clip(s.GetLanguage()))
		}
		if s.GetFile() == "" {
			s.File = "main"
		}
		if !fileName.MatchString(s.GetFile()) {
			c.add("source.file", "%q is not a plain file name of at most 128 characters", clip(s.GetFile()))
		}
		c.one("source", with.Code || s.GetCode() != "", s.GetArtifact(), "code")
	case *solov1.DeployRequest_Bytecode:
		c.add("bytecode", "is not supported by this version of Solo; deploy source or a binary")
	case *solov1.DeployRequest_Binary:
		b := code.Binary
		if b.GetFile() != "" {
			c.add("binary.file", "is for manifests that solo-ctl sends; upload the file and name its artifact")
		}
		c.one("binary", b.GetPath() != "", b.GetArtifact(), "path")
		if p := b.GetPath(); p != "" {
			c.path("binary.path", p)
		}
	case *solov1.DeployRequest_Artifact:
		if why := CheckDigest(code.Artifact.GetDigest()); why != "" {
			c.add("artifact.digest", "%s", why)
		}
		if code.Artifact.GetFile() == "" {
			code.Artifact.File = "main"
		}
		if !fileName.MatchString(code.Artifact.GetFile()) {
			c.add("artifact.file", "%q is not a plain file name of at most 128 characters", clip(code.Artifact.GetFile()))
		}
	default:
		c.add("code", "one of source, bytecode, binary, artifact is required")
	}
}

// one wants exactly one of a field and an artifact's digest.
func (c *checker) one(parent string, has bool, artifact, field string) {
	switch {
	case has && artifact != "":
		c.add(parent, "has both %s and artifact", field)
	case !has && artifact == "":
		c.add(parent, "needs %s or artifact", field)
	case artifact != "":
		if why := CheckDigest(artifact); why != "" {
			c.add(parent+".artifact", "%s", why)
		}
	}
}

func (c *checker) path(field, p string) bool {
	switch {
	case !strings.HasPrefix(p, "/"):
		c.add(field, "%q is not absolute", clip(p))
	case len(p) > MaxPath:
		c.add(field, "is %d bytes, at most %d are allowed", len(p), MaxPath)
	case strings.ContainsRune(p, 0):
		c.add(field, "contains a NUL byte")
	case path.Clean(p) != p || p == "/":
		c.add(field, "%q is not a clean path", clip(p))
	default:
		return true
	}
	return false
}

// closed are the directories whose content is Solo's.
var closed = []string{"/proc", "/dev", "/tmp", "/run", "/sys"}

func (c *checker) files(m *solov1.DeployRequest, with Contents) {
	if len(m.GetFiles()) > MaxFiles {
		c.add("files", "%d files are over the limit of %d", len(m.GetFiles()), MaxFiles)
		return
	}
	seen := map[string]bool{}
	for i, f := range m.GetFiles() {
		field := fmt.Sprintf("files[%d]", i)
		if c.path(field+".path", f.GetPath()) {
			for _, dir := range closed {
				if f.GetPath() == dir || strings.HasPrefix(f.GetPath(), dir+"/") {
					c.add(field+".path", "lies below %s, which is Solo's", dir)
				}
			}
			if seen[f.GetPath()] {
				c.add(field+".path", "%q is there twice", clip(f.GetPath()))
			}
			seen[f.GetPath()] = true
		}
		if f.GetFrom() != "" {
			c.add(field+".from", "is for manifests that solo-ctl sends; give content or artifact")
		}
		if f.GetMode() == "" {
			f.Mode = "0444"
		}
		if bits, err := strconv.ParseUint(f.GetMode(), 8, 32); err != nil || bits > 0o777 {
			c.add(field+".mode", "%q is not octal permission bits up to 0777", clip(f.GetMode()))
		}
		if with.Files[i] && f.GetArtifact() != "" {
			c.add(field, "has both content and artifact")
		} else if f.GetArtifact() != "" {
			if why := CheckDigest(f.GetArtifact()); why != "" {
				c.add(field+".artifact", "%s", why)
			}
		}
	}
	for i := range with.Files {
		if i < 0 || i >= len(m.GetFiles()) {
			c.add("files", "content for file %d of %d", i, len(m.GetFiles()))
		}
	}
}

// Args are the arguments after the program's name.
func Args(m *solov1.DeployRequest) []string {
	switch code := m.GetCode().(type) {
	case *solov1.DeployRequest_Source:
		return code.Source.GetArgs()
	case *solov1.DeployRequest_Binary:
		return code.Binary.GetArgs()
	case *solov1.DeployRequest_Artifact:
		return code.Artifact.GetArgs()
	}
	return nil
}

func (c *checker) environment(m *solov1.DeployRequest) {
	total := 0
	for i, a := range Args(m) {
		total += len(a) + 1
		if strings.ContainsRune(a, 0) {
			c.add(fmt.Sprintf("args[%d]", i), "contains a NUL byte")
		}
	}
	for k, v := range m.GetEnv() {
		total += len(k) + len(v) + 2
		field := "env." + clip(k)
		switch {
		case !envName.MatchString(k):
			c.add(field, "is not a name of letters, digits and _")
		case strings.HasPrefix(k, "SOLO_") || strings.HasPrefix(k, "LISTEN_") || k == "NOTIFY_SOCKET":
			c.add(field, "is set by Solo")
		case strings.ContainsRune(v, 0):
			c.add(field, "contains a NUL byte")
		}
	}
	if total > MaxEnvArgBytes {
		c.add("env", "arguments and environment are %d bytes together, at most %d are allowed", total, MaxEnvArgBytes)
	}
}

func (c *checker) uses(m *solov1.DeployRequest) {
	if len(m.GetUses()) > MaxUses {
		c.add("uses", "%d are over the limit of %d", len(m.GetUses()), MaxUses)
		return
	}
	listens, names := map[string]bool{}, map[string]bool{}
	for i, u := range m.GetUses() {
		field := fmt.Sprintf("uses[%d]", i)
		switch use := u.GetUse().(type) {
		case *solov1.Use_Port:
			c.port(field+".port", use.Port, listens, names)
		case *solov1.Use_Volume:
			c.add(field+".volume", "is not supported by this version of Solo")
		case *solov1.Use_Service:
			c.add(field+".service", "is not supported by this version of Solo")
		case *solov1.Use_Egress:
			c.add(field+".egress", "is not supported by this version of Solo")
		default:
			c.add(field, "one of port, volume, service, egress is required")
		}
	}
}

func (c *checker) port(field string, p *solov1.PortUse, listens, names map[string]bool) {
	addr, err := netip.ParseAddrPort(p.GetListen())
	switch {
	case err != nil:
		c.add(field+".listen", "%q is not an address and port such as 127.0.0.1:8080", clip(p.GetListen()))
	case !addr.Addr().IsLoopback():
		c.add(field+".listen", "%q is not a loopback address", clip(p.GetListen()))
	case addr.Port() == 0:
		c.add(field+".listen", "port 0 cannot be published")
	case listens[addr.String()]:
		c.add(field+".listen", "%q is there twice", addr.String())
	default:
		p.Listen = addr.String()
		listens[addr.String()] = true
	}
	if p.GetTo() == 0 {
		p.To = uint32(addr.Port())
	}
	if p.GetTo() == 0 || p.GetTo() > 65535 {
		c.add(field+".to", "%d is not a port", p.GetTo())
	}
	if n := p.GetFdName(); n != "" {
		if !fdName.MatchString(n) {
			c.add(field+".fd_name", "%q is not a name of at most 64 letters, digits, and . _ -", clip(n))
		}
		if names[n] {
			c.add(field+".fd_name", "%q is there twice", n)
		}
		names[n] = true
	}
}

func (c *checker) ready(m *solov1.DeployRequest) {
	port := func(field string, p uint32) {
		if p == 0 || p > 65535 {
			c.add(field, "%d is not a port", p)
		}
	}
	switch r := m.GetReady().GetProbe().(type) {
	case *solov1.Ready_Tcp:
		port("ready.tcp", r.Tcp)
	case *solov1.Ready_Http:
		port("ready.http.port", r.Http.GetPort())
		if r.Http.GetPath() == "" {
			r.Http.Path = "/"
		}
		if p := r.Http.GetPath(); !strings.HasPrefix(p, "/") || len(p) > MaxPath || strings.ContainsAny(p, " \r\n\x00") {
			c.add("ready.http.path", "%q is not a path", clip(p))
		}
	case *solov1.Ready_Exec:
		cmd := r.Exec.GetCommand()
		if len(cmd) == 0 || len(cmd) > MaxProbeArgs {
			c.add("ready.exec.command", "has %d words, 1 to %d are allowed", len(cmd), MaxProbeArgs)
			return
		}
		c.path("ready.exec.command[0]", cmd[0])
		total := 0
		for i, a := range cmd {
			total += len(a)
			if strings.ContainsRune(a, 0) {
				c.add(fmt.Sprintf("ready.exec.command[%d]", i), "contains a NUL byte")
			}
		}
		if total > MaxEnvArgBytes {
			c.add("ready.exec.command", "is %d bytes, at most %d are allowed", total, MaxEnvArgBytes)
		}
	case *solov1.Ready_Endpoint:
		c.add("ready.endpoint", "is not supported by this version of Solo")
	case *solov1.Ready_Notify:
		if !r.Notify {
			m.Ready = nil
		}
	case nil:
		m.Ready = nil
	}
}
