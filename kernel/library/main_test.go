package library

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
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

func TestMain(m *testing.M) {
	if role := os.Getenv("SOLO_LIBRARY_CHILD"); role != "" {
		child(role)
	}
	os.Exit(testenv.CheckMain(m))
}

// child is what this program does when a test starts it as another process.
func child(role string) {
	var err error
	switch role {
	case "put":
		err = putForever(os.Getenv("SOLO_LIBRARY_DIR"))
	case "enter":
		err = enter(os.Getenv("SOLO_LIBRARY_DIR"), os.Args[1:])
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

// library has a store of its own, the descriptors of this tree, and programs in the
// usual places and in the given ones.
func library(t testing.TB, binaryPaths ...string) *Library {
	t.Helper()
	l, err := Open(t.TempDir(), &controlv1.Config{
		BinaryPaths:  append([]string{"/usr", "/bin"}, binaryPaths...),
		RuntimePaths: []string{"../../runtimes"},
	}, "")
	must(t, err)
	return l
}

func write(t testing.TB, path string, content []byte, mode os.FileMode) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, content, 0o600))
	must(t, os.Chmod(path, mode))
	return path
}

func sealed(t testing.TB, content []byte) *os.File {
	t.Helper()
	f, err := ipc.SealedFile("test", content)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func put(t testing.TB, l *Library, content []byte) string {
	t.Helper()
	f, err := ipc.SealedFile("test", content)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	digest, size, err := l.Put(f, 1<<30)
	must(t, err)
	if want := digestOf(content); digest != want || size != int64(len(content)) {
		t.Fatalf("put answers %s, %d; want %s, %d", digest, size, want, len(content))
	}
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
	var e *control.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %T: %v", err, err)
	}
	if e.Code != control.InvalidArgument || e.Reason != "INVALID_MANIFEST" || len(e.Violations) != 1 || e.Violations[0].Field != field {
		t.Fatalf("refusal %d %s %v; want one violation of %s", e.Code, e.Reason, e.Violations, field)
	}
	if diff := cmp.Diff(map[string]string{"problem": word}, e.Meta); diff != "" {
		t.Errorf("%v (-want +got):\n%s", e, diff)
	}
	for _, w := range words {
		if !strings.Contains(e.Violations[0].Description, w) {
			t.Errorf("description %q lacks %q", e.Violations[0].Description, w)
		}
	}
}

// resolved is the code, which must be the same a second time.
func resolved(t testing.TB, l *Library, m *solov1.DeployRequest) manifest.Code {
	t.Helper()
	code, err := l.Resolve(m)
	must(t, err)
	again, err := l.Resolve(m)
	must(t, err)
	if diff := cmp.Diff(code, again); diff != "" {
		t.Fatalf("the second answer differs (-first +second):\n%s", diff)
	}
	return code
}

func content(t testing.TB, f *os.File) []byte {
	t.Helper()
	var b bytes.Buffer
	_, err := b.ReadFrom(f)
	must(t, err)
	return b.Bytes()
}
