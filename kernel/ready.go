package kernel

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const (
	// firstProbe and lastProbe space the probes of a service that is not ready.
	firstProbe = 5 * time.Millisecond
	lastProbe  = 250 * time.Millisecond
	// probeTimeout bounds one probe.
	probeTimeout = 2 * time.Second
	maxExtend    = 10 * time.Minute
	// maxKept is how many descriptors a service may store (FDSTORE=1), maxAllKept how
	// many all may together, maxKeptBytes how long a stored memfd may be: it is charged
	// to nobody once its service has ended.
	maxKept      = 16
	maxAllKept   = 2048
	maxKeptBytes = 64 << 10
	maxStatus    = 512
)

// keptFile is a descriptor that a service stored, with its FDNAME.
type keptFile struct {
	name string
	file *os.File
}

// probe asks again and again, at growing distance, until the service is ready or
// its startup timeout has ended it.
func (k *Kernel) probe(inst *instance, how *solov1.Ready) {
	if _, ok := how.GetProbe().(*solov1.Ready_Notify); ok {
		return
	}
	wait := firstProbe
	var try func()
	try = func() {
		if inst.gone || inst.phase != phaseStarted || inst.cause != "" {
			return
		}
		k.probeOnce(inst, how, func(ok bool) {
			switch {
			case inst.gone || inst.phase != phaseStarted || inst.cause != "":
			case ok:
				k.ready(inst)
			default:
				k.later(wait, try)
				wait = min(wait*2, lastProbe)
			}
		})
	}
	try()
}

func (k *Kernel) probeOnce(inst *instance, how *solov1.Ready, done func(bool)) {
	switch p := how.GetProbe().(type) {
	case *solov1.Ready_Tcp:
		k.netProbe(inst, p.Tcp, "", done)
	case *solov1.Ready_Http:
		k.netProbe(inst, p.Http.GetPort(), p.Http.GetPath(), done)
	case *solov1.Ready_Exec:
		argv := make([][]byte, len(p.Exec.GetCommand()))
		for i, a := range p.Exec.GetCommand() {
			argv[i] = []byte(a)
		}
		id := inst.ask(func(r *controlv1.InitReport, files ipc.Files) {
			files.Close()
			result := r.GetProbeResult()
			done(result.GetSiCode() == cldExited && result.GetSiStatus() == 0 && !result.GetTimedOut())
		})
		k.order(inst, &controlv1.InitOrder{Order: &controlv1.InitOrder_Exec{Exec: &controlv1.ExecOrder{
			Id: id, Argv: argv, TimeoutMs: uint32(probeTimeout.Milliseconds()),
		}}})
	}
}

// netProbe has solo-init make a socket inside and solo-net connect it.
func (k *Kernel) netProbe(inst *instance, port uint32, path string, done func(bool)) {
	k.makeSockets(inst, 1, func(files ipc.Files) {
		if len(files) != 1 {
			files.Close()
			done(false)
			return
		}
		k.ports.probe(&controlv1.NetProbe{Port: port, HttpPath: path, TimeoutMs: uint32(probeTimeout.Milliseconds())}, files[0], done)
	})
}

// makeSockets has solo-init make unconnected TCP sockets inside; then gets none when
// it could not.
func (k *Kernel) makeSockets(inst *instance, n uint32, then func(ipc.Files)) {
	id := inst.ask(func(r *controlv1.InitReport, files ipc.Files) {
		if r.GetSockets() == nil || len(files) != int(n) {
			files.Close()
			files = nil
		}
		then(files)
	})
	k.order(inst, &controlv1.InitOrder{Order: &controlv1.InitOrder_MakeSockets{MakeSockets: &controlv1.MakeSockets{
		Id: id, Family: unix.AF_INET, Type: unix.SOCK_STREAM, N: n,
	}}})
}

// listenNotify reads the service's notifications until its socket is closed.
func (k *Kernel) listenNotify(inst *instance, n *ipc.Notify) {
	for {
		got, err := n.Receive()
		var protocol *ipc.ProtocolError
		switch {
		case errors.As(err, &protocol):
			// Too long to mean anything; sd_notify(3) gives no answer either.
		case err != nil:
			return
		default:
			var rest ipc.Files
			values := assignments(got.Text)
			k.do(func() { rest = k.notified(inst, values, got.Files) })
			rest.Discard()
		}
		time.Sleep(patience)
	}
}

// assignments reads the lines of a notification.
func assignments(text string) map[string]string {
	values := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, ok := strings.Cut(line, "="); ok {
			values[name] = value
		}
	}
	return values
}

