package e2e

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/test/testenv"
)

// place writes a file into a directory that binary_paths allows.
func (x *tester) place(name string, content []byte, mode os.FileMode) string {
	x.Helper()
	path := filepath.Join(x.programs, name)
	if err := os.WriteFile(path, content, mode); err != nil {
		x.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		x.Fatal(err)
	}
	x.Cleanup(func() { _ = os.Remove(path) })
	return path
}

// upload sends an artifact and returns its digest.
func (x *tester) upload(content []byte) string {
	x.Helper()
	r, err := x.client.Upload(x.ctx(), bytes.NewReader(content))
	if err != nil {
		x.Fatalf("upload: %v", err)
	}
	return r.GetDigest()
}

// elf is a minimal dynamic program of a machine, which needs one library.
func elf(machine uint16, library string) []byte {
	const interpreter = "/lib64/ld-linux-x86-64.so.2"
	const base, head, phnum = uint64(0x400000), uint64(64), 4
	strings := "\x00" + library + "\x00"
	interpAt := head + phnum*56
	stringsAt := interpAt + uint64(len(interpreter)+1)
	dynamicAt := (stringsAt + uint64(len(strings)) + 7) &^ 7
	dynamic := [][2]uint64{
		{1, 1},                     // DT_NEEDED: the string at 1
		{5, base + stringsAt},      // DT_STRTAB
		{10, uint64(len(strings))}, // DT_STRSZ
		{0, 0},                     // DT_NULL
	}
	end := dynamicAt + uint64(len(dynamic))*16
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v) // a bytes.Buffer takes everything
		}
	}
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	put(uint16(2), machine, uint32(1), base+end-1, head, uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(phnum), uint16(64), uint16(0), uint16(0))
	segment := func(kind, flags uint32, at, size, align uint64) {
		put(kind, flags, at, base+at, base+at, size, size, align)
	}
	segment(6, 4, head, phnum*56, 8)                       // PT_PHDR
	segment(3, 4, interpAt, uint64(len(interpreter)+1), 1) // PT_INTERP
	segment(1, 7, 0, end, 0x1000)                          // PT_LOAD
	segment(2, 6, dynamicAt, uint64(len(dynamic))*16, 8)   // PT_DYNAMIC
	b.WriteString(interpreter + "\x00" + strings)
	b.Write(make([]byte, int(dynamicAt)-b.Len()))
	put(dynamic)
	return b.Bytes()
}

const (
	machineX86 = 62
	machineARM = 183
)

func port(listen string, to uint32) *solov1.Use {
	return &solov1.Use{Use: &solov1.Use_Port{Port: &solov1.PortUse{Listen: listen, To: to}}}
}

// invalid is the refusal of a manifest for what is wrong with fields of it.
func invalid(problem string, fields ...string) refusal {
	return refusal{codes.InvalidArgument, "INVALID_MANIFEST", fields, problem}
}

