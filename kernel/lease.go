package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sandbox"
)

// leased is what a lease leaves with the kernel.
type leased struct {
	control *ipc.Conn
	// logs are the read ends of the program's output.
	logs [2]*os.File
	err  error
}

func (l *leased) close() {
	if l.control != nil {
		_ = l.control.Close()
	}
	ipc.Files{l.logs[0], l.logs[1]}.Close()
}

// lease turns the instance's shell into the service, beside the owner: it opens files
// and mounts.
func (k *Kernel) lease(inst *instance) {
	inst.phase = phaseLeasing
	s := inst.svc
	w := &leaseWork{
		k: k, shell: inst.sh, resources: s.resources(), role: s.role,
		lease: sandbox.Lease{
			Program: s.plan.Code.Program, Argv: s.plan.Argv,
			TmpBytes: s.resources().GetMaxTmpBytes(), OpenFiles: s.resources().GetMaxOpenFiles(),
			Floor: k.shells.filters["floor"], Filter: k.shells.filters[s.plan.Code.Profile],
		},
		files: s.rec.GetManifest().GetFiles(),
	}
	for _, m := range s.plan.Mounts {
		w.lease.Mounts = append(w.lease.Mounts, s.mount(m))
	}
	var names []string
	for i, p := range s.plan.Listen {
		names = append(names, p.GetFdName())
		w.lease.Descriptors = append(w.lease.Descriptors, inst.sockets[i])
	}
	for _, f := range s.kept {
		names = append(names, f.name)
		w.lease.Descriptors = append(w.lease.Descriptors, f.file)
	}
	if s.role != nil {
		for _, name := range s.role.listeners {
			if f := k.inbox[name]; f != nil {
				names = append(names, name)
				w.lease.Descriptors = append(w.lease.Descriptors, f)
			}
		}
		w.lease.Volumes = s.role.volumes(k)
	}
	if s.oneshot != nil {
		w.lease.Stdio = s.oneshot.inside
	}
	w.lease.Env = environment(s.plan.Env, names)
	w.lease.ListenFDs = len(names)
	inst.arm(k, leaseTimeout, func() {
		inst.failure = "sandbox step lease: timed out"
		k.end(inst, "")
	})
	go func() {
		l := w.run()
		k.post(func() { k.leaseSent(inst, l) })
	}()
}

