package library

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/kernel/control"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// TestOpenCode opens what the code is, for each kind.
func TestOpenCode(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	l := library(t)
	code, file := put(t, l, []byte("code")), put(t, l, []byte("file"))
	for _, m := range []*solov1.DeployRequest{uploaded(code), sourceOf(code, "a.py", "python"), artifact(code, "a.py")} {
		m.Files = []*solov1.File{{Artifact: file}, {Content: []byte("x")}}
		f, err := l.OpenCode(m)
		must(t, err)
		if got := string(content(t, f)); got != "code" {
			t.Errorf("%v: %q", m, got)
		}
		must(t, f.Close())
	}
	for _, m := range []*solov1.DeployRequest{
		{}, {Code: &solov1.DeployRequest_Binary{Binary: &solov1.Binary{Path: "/bin/sleep"}}}, {Code: &solov1.DeployRequest_Bytecode{Bytecode: &solov1.Bytecode{}}},
	} {
		if f, err := l.OpenCode(m); f != nil || err != nil {
			t.Errorf("%v: %v, %v", m, f, err)
		}
	}
}

// TestMissingArtifacts names the field of each.
func TestMissingArtifacts(t *testing.T) {
	l := library(t)
	have, absent := put(t, l, []byte("have")), digestOf([]byte("absent"))
	withFiles := func(m *solov1.DeployRequest, digests ...string) *solov1.DeployRequest {
		for _, d := range digests {
			m.Files = append(m.Files, &solov1.File{Artifact: d})
		}
		return m
	}
	for _, tt := range []struct {
		name   string
		m      *solov1.DeployRequest
		fields []string
	}{
		{"binary", uploaded(absent), []string{"binary.artifact"}},
		{"source", sourceOf(absent, "a.py", "python"), []string{"source.artifact"}},
		{"artifact", artifact(absent, "a.py"), []string{"artifact.digest"}},
		{"no digest", uploaded("sha256:../../../etc/passwd"), []string{"binary.artifact"}},
		{"files", withFiles(uploaded(have), have, absent, "", have, absent), []string{"files[1].artifact", "files[4].artifact"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := l.OpenCode(tt.m)
			if f != nil {
				t.Error("something was opened")
			}
			var e *control.Error
			if !errors.As(err, &e) || e.Code != control.NotFound || e.Reason != "ARTIFACT_NOT_FOUND" {
				t.Fatalf("got %v", err)
			}
			var fields []string
			for _, v := range e.Violations {
				fields = append(fields, v.Field)
			}
			if diff := cmp.Diff(tt.fields, fields); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}
