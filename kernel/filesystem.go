package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// resolveTimeout bounds the wait for solo-fs's answer.
	resolveTimeout = 10 * time.Second
	// maxResolving is how many questions solo-fs has at once.
	maxResolving = 32
	// maxRuntimes and maxRuntime bound the runtime descriptors, and one of them.
	maxRuntimes = 256
	maxRuntime  = 32 << 10
	// maxRefusal bounds an error of solo-fs, which the gateway gets.
	maxRefusal = 16 << 10
)

// BootError says that the kernel cannot start with what the operator wrote.
type BootError struct{ text string }

func (e *BootError) Error() string { return e.text }

// filesystem is the kernel's side of solo-fs: it alone looks into programs, and says
// what they need.
type filesystem struct {
	k *Kernel
	// binaryPaths and runtimes are for solo-fs; nobody here understands a runtime. Both
	// are fixed.
	binaryPaths []string
	runtimes    []*controlv1.RuntimeFile
	next        uint64
	asked       map[uint64]*question
	// room has a place for each question that solo-fs may have.
	room chan struct{}
}

// question is one that solo-fs has not answered.
type question struct {
	// artifact is the digest of the code if it is an artifact.
	artifact string
	timer    *time.Timer
	done     func(manifest.Code, error)
}

func newFilesystem(k *Kernel) (*filesystem, error) {
	f := &filesystem{k: k, binaryPaths: k.boot.GetConfig().GetBinaryPaths(), asked: map[uint64]*question{}, room: make(chan struct{}, maxResolving)}
	if len(f.binaryPaths) == 0 {
		f.binaryPaths = []string{"/usr", "/bin", "/opt"}
	}
	dirs, optional := k.boot.GetConfig().GetRuntimePaths(), false
	if len(dirs) == 0 {
		dirs, optional = []string{filepath.Join(k.boot.GetProgramDir(), "runtimes"), "/etc/solo/runtimes"}, true
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if optional && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read runtime descriptors: %w", err)
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".textproto") {
				continue
			}
			p := filepath.Join(dir, e.Name())
			text, err := readRuntime(p)
			if err == nil && len(f.runtimes) == maxRuntimes {
				err = fmt.Errorf("there are more than %d", maxRuntimes)
			}
			if err != nil {
				return nil, fmt.Errorf("runtime descriptor %s: %w", p, err)
			}
			f.runtimes = append(f.runtimes, &controlv1.RuntimeFile{Path: strings.ToValidUTF8(p, "?"), Text: text})
		}
	}
	return f, nil
}

func readRuntime(p string) ([]byte, error) {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(errors.New("is not a regular file"), err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxRuntime+1))
	if err == nil && len(text) > maxRuntime {
		err = fmt.Errorf("is larger than %d bytes", maxRuntime)
	}
	return text, err
}

// greetFilesystem tells a new solo-fs what it must know; it is ready when it has
// understood.
func greetFilesystem(k *Kernel, inst *instance) {
	for _, r := range k.files.runtimes {
		k.system.tell(inst, &controlv1.FromKernel{Item: &controlv1.FromKernel_RuntimeFile{RuntimeFile: r}})
	}
	cfg := &controlv1.FilesystemConfig{BinaryPaths: k.files.binaryPaths}
	go func() {
		cfg.Mounts = hostFilesystems(cfg.GetBinaryPaths())
		k.post(func() {
			if inst.asked != nil {
				k.system.tell(inst, &controlv1.FromKernel{Item: &controlv1.FromKernel_FilesystemConfig{FilesystemConfig: cfg}})
			}
		})
	}()
}

// resolve has solo-fs find out about the code of a manifest. It blocks, and is not for
// the owner.
func (f *filesystem) resolve(m *solov1.DeployRequest) (manifest.Code, error) {
	artifact, err := f.k.code.OpenCode(m)
	if err != nil {
		return manifest.Code{}, err
	}
	f.room <- struct{}{}
	defer func() { <-f.room }()
	// Nothing else of the manifest is solo-fs's business.
	about := proto.CloneOf(&solov1.DeployRequest{Code: m.GetCode()})
	if s := about.GetSource(); s != nil {
		s.Args = nil
	}
	if b := about.GetBinary(); b != nil {
		b.Args, b.Argv0 = nil, ""
	}
	if a := about.GetArtifact(); a != nil {
		a.Args = nil
	}
	var code manifest.Code
	answered := make(chan struct{})
	f.k.post(func() {
		f.ask(about, artifact, func(c manifest.Code, e error) {
			code, err = c, e
			close(answered)
		})
	})
	<-answered
	return code, err
}