// environment adds what only an instance knows to a plan's environment.
func environment(plan, names []string) []string {
	env := slices.DeleteFunc(slices.Clone(plan), func(kv string) bool { return strings.HasPrefix(kv, "LISTEN_") })
	if len(names) > 0 {
		env = append(env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	return append(env, "SOLO_CONTROL="+strconv.Itoa(sandbox.FirstDescriptor+len(names)))
}

// leaseWork is a lease being put together, away from the owner.
type leaseWork struct {
	k         *Kernel
	shell     *shell
	resources *solov1.Resources
	role      *role
	files     []*solov1.File
	lease     sandbox.Lease
	opened    ipc.Files
}

func (w *leaseWork) run() *leased {
	out := &leased{}
	defer func() { w.opened.Close() }()
	if out.err = w.fill(out); out.err != nil {
		return out
	}
	out.err = w.shell.Lease(w.lease)
	return out
}

func (w *leaseWork) fill(out *leased) error {
	if err := w.shell.group.Set(limitsOf(w.resources)); err != nil {
		return err
	}
	conn, inside, err := ipc.Pair()
	if err != nil {
		return err
	}
	out.control = conn
	w.opened = append(w.opened, inside)
	// Blocking, as programs expect of what they inherit.
	if err := unix.SetNonblock(int(inside.Fd()), false); err != nil {
		return fmt.Errorf("control connection: %w", err)
	}
	w.lease.Descriptors = append(w.lease.Descriptors, inside)
	if w.lease.Stdio[0] == nil {
		if err := w.output(out); err != nil {
			return err
		}
	}
	for _, f := range w.lease.Stdio {
		if err := w.own(f); err != nil {
			return err
		}
	}
	if w.role != nil {
		files, err := w.role.files(w.k)
		if err != nil {
			return err
		}
		for _, f := range files {
			w.opened = append(w.opened, f.Content)
		}
		w.lease.Files = files
		if w.role.mounts != nil {
			w.lease.Mounts = append(w.lease.Mounts, w.role.mounts(w.k)...)
		}
		return nil
	}
	for _, f := range w.files {
		content, err := w.content(f)
		if err != nil {
			return err
		}
		w.opened = append(w.opened, content)
		mode, err := strconv.ParseUint(f.GetMode(), 8, 32)
		if err != nil {
			return fmt.Errorf("mode of %s: %w", f.GetPath(), err)
		}
		w.lease.Files = append(w.lease.Files, sandbox.File{Path: f.GetPath(), Mode: uint32(mode), Content: content})
	}
	return nil
}

func (w *leaseWork) content(f *solov1.File) (*os.File, error) {
	if f.GetArtifact() == "" {
		return ipc.SealedFile("empty", nil)
	}
	return w.k.code.OpenArtifact(f.GetArtifact())
}

// output makes the pipes of stdout and stderr; stdin is empty.
func (w *leaseWork) output(out *leased) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	w.opened = append(w.opened, null)
	w.lease.Stdio[0] = null
	for i := range out.logs {
		r, wr, err := pipe()
		if err != nil {
			return err
		}
		out.logs[i] = r
		w.opened = append(w.opened, wr)
		w.lease.Stdio[1+i] = wr
	}
	return nil
}

// own gives a pipe to the service's user, who may then open /dev/stdout.
func (w *leaseWork) own(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	uid := int(w.shell.HostUID())
	err = raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		if cerr = unix.Fstat(int(fd), &st); cerr == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
			cerr = unix.Fchown(int(fd), uid, uid)
		}
	})
	if err = errors.Join(err, cerr); err != nil {
		return fmt.Errorf("own pipe: %w", err)
	}
	return nil
}

// pipe makes a pipe with blocking ends, unlike os.Pipe: programs do not expect EAGAIN.
func pipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// limitsOf are the limits of a lease; the CPU quota follows when the service is ready.
func limitsOf(r *solov1.Resources) cgroups.Limits {
	return cgroups.Limits{
		MemoryMax: r.GetMaxMemoryBytes(),
		// One more for solo-init.
		PidsMax:   uint64(r.GetMaxProcesses()) + 1,
		CPUShares: r.GetCpuShares(),
	}
}

func quotaOf(millis uint32) cgroups.Limits {
	return cgroups.Limits{CPUQuotaUsec: uint64(millis) * cgroups.PeriodUsec / 1000}
}

// leaseSent takes over what the lease opened.
func (k *Kernel) leaseSent(inst *instance, l *leased) {
	if inst.gone {
		l.close()
		return
	}
	if l.err != nil {
		l.close()
		if inst.failure == "" {
			inst.failure = l.err.Error()
		}
		k.end(inst, "")
		return
	}
	if inst.svc.role == nil {
		// Older systems than Linux 6.16 cannot; there they are discarded.
		_ = l.control.RefuseRights()
	}
	inst.control, inst.logs = newPeer(l.control), l.logs
	go k.listenControl(inst, inst.control)
	if inst.svc.tier != tierUser {
		k.system.relayLogs(inst)
	}
	k.tellMonitor(inst)
}

// patience is the least time between two messages of one user service that the owner
// looks at: none can keep it from the others.
const patience = time.Millisecond

// listenControl reads a service's control connection until it ends, and closes it.
func (k *Kernel) listenControl(inst *instance, p *peer) {
	user := inst.svc.role == nil
	for {
		m := &controlv1.FromService{}
		files, _, err := p.conn.Receive(m)
		if err != nil {
			_ = p.conn.Drain()
			k.do(func() { k.controlEnded(inst, err) })
			return
		}
		if user && len(files) > 0 {
			files.Discard()
			m, files = &controlv1.FromService{}, nil // no message of a user service has any
		}
		k.do(func() { k.fromService(inst, m, files) })
		if user {
			time.Sleep(patience)
		}
	}
}