// TestRefusedPrograms: each is refused before anything is made, and the refusal names
// field and reason.
func TestRefusedPrograms(t *testing.T) {
	x := shared(t)
	program, err := os.ReadFile(testenv.Victim(t))
	if err != nil {
		t.Fatal(err)
	}
	link := func(name, target string) string {
		path := filepath.Join(x.programs, name)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(path) })
		return path
	}
	outside := filepath.Join(x.dir, "outside")
	if err := os.WriteFile(outside, program, 0o755); err != nil {
		t.Fatal(err)
	}
	uploaded := func(content []byte) *solov1.DeployRequest {
		return &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Artifact: x.upload(content)}}}
	}
	path, artifact := []string{"binary.path"}, []string{"binary.artifact"}
	for _, test := range []struct {
		name string
		req  *solov1.DeployRequest
		want refusal
		says string // part of the message
	}{
		{"does not exist", host("/usr/bin/solo-none"), invalid("not_found", path...), "/usr/bin/solo-none"},
		{"is a directory", host("/usr/bin"), invalid("not_regular", path...), ""},
		{"is not executable", host(x.place("plain", program, 0o644)), invalid("not_executable", path...), ""},
		{"is not readable by all", host(x.place("private", program, 0o711)), invalid("not_readable", path...), ""},
		{"is a script", host(x.place("script", []byte("#!/bin/sh\n"), 0o755)), invalid("script", path...), ""},
		{"lies outside binary_paths", host(outside), invalid("outside_binary_paths", path...), "binary_paths"},
		{"is a symlink", host(link("link", "/usr/bin/sleep")), invalid("symlink", path...), "/usr/bin/sleep"},
		{"is a symlink to outside", host(link("out", outside)), invalid("symlink", path...), ""},
		{"is a symlink to nothing", host(link("dangling", "/usr/bin/solo-none")), invalid("symlink", path...), ""},
		{"has dots", host("/usr/bin/../../etc/passwd"), invalid("", path...), ""},
		{"is relative", host("sleep"), invalid("", path...), ""},
		{"is of another architecture", host(x.place("arm", elf(machineARM, "libc.so.6"), 0o755)), invalid("architecture", path...), "aarch64"},
		{"lacks a library", host(x.place("lacking", elf(machineX86, "libsolo-none.so.7"), 0o755)), invalid("library", path...), "libsolo-none.so.7"},
		{"upload is of another architecture", uploaded(elf(machineARM, "libc.so.6")), invalid("architecture", artifact...), "aarch64"},
		{"upload lacks a library", uploaded(elf(machineX86, "libsolo-none.so.7")), invalid("library", artifact...), "libsolo-none.so.7"},
		{"upload is no program", uploaded([]byte("hello")), invalid("not_elf", artifact...), ""},
		{"upload is cut off", uploaded(program[:100]), invalid("malformed", artifact...), ""},
		{"upload does not exist", &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{
			Artifact: "sha256:" + strings.Repeat("0", 64)}}}, refusal{Code: codes.NotFound, Reason: "ARTIFACT_NOT_FOUND", Fields: artifact}, ""},
		{"source of no runtime", source("app.cobol", "DISPLAY 'HELLO'."), invalid("runtime", "source.language"), "python"},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := x.on(t)
			for _, only := range []bool{true, false} {
				req := proto.CloneOf(test.req)
				req.Name, req.ValidateOnly = x.name(), only
				_, err := x.client.Solo.Deploy(x.ctx(), req)
				x.refuses(err, test.want)
				if !strings.Contains(status.Convert(err).Message(), test.says) {
					t.Errorf("the message does not say %q: %v", test.says, err)
				}
				if got := x.list(req.GetName()); len(got) != 0 {
					t.Errorf("the refused service exists: %v", got)
				}
			}
		})
	}
}

// TestRefusedManifests: what a manifest must not say.
func TestRefusedManifests(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	with := func(change func(*solov1.DeployRequest)) *solov1.DeployRequest {
		req := x.victim("sleep 1h")
		req.Name = x.name()
		change(req)
		return req
	}
	resources := func(r *solov1.Resources) *solov1.DeployRequest {
		return with(func(req *solov1.DeployRequest) { req.Resources = r })
	}
	for name, test := range map[string]struct {
		req    *solov1.DeployRequest
		fields []string
	}{
		"no name":         {with(func(r *solov1.DeployRequest) { r.Name = "" }), []string{"name"}},
		"upper case":      {with(func(r *solov1.DeployRequest) { r.Name = "Upper" }), []string{"name"}},
		"five segments":   {with(func(r *solov1.DeployRequest) { r.Name = "a/b/c/d/e" }), []string{"name"}},
		"no code":         {&solov1.DeployRequest{Name: "x"}, []string{"code"}},
		"path in source":  {with(func(r *solov1.DeployRequest) { r.Code = source("../app.py", "1").Code }), []string{"source.file"}},
		"memory too low":  {resources(&solov1.Resources{MaxMemoryBytes: 1000}), []string{"resources.max_memory_bytes"}},
		"processes":       {resources(&solov1.Resources{MaxProcesses: 40000}), []string{"resources.max_processes"}},
		"shares too low":  {resources(&solov1.Resources{CpuShares: 1}), []string{"resources.cpu_shares"}},
		"quota too low":   {resources(&solov1.Resources{CpuQuotaMillis: 9}), []string{"resources.cpu_quota_millis"}},
		"open files":      {resources(&solov1.Resources{MaxOpenFiles: 15}), []string{"resources.max_open_files"}},
		"tmp":             {resources(&solov1.Resources{MaxTmpBytes: 1}), []string{"resources.max_tmp_bytes"}},
		"startup timeout": {resources(&solov1.Resources{StartupTimeoutMs: 600_001}), []string{"resources.startup_timeout_ms"}},
		"action":          {resources(&solov1.Resources{LimitExceededAction: "explode"}), []string{"resources.limit_exceeded_action"}},
		"restart":         {with(func(r *solov1.DeployRequest) { r.Restart = "always" }), []string{"restart"}},
		"replicas":        {with(func(r *solov1.DeployRequest) { r.Replicas = 33 }), []string{"replicas"}},
		"file in /proc":   {with(func(r *solov1.DeployRequest) { r.Files = []*solov1.File{{Path: "/proc/x"}} }), []string{"files[0].path"}},
		"setuid file":     {with(func(r *solov1.DeployRequest) { r.Files = []*solov1.File{{Path: "/x", Mode: "4755"}} }), []string{"files[0].mode"}},
		"Solo's variable": {with(func(r *solov1.DeployRequest) { r.Env = map[string]string{"SOLO_CONTROL": "3"} }), []string{"env.SOLO_CONTROL"}},
		"not loopback":    {with(func(r *solov1.DeployRequest) { r.Uses = []*solov1.Use{port("0.0.0.0:8080", 80)} }), []string{"uses[0].port.listen"}},
		"port without to": {with(func(r *solov1.DeployRequest) { r.Uses = []*solov1.Use{port("127.0.0.1:8080", 70000)} }), []string{"uses[0].port.to"}},
		"probe of port 0": {with(func(r *solov1.DeployRequest) { r.Ready = &solov1.Ready{Probe: &solov1.Ready_Tcp{}} }), []string{"ready.tcp"}},
		"two at once": {with(func(r *solov1.DeployRequest) { r.Restart, r.Replicas = "always", 33 }),
			[]string{"restart", "replicas"}},
	} {
		t.Run(name, func(t *testing.T) {
			x := x.on(t)
			_, err := x.client.Solo.Deploy(x.ctx(), test.req)
			x.refuses(err, invalid("", test.fields...))
		})
	}
}

