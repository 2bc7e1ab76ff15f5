package kernel

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	// maxBacklog is how many messages wait for a monitor that is being replaced.
	maxBacklog = 4096
	// countersEvery is how often the monitor gets the kernel's counters.
	countersEvery = time.Second
)

// systemServices are Solo's own services: started in order, each when the one before
// is ready, and told what concerns them when they join.
type systemServices struct {
	k    *Kernel
	list []*service
	// started is called once, when all are ready for the first time.
	started func()
	// The instances that have said hello.
	audit, monitor, fs, net, gateway *instance
	backlog                          []*controlv1.FromKernel
	deployments                      uint64
	last                             *controlv1.Counters
}

func newSystemServices(k *Kernel) *systemServices {
	sys := &systemServices{k: k}
	for _, r := range roles() {
		s := &service{k: k, name: r.name, tier: r.tier, role: r, durable: true, rec: r.record(), plan: r.plan(k.boot.GetProgramDir())}
		sys.list = append(sys.list, s)
		k.services[s.name] = s
	}
	return sys
}

// start launches the first; the others follow.
func (sys *systemServices) start(started func()) {
	sys.started = started
	sys.list[0].launch()
	sys.count()
}

// hello: a system service is at work.
func (sys *systemServices) hello(inst *instance) {
	k := sys.k
	if *inst.svc.role.slot(sys) == inst {
		return
	}
	if greet := inst.svc.role.greet; greet != nil && !inst.greeted {
		inst.greeted = true
		greet(k, inst)
		return
	}
	*inst.svc.role.slot(sys) = inst
	inst.svc.role.joined(k, inst)
	k.ready(inst)
	if sys.started == nil {
		return
	}
	for _, s := range sys.list {
		if *s.role.slot(sys) != nil {
			continue
		}
		if len(s.slots) == 0 {
			s.launch()
		}
		return
	}
	started := sys.started
	sys.started = nil
	started()
}

// left forgets an instance that has ended.
func (sys *systemServices) left(s *service, inst *instance) {
	if *s.role.slot(sys) != inst {
		return
	}
	*s.role.slot(sys) = nil
	if s.role.left != nil {
		s.role.left(sys.k)
	}
}

// to sends to a system service, or drops the message with its files when it is not
// there: whoever joins is told everything anew. One that does not read is ended. The
// error says that the message itself cannot be sent.
func (sys *systemServices) to(inst *instance, m *controlv1.FromKernel, files ...*os.File) error {
	if inst == nil {
		ipc.Files(files).Close()
		return nil
	}
	err := inst.control.send(m, files...)
	switch {
	case err == nil || errors.Is(err, os.ErrClosed):
	case errors.Is(err, errPeerFull):
		if inst.cause == "" {
			say("%s: %v", inst.svc.name, err)
		}
		sys.k.end(inst, reasonProtocol)
	default:
		return err
	}
	return nil
}

// tell is to for messages whose size nobody outside has a part in.
func (sys *systemServices) tell(inst *instance, m *controlv1.FromKernel, files ...*os.File) {
	if err := sys.to(inst, m, files...); err != nil {
		say("%s: %v", inst.svc.name, err)
	}
}

func (sys *systemServices) toNet(m *controlv1.FromKernel, files ...*os.File) {
	sys.tell(sys.net, m, files...)
}

func (sys *systemServices) toAudit(m *controlv1.FromKernel, files ...*os.File) {
	sys.tell(sys.audit, m, files...)
}

// toMonitor keeps what the next monitor must not miss.
func (sys *systemServices) toMonitor(m *controlv1.FromKernel) {
	if sys.monitor == nil {
		if len(sys.backlog) < maxBacklog {
			sys.backlog = append(sys.backlog, m)
		}
		return
	}
	sys.tell(sys.monitor, m)
}

// announceLogs gives the monitor a user instance's output. The kernel keeps its own
// copies of the pipes, so that they outlive the monitor.
func (sys *systemServices) announceLogs(inst *instance) {
	if sys.monitor == nil || inst.logs[0] == nil {
		return
	}
	for i, stream := range []string{"stdout", "stderr"} {
		f, err := duplicate(inst.logs[i])
		if err != nil {
			say("log pipe: %v", err)
			return
		}
		sys.tell(sys.monitor, &controlv1.FromKernel{Item: &controlv1.FromKernel_LogSource{LogSource: &controlv1.LogSource{
			Service: inst.svc.name, Instance: inst.id, Stream: stream, Rate: inst.svc.resources().GetLogRate(), Tier: inst.svc.tier.String(),
		}}}, f)
	}
}

