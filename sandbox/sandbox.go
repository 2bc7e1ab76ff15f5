// Package sandbox turns a plan into a process, in two steps: solo-launcher prepares a
// shell, a sandbox whose solo-init waits; a lease makes it a service. The package is
// the kernel's side of both; it forks nothing itself.
//
// Trust: runs as root. What comes from solo-init is untrusted once its service runs.
package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// What every sandbox has.
const (
	// IDs is how many host ids a sandbox has.
	IDs = 65536
	// UID and GID of a service inside.
	UID = 1000
	// FirstDescriptor is the first granted descriptor (sd_listen_fds(3)).
	FirstDescriptor = 3
)

// StepError says which step of making a sandbox did not work.
type StepError struct {
	Step  string
	Errno unix.Errno
	// Message is used when there is no errno.
	Message string
}

func (e *StepError) Error() string {
	switch {
	case e.Errno != 0 && e.Message != "":
		return fmt.Sprintf("sandbox step %s: %s: %s", e.Step, e.Message, e.Errno.Error())
	case e.Errno != 0:
		return fmt.Sprintf("sandbox step %s: %s", e.Step, e.Errno.Error())
	}
	return fmt.Sprintf("sandbox step %s: %s", e.Step, e.Message)
}

// Is makes errors.Is(err, unix.EINVAL) work across the process border.
func (e *StepError) Is(target error) bool {
	errno, ok := target.(unix.Errno)
	return ok && e.Errno == errno && errno != 0
}

// Shell is a sandbox whose solo-init waits for a lease, or runs one.
type Shell struct {
	ID string
	// PID of solo-init on the host.
	PID int
	// Control is the connection to solo-init, with credentials.
	Control *ipc.Conn
	PidFD   *os.File
	UserNS  *os.File
	IDBase  uint32
	// Cgroup is the absolute path of its group.
	Cgroup string
}

// Close closes the kernel's descriptors of the shell; the processes live on.
func (s *Shell) Close() {
	_ = s.Control.Close()
	ipc.Files{s.PidFD, s.UserNS}.Close()
}

// HostUID is the service's uid on the host.
func (s *Shell) HostUID() uint32 { return s.IDBase + UID }

// Mount is a host file or directory that the service sees and does not write.
type Mount struct {
	// Open opens the source (O_PATH suffices), which Lease closes.
	Open      func() (*os.File, error)
	Target    string
	Directory bool
	NoExec    bool
}

// Volume is a host directory that the service may write.
type Volume struct {
	// Source on the host, owned by uid and gid 1000 there.
	Source, Target string
}

// File is one file copied into the root.
type File struct {
	Path    string
	Mode    uint32
	Content *os.File
}

// Lease is everything a shell needs to become a service.
type Lease struct {
	Program   string
	Argv, Env []string
	Mounts    []Mount
	Volumes   []Volume
	Files     []File
	// TmpBytes is the size of /tmp and of /dev/shm.
	TmpBytes  uint64
	OpenFiles uint32
	// Stdio are descriptors 0 to 2; Descriptors go from 3 on. The caller keeps them.
	Stdio       [3]*os.File
	Descriptors []*os.File
	// ListenFDs is how many of Descriptors are for LISTEN_FDS.
	ListenFDs int
	// Floor and Filter are BPF programs.
	Floor, Filter []byte
}

// Lease opens what the service gets and sends it to solo-init. It does not wait for
// the answer, which comes as InitReport on Control. It may block on the file system;
// nothing is kept open afterwards but what the caller owns.
func (s *Shell) Lease(l Lease) error {
	abi, err := LandlockABI()
	if err != nil {
		return &StepError{Step: "landlock", Message: err.Error()}
	}
	var opened ipc.Files
	defer func() { opened.Close() }()
	files := append(ipc.Files(nil), l.Stdio[:]...)
	m := &controlv1.Lease{
		Program: []byte(l.Program), Argv: raw(l.Argv), Env: raw(l.Env), Cwd: []byte("/tmp"),
		Uid: UID, Gid: GID, Floor: l.Floor, Filter: l.Filter,
		Descriptors: uint32(len(l.Descriptors)), ListenFds: uint32(l.ListenFDs),
		Rlimits: []*controlv1.Rlimit{
			{Resource: unix.RLIMIT_NOFILE, Soft: uint64(l.OpenFiles), Hard: uint64(l.OpenFiles)},
			{Resource: unix.RLIMIT_CORE},
		},
	}
	mount := func(target string, directory bool, f *os.File, err error) error {
		if err != nil {
			return err
		}
		opened = append(opened, f)
		files = append(files, f)
		m.Mounts = append(m.Mounts, &controlv1.LeaseMount{Target: []byte(target), Directory: directory})
		return nil
	}
	writable := []string{"/tmp", "/dev/shm"}
	for _, w := range writable {
		f, err := scratch(l.TmpBytes, s.IDBase+UID, s.IDBase+GID, "1777")
		if err := mount(w, true, f, err); err != nil {
			return step("mount "+w, err)
		}
	}
	for _, v := range l.Volumes {
		f, err := volume(v.Source, s.UserNS)
		if err := mount(v.Target, true, f, err); err != nil {
			return step("mount "+v.Target, err)
		}
		writable = append(writable, v.Target)
	}
	for _, h := range l.Mounts {
		f, err := readOnly(h)
		if err := mount(h.Target, h.Directory, f, err); err != nil {
			return step("mount "+h.Target, err)
		}
	}
	for _, f := range l.Files {
		files = append(files, f.Content)
		m.Files = append(m.Files, &controlv1.LeaseFile{Path: []byte(f.Path), Mode: f.Mode})
	}
	files = append(files, l.Descriptors...)
	m.LandlockFs, m.LandlockScoped, m.LandlockRules = landlock(abi, writable)
	return step("lease", s.Order(&controlv1.InitOrder{Order: &controlv1.InitOrder_Lease{Lease: m}}, files...))
}

// GID is the group of a service inside.
const GID = 1000

// Order sends one order to solo-init, without waiting for room: an init that does
// not read is as good as gone.
func (s *Shell) Order(o *controlv1.InitOrder, files ...*os.File) error {
	return s.Control.TrySend(o, files...)
}

// Signal sends a signal to the service's main process.
func (s *Shell) Signal(sig unix.Signal) error {
	return s.Order(&controlv1.InitOrder{Order: &controlv1.InitOrder_Signal{Signal: &controlv1.Signal{Signal: int32(sig)}}})
}

// step names the step of an error and keeps its errno.
func step(name string, err error) error {
	if err == nil {
		return nil
	}
	var se *StepError
	if errors.As(err, &se) {
		return err
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return &StepError{Step: name, Errno: errno}
	}
	return &StepError{Step: name, Message: err.Error()}
}

func raw(in []string) [][]byte {
	out := make([][]byte, len(in))
	for i, s := range in {
		out[i] = []byte(s)
	}
	return out
}