// TestRefusedYAML: solo-ctl says which field of a manifest is unknown or wrong.
func TestRefusedYAML(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	for name, test := range map[string]struct{ text, says string }{
		"unknown field": {"name: x\nbinary: {path: /usr/bin/sleep}\nreplica: 2\n", "replica"},
		"wrong type":    {"name: x\nbinary: {path: /usr/bin/sleep}\nreplicas: two\n", "replicas"},
		"out of range":  {"name: x\nbinary: {path: /usr/bin/sleep}\nresources: {max_processes: 99999}\n", "resources.max_processes"},
	} {
		t.Run(name, func(t *testing.T) {
			x := x.on(t)
			file := filepath.Join(t.TempDir(), "m.yaml")
			if err := os.WriteFile(file, []byte(test.text), 0o644); err != nil {
				t.Fatal(err)
			}
			out := x.ctl("deploy", file)
			if out.status != 1 || !strings.Contains(out.stderr, test.says) {
				t.Errorf("solo-ctl ended with %+v", out)
			}
		})
	}
}

// TestDuplicateName: a name that is taken stays with its owner.
func TestDuplicateName(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("sleep 1h"))
	pid := x.pid(name)
	req := x.victim("sleep 2h")
	req.Name = name
	_, err := x.client.Solo.Deploy(x.ctx(), req)
	x.refuses(err, refusal{Code: codes.AlreadyExists, Reason: "NAME_TAKEN"})
	if now := x.pid(name); now != pid {
		t.Errorf("process %d took the place of %d", now, pid)
	}
}

// TestUploadLimit: an upload over the limit is refused, one at the limit taken.
func TestUploadLimit(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	x.upload(make([]byte, maxUpload))
	_, err := x.client.Upload(x.ctx(), bytes.NewReader(make([]byte, maxUpload+1)))
	x.refuses(err, refusal{Code: codes.ResourceExhausted, Reason: "UPLOAD_TOO_LARGE"})
}

// junk sends bytes that are no protobuf.
type junk struct{}

func (junk) Name() string                { return "proto" }
func (junk) Marshal(any) ([]byte, error) { return []byte{0xff, 0xff, 0xff}, nil }
func (junk) Unmarshal([]byte, any) error { return nil }

func TestMalformedBody(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	conn, err := grpc.NewClient(x.addr(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(junk{})))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	token, err := os.ReadFile(x.tokenFile())
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(x.ctx(), "authorization", "Bearer "+strings.TrimSpace(string(token)))
	_, err = api.NewSoloServiceClient(conn).Deploy(ctx, &solov1.DeployRequest{})
	x.refuses(err, refusal{Code: codes.InvalidArgument, Reason: "MALFORMED_BODY"})
}

// TestLater: two operations come with their issues.
func TestLater(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	_, err := x.client.Solo.GrantCapability(x.ctx(), &solov1.GrantCapabilityRequest{Scope: "team-a/"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("grant: %v", err)
	}
	stream, err := x.client.Solo.Update(x.ctx(), &solov1.UpdateRequest{Service: "x"})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("update: %v", err)
	}
}
