// Package manifest says what a service may declare. Validate turns a request into a
// normal form or a list of what is wrong with it; Make turns the normal form and
// what the host offers into a plan. It is pure: the same input gives the same output.
//
// Trust: the request comes from a client and is hostile. Every limit is a constant
// here and is tested at its edge.
package manifest

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/proto"
)

// Limits of a manifest.
const (
	MaxSegments    = 4
	MaxRequestID   = 128
	MaxEnvArgBytes = 32 << 10
	MaxArgs        = 1024
	MaxEnv         = 1024
	MaxCodeBytes   = 1 << 20
	MaxFiles       = 64
	MaxFileBytes   = 16 << 20
	MaxPath        = 1024
	MaxArgv0       = 255
	MaxComponent   = 255
	MaxUses        = 64
	MaxReplicas    = 32
	// MaxBackends bounds replicas times published ports.
	MaxBackends     = 256
	MaxProbeArgs    = 64
	DefaultTimeout  = 100
	DefaultShutdown = 30_000
	// MaxViolations bounds the answer to a manifest that is wrong all over: the rest
	// is counted in one more.
	MaxViolations = 64
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

// clip shortens hostile text for a message, between two characters.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	n := most
	for n > most-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

type checker struct {
	found []Violation
	// more counts those over MaxViolations.
	more int
}

func (c *checker) add(field, format string, args ...any) {
	if len(c.found) == MaxViolations {
		c.more++
		return
	}
	c.found = append(c.found, Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

// violations are what was found, in the order of the checks.
func (c *checker) violations() []Violation {
	if c.more > 0 {
		c.found = append(c.found, Violation{Field: "*", Description: fmt.Sprintf("and %d more", c.more)})
	}
	return c.found
}

// Validate returns the request in its normal form: restart, replicas, file modes and
// resources filled in (but for the startup timeout, whose default is the runtime's).
// It returns the violations it finds, at most MaxViolations and one that counts the
// rest, and then no manifest. It does not change req.
func Validate(req *solov1.DeployRequest, with Contents) (*solov1.DeployRequest, []Violation) {
	m := proto.CloneOf(req)
	if m == nil {
		m = &solov1.DeployRequest{}
	}
	c := &checker{}
	if why := CheckName(m.GetName()); why != "" {
		c.add("name", "%s", why)
	} else if strings.HasPrefix(m.GetName(), "solo-") {
		c.add("name", "begins with solo-, as only Solo's own services do")
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
	} else if n := Backends(m); n > MaxBackends {
		c.add("replicas", "%d of them behind each of %d ports are %d, over the limit of %d", Instances(m), n/Instances(m), n, MaxBackends)
	}
	if found := c.violations(); len(found) > 0 {
		return nil, found
	}
	return m, nil
}

// inline is what is wrong with a content in the request itself: the gateway has moved
// all of them out, into descriptors.
const inline = "came inside the control message"

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
		if s.GetCode() != "" {
			c.add("source.code", inline)
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
		if a := b.GetArgv0(); len(a) > MaxArgv0 || strings.ContainsRune(a, 0) {
			c.add("binary.argv0", "has a NUL byte or is longer than %d bytes", MaxArgv0)
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
	case strings.ContainsFunc(p, isControl):
		c.add(field, "%q contains a control character", clip(p))
	case path.Clean(p) != p || p == "/":
		c.add(field, "%q is not a clean path", clip(p))
	case slices.ContainsFunc(strings.Split(p, "/"), func(name string) bool { return len(name) > MaxComponent }):
		c.add(field, "%q has a name of over %d bytes", clip(p), MaxComponent)
	default:
		return true
	}
	return false
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

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
	if n := len(Args(m)); n > MaxArgs {
		c.add("args", "%d are over the limit of %d", n, MaxArgs)
		return
	}
	if n := len(m.GetEnv()); n > MaxEnv {
		c.add("env", "%d variables are over the limit of %d", n, MaxEnv)
		return
	}
	for i, a := range Args(m) {
		total += len(a) + 1
		if strings.ContainsRune(a, 0) {
			c.add(fmt.Sprintf("args[%d]", i), "contains a NUL byte")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m.GetEnv())) {
		v := m.GetEnv()[k]
		total += len(k) + len(v) + 2
		field := "env." + clip(k)
		switch {
		case !envName.MatchString(k):
			c.add("env", "%q is not a name of at most 128 letters, digits and _", clip(k))
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
		if p := r.Http.GetPath(); !strings.HasPrefix(p, "/") || len(p) > MaxPath || strings.ContainsFunc(p, notInURL) {
			c.add("ready.http.path", "%q is not a path of printable ASCII of at most %d bytes", clip(p), MaxPath)
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
			total += len(a) + 1
			// The first word was looked at as a path.
			if i > 0 && strings.ContainsRune(a, 0) {
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

// notInURL tells what would end or split the request line of a probe.
func notInURL(r rune) bool { return r <= ' ' || r >= 0x7f }