// relayLogs prints what Solo's own services say where the kernel's messages go.
func (sys *systemServices) relayLogs(inst *instance) {
	for _, f := range inst.logs {
		go func() {
			defer func() { _ = f.Close() }()
			lines := bufio.NewReaderSize(f, 4096)
			for {
				line, _, err := lines.ReadLine()
				if len(line) > 0 {
					say("%s: %s", inst.svc.name, line)
				}
				if err != nil {
					if !errors.Is(err, io.EOF) {
						say("output of %s: %v", inst.svc.name, err)
					}
					return
				}
			}
		}()
	}
	inst.logs = [2]*os.File{}
}

// announceUsage gives the monitor the means to read what an instance uses.
func (sys *systemServices) announceUsage(inst *instance) {
	if sys.monitor == nil || inst.sh == nil {
		return
	}
	files, err := inst.sh.group.UsageFiles()
	if err != nil {
		say("%v", err)
		return
	}
	sys.tell(sys.monitor, &controlv1.FromKernel{Item: &controlv1.FromKernel_UsageSource{UsageSource: &controlv1.UsageSource{
		Service: inst.svc.name, Instance: inst.id, V2: sys.k.hier.Mode() == cgroups.V2, Tier: inst.svc.tier.String(),
	}}}, files...)
}

// observe connects the gateway's measurements to the monitor, when both are there.
func (sys *systemServices) observe() {
	if sys.gateway == nil || sys.monitor == nil {
		return
	}
	a, b, err := ipc.RawPair()
	if err != nil {
		say("observer: %v", err)
		return
	}
	sys.tell(sys.gateway, &controlv1.FromKernel{Item: &controlv1.FromKernel_OpenObserver{OpenObserver: &controlv1.OpenObserver{}}}, a)
	sys.tell(sys.monitor, &controlv1.FromKernel{Item: &controlv1.FromKernel_Observer{Observer: &controlv1.Observer{}}}, b)
}

// count sends the counters when they have changed, for ever.
func (sys *systemServices) count() {
	c := sys.counters()
	if sys.monitor != nil && (sys.last == nil || c.GetDeployments() != sys.last.GetDeployments() ||
		c.GetActiveServices() != sys.last.GetActiveServices() || c.GetShellsWaiting() != sys.last.GetShellsWaiting()) {
		sys.last = c
		sys.tell(sys.monitor, &controlv1.FromKernel{Item: &controlv1.FromKernel_Counters{Counters: c}})
	}
	sys.k.later(countersEvery, sys.count)
}

func (sys *systemServices) counters() *controlv1.Counters {
	c := &controlv1.Counters{Deployments: sys.deployments, ShellsWaiting: uint32(len(sys.k.shells.idle))}
	for _, s := range sys.k.services {
		if s.tier == tierUser && s.live() > 0 {
			c.ActiveServices++
		}
	}
	return c
}

// joinAudit, joinMonitor, joinNet and joinGateway tell a service that has said hello
// what it must know.

func joinAudit(k *Kernel, _ *instance) { k.record.rejoin() }

func joinMonitor(k *Kernel, _ *instance) {
	sys := k.system
	sys.last = nil
	cfg := k.boot.GetConfig()
	sys.tell(sys.monitor, &controlv1.FromKernel{Item: &controlv1.FromKernel_MonitorConfig{MonitorConfig: &controlv1.MonitorConfig{
		LogBytesPerService: cfg.GetLogBytesPerService(), UsageIntervalMs: cfg.GetUsageIntervalMs(),
	}}})
	for _, sh := range k.shells.byID {
		if sh.inst != nil && sh.inst.told {
			sys.announceLogs(sh.inst)
			sys.announceUsage(sh.inst)
		}
	}
	backlog := sys.backlog
	sys.backlog = nil
	for _, m := range backlog {
		sys.tell(sys.monitor, m)
	}
	sys.observe()
}

func joinNet(k *Kernel, _ *instance) { k.ports.rejoin() }

func joinGateway(k *Kernel, _ *instance) {
	k.system.tell(k.system.gateway, &controlv1.FromKernel{Item: &controlv1.FromKernel_GatewayConfig{GatewayConfig: &controlv1.GatewayConfig{
		MaxUploadBytes: k.maxUpload(),
	}}})
	k.system.observe()
}

func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var derr error
	if err := raw.Control(func(old uintptr) { fd, derr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if derr != nil {
		return nil, derr
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// dataDir makes a directory of the state for a system service's user.
func dataDir(stateDir, name string) error {
	dir := filepath.Join(stateDir, name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return os.Chown(dir, serviceUID, serviceUID)
}
