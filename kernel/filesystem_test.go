package kernel

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// asked is a kernel that has put one question to a solo-fs that the test plays, and
// the answers that it gave.
type asked struct {
	*Kernel
	inst  *instance
	peer  *ipc.Conn
	codes []manifest.Code
	errs  []error
}

func newAsked(t *testing.T, artifact string) *asked {
	t.Helper()
	testenv.Leaks(t, testenv.Scope{})
	k := checker()
	k.events = newQueue()
	k.system = &systemServices{k: k}
	k.boot.Config = &controlv1.Config{RuntimePaths: []string{t.TempDir()}}
	var err error
	if k.files, err = newFilesystem(k); err != nil {
		t.Fatal(err)
	}
	conn, file, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	a := &asked{Kernel: k, inst: &instance{control: newPeer(conn), svc: &service{k: k, name: "solo-fs"}}}
	t.Cleanup(func() {
		// The connection is its reader's to close.
		a.inst.control.close()
		_ = conn.Close()
	})
	if a.peer, err = ipc.FileConn(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.peer.Close() })
	k.system.fs = a.inst
	a.ask(t, artifact)
	return a
}

func (a *asked) ask(t *testing.T, artifact string) {
	t.Helper()
	m := &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: "/bin/x"}}}
	content, err := ipc.SealedFile("code", []byte("code"))
	if err != nil {
		t.Fatal(err)
	}
	if artifact == "" {
		_ = content.Close()
		content = nil
	} else {
		m = &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Artifact: artifact}}}
	}
	a.files.ask(m, content, func(c manifest.Code, err error) { a.codes, a.errs = append(a.codes, c), append(a.errs, err) })
}

func (a *asked) says(m *controlv1.CodeResolved, files ...ipc.Files) error {
	var f ipc.Files
	for _, more := range files {
		f = append(f, more...)
	}
	return fromFilesystem(a.Kernel, a.inst, &controlv1.FromService{Item: &controlv1.FromService_CodeResolved{CodeResolved: m}}, f)
}

func TestAsk(t *testing.T) {
	a := newAsked(t, anyDigest)
	q := &controlv1.FromKernel{}
	files, _, err := a.peer.Receive(q)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	r := q.GetResolveCode()
	if len(files) != 1 || r.GetManifest().GetBinary().GetArtifact() != anyDigest {
		t.Errorf("question %v with %d descriptors", q, len(files))
	}
	if err := a.says(&controlv1.CodeResolved{Id: r.GetId() + 1, Result: &controlv1.CodeResolved_Code{}}); err != nil || a.errs != nil {
		t.Errorf("an answer to nothing: %v, %v", err, a.errs)
	}
	answer := &controlv1.CodeResolved{Id: r.GetId(), Result: &controlv1.CodeResolved_Code{Code: goodCode()}}
	for range 2 {
		if err := a.says(answer); err != nil {
			t.Error(err)
		}
	}
	if len(a.codes) != 1 || a.errs[0] != nil || a.codes[0].Digest != anyDigest || len(a.files.asked) != 0 {
		t.Errorf("%v, %v", a.codes, a.errs)
	}
}

// TestRefusalIsPassedOn whole.
func TestRefusalIsPassedOn(t *testing.T) {
	a := newAsked(t, "")
	refusal := &controlv1.Error{
		Code: uint32(control.InvalidArgument), Reason: "INVALID_MANIFEST", Message: "binary.path: no", Metadata: map[string]string{"problem": "library"},
		Violations: []*controlv1.Violation{{Field: "binary.path", Description: "no"}},
	}
	if err := a.says(&controlv1.CodeResolved{Id: 1, Result: &controlv1.CodeResolved_Error{Error: refusal}}); err != nil {
		t.Fatal(err)
	}
	want := control.Invalid([]manifest.Violation{{Field: "binary.path", Description: "no"}}).With("problem", "library")
	if diff := cmp.Diff([]error{want}, a.errs, cmp.Comparer(func(a, b error) bool { return cmp.Equal(control.As(a), control.As(b)) })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLies end solo-fs, and refuse the request.
func TestLies(t *testing.T) {
	lie := goodCode()
	lie.SeccompProfile = "kernel"
	long := &controlv1.Error{Code: uint32(control.Internal), Message: strings.Repeat("x", maxRefusal)}
	for name, m := range map[string]*controlv1.CodeResolved{
		"code":           {Result: &controlv1.CodeResolved_Code{Code: lie}},
		"no result":      {},
		"empty code":     {Result: &controlv1.CodeResolved_Code{Code: &controlv1.Code{}}},
		"empty error":    {Result: &controlv1.CodeResolved_Error{Error: &controlv1.Error{}}},
		"success":        {Result: &controlv1.CodeResolved_Error{Error: &controlv1.Error{Code: 0, Message: "x"}}},
		"denial":         {Result: &controlv1.CodeResolved_Error{Error: &controlv1.Error{Code: uint32(control.Unauthenticated)}}},
		"long error":     {Result: &controlv1.CodeResolved_Error{Error: long}},
		"unknown status": {Result: &controlv1.CodeResolved_Error{Error: &controlv1.Error{Code: 1 << 31}}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsked(t, anyDigest)
			m.Id = 1
			var p *ipc.ProtocolError
			if err := a.says(m); !errors.As(err, &p) {
				t.Errorf("taken: %v", err)
			}
			if len(a.errs) != 1 || control.As(a.errs[0]).Code != control.Internal {
				t.Errorf("answers %v", a.errs)
			}
		})
	}
	a := newAsked(t, "")
	content, err := ipc.SealedFile("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	var p *ipc.ProtocolError
	if err := a.says(&controlv1.CodeResolved{Id: 1}, ipc.Files{content}); !errors.As(err, &p) || a.errs != nil {
		t.Errorf("descriptors: %v, %v", err, a.errs)
	}
	if err := fromFilesystem(a.Kernel, a.inst, &controlv1.FromService{Item: &controlv1.FromService_AuditAck{}}, nil); !errors.As(err, &p) {
		t.Errorf("another's message: %v", err)
	}
	a.files.lost()
}

// TestRestarting: with solo-fs every question ends, and while it is away none begins.
func TestRestarting(t *testing.T) {
	a := newAsked(t, anyDigest)
	a.ask(t, "")
	a.system.fs = nil
	a.files.lost()
	a.ask(t, anyDigest)
	if len(a.errs) != 3 || len(a.files.asked) != 0 {
		t.Fatalf("%d answers, %d questions", len(a.errs), len(a.files.asked))
	}
	for _, err := range a.errs {
		if e := control.As(err); e.Code != control.Unavailable || e.Reason != "SERVICE_RESTARTING" {
			t.Errorf("%v", err)
		}
	}
}

// TestBadRuntimeEndsTheBoot with solo-fs's words.
func TestBadRuntimeEndsTheBoot(t *testing.T) {
	a := newAsked(t, "")
	a.files.lost()
	err := fromFilesystem(a.Kernel, a.inst, &controlv1.FromService{Item: &controlv1.FromService_FilesystemReady{
		FilesystemReady: &controlv1.FilesystemReady{Error: "runtime descriptor x: name: is required"},
	}}, nil)
	var boot *BootError
	if err != nil || !a.ending.done || !errors.As(a.ending.err, &boot) || boot.Error() != "runtime descriptor x: name: is required" {
		t.Errorf("%v, %v", err, a.ending.err)
	}
}
