package manifest

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// setNumber sets a field by its name in the API.
func setNumber(r *solov1.Resources, name string, v uint64) {
	m := r.ProtoReflect()
	fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if fd.Kind() == protoreflect.Uint32Kind {
		m.Set(fd, protoreflect.ValueOfUint32(uint32(v)))
		return
	}
	m.Set(fd, protoreflect.ValueOfUint64(v))
}

func number(r *solov1.Resources, name string) uint64 {
	m := r.ProtoReflect()
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name))).Uint()
}

// TestResourcesAreComplete: whoever adds a number to the API gives it bounds here.
func TestResourcesAreComplete(t *testing.T) {
	fds := (&solov1.Resources{}).ProtoReflect().Descriptor().Fields()
	for i := range fds.Len() {
		name := string(fds.Get(i).Name())
		if name == "limit_exceeded_action" {
			continue
		}
		m := minimal()
		m.Resources = &solov1.Resources{}
		most := ^uint64(0)
		if fds.Get(i).Kind() == protoreflect.Uint32Kind {
			most = 1<<32 - 1
		}
		setNumber(m.Resources, name, most)
		if _, found := Validate(m, Contents{}); len(found) != 1 || found[0].Field != "resources."+name {
			t.Errorf("%s = %d: %v", name, most, found)
		}
	}
}

// text draws what names and paths are made of, right and wrong.
func text(t *rapid.T, label string) string {
	return rapid.SampledFrom([]string{
		"", "a", "team-a/x", "/etc/x", "/etc/x/y", "/lib/x", "/usr/lib/x", "/proc/x", "../x", "main.py", "python", "0444", "0755", "9",
		"127.0.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "10.0.0.1:80", "kill", "warn", "transient", anyDigest, "\x00", "ä",
		strings.Repeat("ä", 300), strings.Repeat("x", 2000), "a\nb", "\u202e",
	}).Draw(t, label)
}

// request draws a manifest that is often valid.
func request(t *rapid.T) *solov1.DeployRequest {
	odd := func(label, usual string) string {
		if rapid.IntRange(0, 9).Draw(t, label+" is odd") == 0 {
			return text(t, label)
		}
		return usual
	}
	m := &solov1.DeployRequest{Name: odd("name", "a/b"), Restart: odd("restart", ""), Replicas: rapid.Uint32Range(0, 33).Draw(t, "replicas")}
	switch rapid.IntRange(0, 3).Draw(t, "code") {
	case 0:
		m.Code = source(&solov1.Source{Artifact: odd("artifact", anyDigest), File: odd("file", ""), Language: odd("language", "sh")})
	case 1:
		m.Code = artifact(odd("artifact", anyDigest), odd("file", "x.py"))
	default:
		m.Code = &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: odd("path", "/bin/true"), Args: []string{odd("arg", "x")}}}
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "files") {
		m.Files = append(m.Files, &solov1.File{Path: odd("path", fmt.Sprintf("/etc/%d", i)), Mode: odd("mode", "444")})
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "ports") {
		m.Uses = append(m.Uses, port(&solov1.PortUse{Listen: odd("listen", fmt.Sprintf("127.0.0.1:%d", i+1)), To: rapid.Uint32Range(0, 70000).Draw(t, "to"),
			FdName: odd("fd_name", "")}))
	}
	if rapid.Bool().Draw(t, "env") {
		m.Env = map[string]string{odd("variable", "A"): odd("value", "b"), odd("variable", "B"): ""}
	}
	if rapid.Bool().Draw(t, "probe") {
		m.Ready = httpProbe(rapid.Uint32Range(0, 70000).Draw(t, "port"), odd("path", ""))
	}
	if rapid.Bool().Draw(t, "resources") {
		m.Resources = &solov1.Resources{MaxProcesses: rapid.Uint32Range(0, 40000).Draw(t, "processes"), LimitExceededAction: odd("action", "")}
	}
	return m
}

// validated is what holds of every answer of Validate.
func validated(t interface{ Fatalf(string, ...any) }, in *solov1.DeployRequest) *solov1.DeployRequest {
	before := proto.CloneOf(in)
	got, found := Validate(in, Contents{})
	if !proto.Equal(before, in) {
		t.Fatalf("the request was changed:\n%v\n%v", before, in)
	}
	if (got == nil) != (len(found) > 0) {
		t.Fatalf("%v with %v", got, found)
	}
	size := 0
	for _, v := range found {
		size += len(v.Field) + len(v.Description)
		if !utf8.ValidString(v.Field) || !utf8.ValidString(v.Description) || strings.ContainsAny(v.Field+v.Description, "\x00\n\r") {
			t.Fatalf("a violation that cannot be sent or shown: %q", v)
		}
	}
	// The answer travels in one control message of 64 KiB.
	if len(found) > MaxViolations+1 || size > 48<<10 {
		t.Fatalf("%d violations of %d bytes", len(found), size)
	}
	if got == nil {
		return nil
	}
	again, found := Validate(got, Contents{})
	if found != nil || !proto.Equal(got, again) {
		t.Fatalf("the normal form is not one: %v\n%v\n%v", found, got, again)
	}
	return got
}

func TestValidateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { validated(t, request(t)) })
}

// FuzzValidate: the request as the gateway's bytes.
func FuzzValidate(f *testing.F) {
	add := func(m *solov1.DeployRequest) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add(nil)
	add(minimal())
	add(&solov1.DeployRequest{
		Name: "team-a/x", Code: source(&solov1.Source{Artifact: anyDigest, Args: []string{"-v"}}), Ready: execProbe("/bin/true", "x"),
		Files: []*solov1.File{{Path: "/etc/x", Mode: "0755"}}, Uses: []*solov1.Use{port(&solov1.PortUse{Listen: "[::1]:443", FdName: "web"})},
		Env: map[string]string{"A": "b"}, Resources: &solov1.Resources{MaxProcesses: 3},
	})
	add(&solov1.DeployRequest{Name: strings.Repeat("ä", 60), Env: map[string]string{strings.Repeat("ö", 60): ""}})
	// Members of a oneof, a list and a map that are there and empty.
	f.Add([]byte{0x12, 0, 0x32, 0, 0x3a, 0, 0x42, 2, 0x0a, 0, 0x5a, 2, 0x1a, 0})
	// Text that is not UTF-8.
	f.Add(protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "a\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &solov1.DeployRequest{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		got := validated(t, m)
		if got == nil {
			return
		}
		if _, err := proto.Marshal(got); err != nil {
			t.Fatalf("the normal form cannot be stored: %v", err)
		}
		planned(t, got, Code{Runtime: "binary", Program: "/usr/bin/true", Argv: []string{"$FILE", "$ARGS"}, Mounts: []Mount{{Source: "/lib", Target: "/usr/lib/x", Directory: true}}})
	})
}