// ask takes ownership of artifact. done is called once, perhaps at once.
func (f *filesystem) ask(m *solov1.DeployRequest, artifact *os.File, done func(manifest.Code, error)) {
	var files []*os.File
	q := &question{done: done}
	if artifact != nil {
		files = []*os.File{artifact}
		q.artifact = cmp.Or(m.GetSource().GetArtifact(), m.GetBinary().GetArtifact(), m.GetArtifact().GetDigest())
	}
	if f.k.system.fs == nil {
		ipc.Files(files).Close()
		done(manifest.Code{}, errRestarting())
		return
	}
	f.next++
	id := f.next
	f.asked[id] = q
	q.timer = f.k.later(resolveTimeout, func() {
		f.answer(id, manifest.Code{}, control.Errorf(control.Unavailable, "SERVICE_BUSY", "solo-fs has not answered in %v; try again", resolveTimeout))
	})
	if err := f.k.system.to(f.k.system.fs, &controlv1.FromKernel{Item: &controlv1.FromKernel_ResolveCode{ResolveCode: &controlv1.ResolveCode{Id: id, Manifest: m}}}, files...); err != nil {
		f.answer(id, manifest.Code{}, control.Errorf(control.ResourceExhausted, "REQUEST_TOO_LARGE", "ask solo-fs: %v", err))
	}
}

func errRestarting() error {
	return control.Errorf(control.Unavailable, "SERVICE_RESTARTING", "solo-fs is being restarted; try again")
}

func (f *filesystem) answer(id uint64, code manifest.Code, err error) {
	if q := f.asked[id]; q != nil {
		delete(f.asked, id)
		q.timer.Stop()
		q.done(code, err)
	}
}

// lost: solo-fs has ended, and every question with it.
func (f *filesystem) lost() {
	for id := range f.asked {
		f.answer(id, manifest.Code{}, errRestarting())
	}
}

// fromFilesystem is the switch over what solo-fs may say.
func fromFilesystem(k *Kernel, inst *instance, m *controlv1.FromService, files ipc.Files) error {
	if len(files) > 0 {
		files.Close()
		return &ipc.ProtocolError{What: "solo-fs sent descriptors"}
	}
	f := k.files
	switch item := m.GetItem().(type) {
	case *controlv1.FromService_FilesystemReady:
		if text := item.FilesystemReady.GetError(); text != "" {
			k.fail(&BootError{text})
			return nil
		}
		k.system.hello(inst)
	case *controlv1.FromService_CodeResolved:
		r := item.CodeResolved
		q := f.asked[r.GetId()]
		if q == nil {
			return nil // too late
		}
		var code manifest.Code
		refusal, err := checkRefusal(r.GetError())
		if refusal == nil && err == nil {
			code, err = k.checkCode(r.GetCode(), q.artifact)
		}
		if err != nil {
			f.answer(r.GetId(), manifest.Code{}, control.Errorf(control.Internal, "INTERNAL", "solo-fs: %v", err))
			return &ipc.ProtocolError{What: err.Error()}
		}
		if refusal != nil {
			f.answer(r.GetId(), manifest.Code{}, refusal)
			return nil
		}
		f.answer(r.GetId(), code, nil)
	default:
		return &ipc.ProtocolError{What: fmt.Sprintf("unexpected message %T", m.GetItem())}
	}
	return nil
}

// checkRefusal takes an error of solo-fs over, or answers nil for none.
func checkRefusal(e *controlv1.Error) (*control.Error, error) {
	if e == nil {
		return nil, nil
	}
	if proto.Size(e) > maxRefusal {
		return nil, errors.New("refusal is too long")
	}
	out := control.Errorf(control.Code(e.GetCode()), e.GetReason(), "%s", e.GetMessage())
	switch out.Code {
	case control.InvalidArgument, control.FailedPrecondition, control.Internal:
	default:
		return nil, fmt.Errorf("refusal with the code %d", e.GetCode())
	}
	out.Meta = e.GetMetadata()
	for _, v := range e.GetViolations() {
		out.Violations = append(out.Violations, manifest.Violation{Field: v.GetField(), Description: v.GetDescription()})
	}
	return out, nil
}
