package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/system/control"
	"github.com/solo-os/solo/test/testenv"
)

const patience = 60 * time.Second

// kernelSide plays the kernel to a driver.
type kernelSide struct {
	t    testing.TB
	conn *ipc.Conn
	// done is what Serve returned.
	done chan error
}

func serve(t testing.TB, root string) *kernelSide {
	t.Helper()
	conn, file, err := ipc.Pair()
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	inside, err := ipc.FileConn(file)
	must(t, err)
	c := control.New(inside, nil)
	k := &kernelSide{t: t, conn: conn, done: make(chan error, 1)}
	go func() {
		err := Serve(context.Background(), c, root)
		_ = c.Close()
		k.done <- err
	}()
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	if k.receive().GetHello() == nil {
		t.Fatal("it does not begin with hello")
	}
	return k
}

func (k *kernelSide) receive() *controlv1.FromService {
	k.t.Helper()
	m := &controlv1.FromService{}
	files, _, err := k.conn.Receive(m)
	must(k.t, err)
	files.Close()
	return m
}

func (k *kernelSide) send(m *controlv1.FromKernel, files ...*os.File) {
	k.t.Helper()
	must(k.t, k.conn.Send(m, files...))
}

func (k *kernelSide) configure(runtimes ...*controlv1.RuntimeFile) *controlv1.FilesystemReady {
	k.t.Helper()
	for _, r := range runtimes {
		k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_RuntimeFile{RuntimeFile: r}})
	}
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_FilesystemConfig{FilesystemConfig: &controlv1.FilesystemConfig{BinaryPaths: []string{"/usr", "/bin"}}}})
	return k.receive().GetFilesystemReady()
}

func question(id uint64, m *solov1.DeployRequest) *controlv1.FromKernel {
	return &controlv1.FromKernel{Item: &controlv1.FromKernel_ResolveCode{ResolveCode: &controlv1.ResolveCode{Id: id, Manifest: m}}}
}

// stop ends the driver in order; it must have nothing left.
func (k *kernelSide) stop() {
	k.t.Helper()
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Stop{Stop: &controlv1.StopService{}}})
	if err := k.ended(); err != nil {
		k.t.Error(err)
	}
}

func (k *kernelSide) ended() error {
	k.t.Helper()
	select {
	case err := <-k.done:
		return err
	case <-time.After(patience):
		k.t.Fatal("the driver goes on")
		return nil
	}
}

// TestServe: several questions at once, each answered under its number.
func TestServe(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	k := serve(t, "/")
	if ready := k.configure(shipped(t)...); ready == nil || ready.GetError() != "" {
		t.Fatalf("ready: %v", ready)
	}
	text, err := ipc.SealedFile("text", []byte("print(1)"))
	must(t, err)
	defer func() { _ = text.Close() }()
	digest := digestOf([]byte("print(1)"))
	k.send(question(7, hostPath("/bin/sleep")))
	k.send(question(8, sourceOf(digest, "a.sh", "")), text)
	k.send(question(9, hostPath("/etc/passwd")))
	k.send(question(10, sourceOf(digest, "a.sh", ""))) // without the descriptor
	got := map[uint64]*controlv1.CodeResolved{}
	for range 4 {
		r := k.receive().GetCodeResolved()
		got[r.GetId()] = r
	}
	want, err := library(t).host.Resolve(hostPath("/bin/sleep"), nil)
	must(t, err)
	if diff := gocmp.Diff(want.proto(), got[7].GetCode(), protocmp.Transform()); diff != "" {
		t.Errorf("sleep (-want +got):\n%s", diff)
	}
	if c := got[8].GetCode(); c.GetRuntime() != "sh" || c.GetFile() != "/app/a.sh" {
		t.Errorf("source: %v", got[8])
	}
	if e := got[9].GetError(); e.GetCode() != invalidArgument || e.GetMetadata()["problem"] != "outside_binary_paths" || e.GetViolations()[0].GetField() != "binary.path" {
		t.Errorf("refusal: %v", got[9])
	}
	if e := got[10].GetError(); e.GetCode() != invalidArgument {
		t.Errorf("no descriptor: %v", got[10])
	}
	k.stop()
}

