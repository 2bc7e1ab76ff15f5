package filesystem

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("SOLO_FILESYSTEM_CHILD"); role != "" {
		child(role)
	}
	os.Exit(testenv.CheckMain(m))
}

// child is what this program does when a test starts it as another process.
func child(role string) {
	var err error
	switch role {
	case "enter":
		err = enter(os.Getenv("SOLO_FILESYSTEM_DIR"), os.Args[1:])
	default:
		err = errors.New("no such role")
	}
	_, _ = os.Stderr.WriteString(role + ": " + err.Error() + "\n")
	os.Exit(1)
}

// place is a temporary directory that others may enter.
func place(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fixture is a host that the tests look at, with the uploads of a test.
type fixture struct {
	*host
	// uploads are files by digest, as the kernel opens them.
	uploads string
}

// newFixture looks at this host, or at the tree of the configuration's first mount.
func newFixture(t testing.TB, cfg *controlv1.FilesystemConfig, runtimes ...*controlv1.RuntimeFile) *fixture {
	t.Helper()
	h, err := newHost("/", cfg, runtimes)
	must(t, err)
	return &fixture{h, t.TempDir()}
}

// library has the descriptors of this tree, and programs in the usual places and in
// the given ones.
func library(t testing.TB, binaryPaths ...string) *fixture {
	t.Helper()
	return newFixture(t, &controlv1.FilesystemConfig{BinaryPaths: append([]string{"/usr", "/bin"}, binaryPaths...)}, shipped(t)...)
}

// shipped are the runtime descriptors of this tree.
func shipped(t testing.TB) []*controlv1.RuntimeFile {
	t.Helper()
	files, err := filepath.Glob("../../runtimes/*.textproto")
	must(t, err)
	var out []*controlv1.RuntimeFile
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		out = append(out, &controlv1.RuntimeFile{Path: f, Text: b})
	}
	return out
}

func artifactOf(m *solov1.DeployRequest) string {
	return cmp.Or(m.GetSource().GetArtifact(), m.GetBinary().GetArtifact(), m.GetArtifact().GetDigest())
}

func (f *fixture) path(digest string) string {
	return filepath.Join(f.uploads, strings.TrimPrefix(digest, "sha256:"))
}

// Resolve is the host's, with the manifest's artifact opened as the kernel does.
func (f *fixture) Resolve(m *solov1.DeployRequest) (Code, error) {
	var content *os.File
	if digest := artifactOf(m); digest != "" {
		var err error
		if content, err = os.Open(f.path(digest)); err != nil {
			return Code{}, err
		}
		defer func() { _ = content.Close() }()
	}
	return f.host.Resolve(m, content)
}

func write(t testing.TB, path string, content []byte, mode os.FileMode) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, content, 0o600))
	must(t, os.Chmod(path, mode))
	return path
}

func put(t testing.TB, f *fixture, content []byte) string {
	t.Helper()
	digest := digestOf(content)
	must(t, os.WriteFile(f.path(digest), content, 0o555))
	return digest
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func hostPath(p string) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: p}}}
}

func uploaded(digest string) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Artifact: digest}}}
}

func artifact(digest, file string) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Artifact{Artifact: &solov1.Artifact{Digest: digest, File: file}}}
}

func sourceOf(digest, file, language string) *solov1.DeployRequest {
	return &solov1.DeployRequest{Code: &solov1.DeployRequest_Source{Source: &solov1.Source{Artifact: digest, File: file, Language: language}}}
}

// refused wants exactly one violation, of this field, and the problem's word.
func refused(t testing.TB, err error, field, word string, words ...string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %T: %v", err, err)
	}
	if e.Code != invalidArgument || e.Reason != "INVALID_MANIFEST" || len(e.Violations) != 1 || e.Violations[0].Field != field {
		t.Fatalf("refusal %d %s %v; want one violation of %s", e.Code, e.Reason, e.Violations, field)
	}
	if diff := gocmp.Diff(map[string]string{"problem": word}, e.Meta); diff != "" {
		t.Errorf("%v (-want +got):\n%s", e, diff)
	}
	for _, w := range words {
		if !strings.Contains(e.Violations[0].Description, w) {
			t.Errorf("description %q lacks %q", e.Violations[0].Description, w)
		}
	}
}

// resolved is the code, which must be the same a second time.
func resolved(t testing.TB, l *fixture, m *solov1.DeployRequest) Code {
	t.Helper()
	code, err := l.Resolve(m)
	must(t, err)
	again, err := l.Resolve(m)
	must(t, err)
	if diff := gocmp.Diff(code, again); diff != "" {
		t.Fatalf("the second answer differs (-first +second):\n%s", diff)
	}
	return code
}