// notified takes the assignments that sd_notify(3) defines; others are ignored, as
// systemd does. It returns the descriptors to be discarded, which the owner must not do.
func (k *Kernel) notified(inst *instance, values map[string]string, files ipc.Files) ipc.Files {
	if inst.gone {
		return files
	}
	s := inst.svc
	if text, ok := values["STATUS"]; ok {
		s.text = strings.ToValidUTF8(text[:min(len(text), maxStatus)], "?")
	}
	if usec, err := strconv.ParseUint(values["EXTEND_TIMEOUT_USEC"], 10, 63); err == nil && usec > 0 {
		k.extend(inst, min(time.Duration(min(usec, uint64(maxExtend.Microseconds())))*time.Microsecond, maxExtend))
	}
	if pid, err := strconv.ParseInt(values["MAINPID"], 10, 32); err == nil && pid > 1 {
		k.moveMain(inst, int32(pid))
	}
	rest := files
	if values["FDSTORE"] == "1" {
		rest = s.keep(values["FDNAME"], rest)
	}
	if values["FDSTOREREMOVE"] == "1" {
		rest = append(rest, s.dropKept(values["FDNAME"])...)
	}
	if values["READY"] == "1" && s.rec.GetManifest().GetReady().GetNotify() {
		k.ready(inst)
	}
	if values["STOPPING"] == "1" {
		k.ports.withdraw(inst)
	}
	return rest
}

// extend moves the limit of a start or a stop that is under way, but never beyond
// maxExtend from its beginning.
func (k *Kernel) extend(inst *instance, d time.Duration) {
	d = min(d, inst.extendable-k.uptime())
	switch {
	case inst.timer == nil:
	case inst.cause != "":
		cause := inst.cause
		inst.arm(k, min(d, k.ending.grace()), func() { k.end(inst, cause) })
	case inst.phase == phaseReleased || inst.phase == phaseStarted:
		inst.arm(k, d, func() { k.end(inst, reasonStartup) })
	}
}

// moveMain gives the main process's role to another one of the sandbox, and finds
// its number on the host.
func (k *Kernel) moveMain(inst *instance, pid int32) {
	k.order(inst, &controlv1.InitOrder{Order: &controlv1.InitOrder_MainPid{MainPid: &controlv1.MainPid{Pid: pid}}})
	if inst.sh == nil || inst.looking {
		return // one search at a time, however often a service says it
	}
	inst.looking = true
	group := inst.sh.group
	go func() {
		found := int32(0)
		procs, _ := group.Procs() // a group that is gone has none
		for _, host := range procs {
			if innerPID(host) == pid {
				found = int32(host)
				break
			}
		}
		k.post(func() {
			inst.looking = false
			if found != 0 {
				inst.pid = found
			}
		})
	}()
}

// innerPID is a process's number in its own pid namespace (NSpid, proc_pid_status(5)).
func innerPID(pid int) int32 {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			fields := bytes.Fields(rest)
			if len(fields) == 0 {
				return 0
			}
			n, err := strconv.ParseInt(string(fields[len(fields)-1]), 10, 32)
			if err != nil {
				return 0
			}
			return int32(n)
		}
	}
	return 0
}

// keep stores descriptors for the service's next instance. It returns those it does
// not take.
func (s *service) keep(name string, files ipc.Files) ipc.Files {
	if name == "" || len(name) > 64 || strings.ContainsAny(name, ":\x00") {
		name = "stored"
	}
	all := 0
	for _, other := range s.k.services {
		all += len(other.kept)
	}
	var rest ipc.Files
	for _, f := range files {
		if len(s.kept) >= maxKept || all >= maxAllKept || !keepable(f) {
			rest = append(rest, f)
			continue
		}
		s.kept = append(s.kept, keptFile{name, f})
		all++
	}
	return rest
}

// keepable takes sockets, pipes, and memfds that cannot grow: no directory or O_PATH
// descriptor, which lead out of the root, and nothing that holds much.
func keepable(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		flags, ferr := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if ferr != nil || flags&unix.O_PATH != 0 || unix.Fstat(int(fd), &st) != nil {
			return
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK, unix.S_IFIFO:
			ok = true
		case unix.S_IFREG:
			seals, serr := unix.FcntlInt(fd, unix.F_GET_SEALS, 0)
			ok = serr == nil && seals&unix.F_SEAL_GROW != 0 && st.Size <= maxKeptBytes
		}
	})
	return err == nil && ok
}

// discardKept lets go of what is stored, when the service is not to run again.
func (s *service) discardKept() {
	var kept ipc.Files
	for _, f := range s.kept {
		kept = append(kept, f.file)
	}
	s.kept = nil
	if len(kept) > 0 {
		go kept.Discard()
	}
}

// dropKept forgets what is stored under a name, and returns it.
func (s *service) dropKept(name string) (dropped ipc.Files) {
	var rest []keptFile
	for _, f := range s.kept {
		if f.name == name {
			dropped = append(dropped, f.file)
		} else {
			rest = append(rest, f)
		}
	}
	s.kept = rest
	return dropped
}