// TestServeBadRuntime: the driver says what is wrong, and waits to be ended.
func TestServeBadRuntime(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	k := serve(t, "/")
	ready := k.configure(&controlv1.RuntimeFile{Path: "/etc/x.textproto", Text: []byte(`name: "x" suffixes: "` + strings.Repeat("\xff", 9000) + `"`)})
	if e := ready.GetError(); !strings.HasPrefix(e, "runtime descriptor /etc/x.textproto: ") || len(e) > 2*maxText {
		t.Errorf("ready: %.200q", e)
	}
	k.stop()
}

// TestServeRefuses what the kernel does not send: the driver ends.
func TestServeRefuses(t *testing.T) {
	for name, do := range map[string]func(k *kernelSide){
		"question too early": func(k *kernelSide) { k.send(question(1, hostPath("/bin/sleep"))) },
		"configured twice": func(k *kernelSide) {
			k.configure()
			k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_FilesystemConfig{FilesystemConfig: &controlv1.FilesystemConfig{}}})
		},
		"runtime too late": func(k *kernelSide) {
			k.configure()
			k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_RuntimeFile{RuntimeFile: &controlv1.RuntimeFile{}}})
		},
		"two descriptors": func(k *kernelSide) {
			k.configure()
			k.send(question(1, hostPath("/bin/sleep")), os.Stdin, os.Stdin)
		},
		"configuration with a descriptor": func(k *kernelSide) {
			k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_FilesystemConfig{FilesystemConfig: &controlv1.FilesystemConfig{}}}, os.Stdin)
		},
		"another's message": func(k *kernelSide) {
			k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_PortOpen{PortOpen: &controlv1.PortOpen{}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Leaks(t, testenv.Scope{})
			k := serve(t, "/")
			do(k)
			var p *ipc.ProtocolError
			if err := k.ended(); !errors.As(err, &p) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestAnswersFit: paths that no message can carry are an error, and the driver goes on.
func TestAnswersFit(t *testing.T) {
	testenv.Leaks(t, testenv.Scope{})
	root := place(t)
	write(t, root+"/bin/sh", static, 0o755)
	write(t, root+"/usr/bin/tool", static, 0o755)
	deep := "/srv/" + strings.Join(slices.Repeat([]string{strings.Repeat("d", 200)}, 3), "/")
	for i := range 150 {
		write(t, fmt.Sprintf("%s%s/%03d", root, deep, i), nil, 0o644)
	}
	write(t, root+"/srv/odd\xff", nil, 0o644)
	for name, pattern := range map[string]string{"long": deep + "/*", "no UTF-8": "/srv/odd*"} {
		t.Run(name, func(t *testing.T) {
			k := serve(t, root)
			ready := k.configure(&controlv1.RuntimeFile{Path: "x", Text: fmt.Appendf(nil, `name: "x" suffixes: ".x" argv: "$FILE" program: "/bin/sh" mounts: %q`, pattern)})
			if ready.GetError() != "" {
				t.Fatal(ready.GetError())
			}
			f, err := ipc.SealedFile("text", nil)
			must(t, err)
			defer func() { _ = f.Close() }()
			k.send(question(1, sourceOf(digestOf(nil), "a.x", "")), f)
			if e := k.receive().GetCodeResolved().GetError(); e.GetCode() != internal || e.GetMetadata()["step"] != "answer" {
				t.Errorf("answer: %v", e)
			}
			k.send(question(2, hostPath("/usr/bin/tool")))
			if r := k.receive().GetCodeResolved(); r.GetId() != 2 || r.GetCode() == nil {
				t.Errorf("afterwards: %v", r)
			}
			k.stop()
		})
	}
}

// BenchmarkHost is the same without the way.
func BenchmarkHost(b *testing.B) {
	h := library(b).host
	for b.Loop() {
		if _, err := h.Resolve(hostPath("/bin/sleep"), nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkResolve is a warm question about a program of the host, with its way.
func BenchmarkResolve(b *testing.B) {
	k := serve(b, "/")
	k.configure(shipped(b)...)
	for b.Loop() {
		k.send(question(1, hostPath("/bin/sleep")))
		if k.receive().GetCodeResolved().GetCode() == nil {
			b.Fatal("no code")
		}
	}
}
