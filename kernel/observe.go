package kernel

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const maxPage = 100

// view is a status whose usage is still to be read, from the groups.
type view struct {
	status *solov1.ServiceStatus
	groups []*cgroups.Group // one for each instance
}

// look takes a service's status as the owner knows it.
func (s *service) look() view {
	m := s.rec.GetManifest()
	v := view{status: &solov1.ServiceStatus{
		Name: s.name, ServiceId: s.rec.GetServiceId(), State: s.state(), Reason: s.rec.GetReason(), Version: s.rec.GetVersion(),
		CpuUsec: s.cpu, Restarts: s.rec.GetRestarts(), StartupPath: "blank", StatusText: s.text, Runtime: s.rec.GetRuntime(),
		CodeDigest: s.rec.GetCodeDigest(), Resources: proto.CloneOf(m.GetResources()), Restart: m.GetRestart(),
		Replicas: m.GetReplicas(), Tier: s.tier.String(),
	}}
	if at := s.rec.GetDeployedAtUnixNano(); at > 0 {
		v.status.DeployedAt = timestamppb.New(time.Unix(0, at))
	}
	for _, u := range m.GetUses() {
		if p := u.GetPort(); p != nil {
			v.status.Ports = append(v.status.Ports, fmt.Sprintf("%s -> %d", p.GetListen(), p.GetTo()))
		}
	}
	for _, sl := range s.slots {
		inst := sl.inst
		if inst == nil || inst.sh == nil {
			continue
		}
		i := &solov1.InstanceStatus{Id: inst.id, Pid: inst.pid, State: inst.state(), StartupMs: milliseconds(inst.startup)}
		if !inst.startedAt.IsZero() {
			i.StartedAt = timestamppb.New(inst.startedAt)
		}
		v.status.Instances = append(v.status.Instances, i)
		v.groups = append(v.groups, inst.sh.group)
	}
	return v
}

func (inst *instance) state() string {
	switch {
	case inst.cause != "":
		return stateStopping
	case inst.phase == phaseReady:
		return stateReady
	}
	return stateStarting
}

// measure reads the usage. A group that has just gone counts as nothing.
func (v view) measure() *solov1.ServiceStatus {
	for i, g := range v.groups {
		u, err := g.Usage()
		if err != nil {
			continue
		}
		inst := v.status.GetInstances()[i]
		inst.MemoryBytes, inst.CpuUsec, inst.Processes = u.MemoryBytes, u.CPUUsec, uint32(min(u.Processes, math.MaxUint32))
		v.status.MemoryBytes += u.MemoryBytes
		v.status.CpuUsec += u.CPUUsec
	}
	return v.status
}

func (k *Kernel) status(r *request, req *solov1.StatusRequest) {
	s := r.find(req.GetService())
	if s == nil {
		return
	}
	v := s.look()
	go func() {
		status := v.measure()
		k.post(func() {
			r.answer(&controlv1.Response{Result: &controlv1.Response_Status{Status: &solov1.StatusResponse{Service: status}}})
		})
	}()
}

func (k *Kernel) list(r *request, req *solov1.ListRequest) {
	size := int(req.GetPageSize())
	if size == 0 || size > maxPage {
		size = maxPage
	}
	var names []string
	for name, s := range k.services {
		if strings.HasPrefix(name, req.GetFilter()) && name > req.GetPageToken() && (req.GetSystem() || s.tier == tierUser) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	next := ""
	if len(names) > size {
		names = names[:size]
		next = names[size-1]
	}
	var views []view
	for _, name := range names {
		views = append(views, k.services[name].look())
	}
	go func() {
		resp := &solov1.ListResponse{NextPageToken: next}
		for _, v := range views {
			resp.Services = append(resp.Services, v.measure())
		}
		// The answer is one control message.
		for proto.Size(resp) > ipc.MaxMessage-512 && len(resp.GetServices()) > 1 {
			resp.Services = resp.Services[:len(resp.Services)/2]
			resp.NextPageToken = resp.Services[len(resp.Services)-1].GetName()
		}
		k.post(func() {
			r.answer(&controlv1.Response{Result: &controlv1.Response_List{List: resp}})
		})
	}()
}

// streamTo makes a connection, gives one end to a system service with a message and
// the other to the client.
func (k *Kernel) streamTo(r *request, to *instance, name string, m *controlv1.FromKernel, resp *controlv1.Response) {
	if to == nil {
		r.refuse(control.Errorf(control.Unavailable, "SERVICE_RESTARTING", "%s is being restarted; try again", name))
		return
	}
	a, b, err := ipc.RawPair()
	if err != nil {
		r.refuse(control.Errorf(control.ResourceExhausted, "RESOURCE_EXHAUSTED", "open stream: %v", err).With("resource", "descriptors"))
		return
	}
	if err := k.system.to(to, m, a); err != nil {
		_ = b.Close()
		r.refuse(control.Errorf(control.InvalidArgument, "REQUEST_TOO_LARGE", "pass the request on: %v", err))
		return
	}
	r.answer(resp, b)
}

func (k *Kernel) watchService(r *request, req *solov1.WatchRequest) {
	if name := req.GetService(); name != "" && r.find(name) == nil {
		return
	}
	for i, kind := range req.GetKinds() {
		if !slices.Contains([]string{"log", "metric", "event"}, kind) {
			r.refuse(control.Errorf(control.InvalidArgument, "INVALID_ARGUMENT", "kinds[%d]: %.40q is none of log, metric, event", i, kind))
			return
		}
	}
	switch since := req.GetSince(); since {
	case "", "now", "start":
	default:
		if _, err := strconv.ParseUint(since, 10, 64); err != nil {
			r.refuse(control.Errorf(control.InvalidArgument, "INVALID_ARGUMENT", "since: %.40q is neither now, start nor a sequence number", since))
			return
		}
	}
	k.streamTo(r, k.system.monitor, "solo-monitor",
		&controlv1.FromKernel{Item: &controlv1.FromKernel_Watcher{Watcher: &controlv1.Watcher{Request: req, Scope: r.scope}}},
		&controlv1.Response{Result: &controlv1.Response_Watch{Watch: &controlv1.WatchOpened{}}})
}

func (k *Kernel) auditTail(r *request, req *solov1.TailRequest) {
	k.streamTo(r, k.system.audit, "solo-audit",
		&controlv1.FromKernel{Item: &controlv1.FromKernel_AuditReader{AuditReader: &controlv1.AuditReader{After: req.GetAfter(), Follow: req.GetFollow()}}},
		&controlv1.Response{Result: &controlv1.Response_AuditTail{AuditTail: &controlv1.TailOpened{}}})
}

func (k *Kernel) info(r *request) {
	users := uint32(0)
	for _, s := range k.services {
		if s.tier == tierUser {
			users++
		}
	}
	r.answer(&controlv1.Response{Result: &controlv1.Response_Info{Info: &solov1.InfoResponse{
		Pid: int32(os.Getpid()), Version: k.boot.GetVersion(), UptimeMs: uint64(k.uptime().Milliseconds()),
		Generation: k.record.generation, CgroupMode: k.hier.Mode().String(), Services: users,
		ShellsWaiting: uint32(len(k.shells.idle)), StateDir: k.boot.GetStateDir(),
	}}})
}
