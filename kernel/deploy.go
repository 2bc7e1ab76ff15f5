package kernel

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	"github.com/solo-os/solo/kernel/store"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// contents are the memfds that came with a deployment.
type contents struct {
	code  *os.File
	files map[int]*os.File
}

func (c contents) close() {
	if c.code != nil {
		_ = c.code.Close()
	}
	for _, f := range c.files {
		_ = f.Close()
	}
}

func (c contents) announced() manifest.Contents {
	out := manifest.Contents{Code: c.code != nil, Files: map[int]bool{}}
	for i := range c.files {
		out.Files[i] = true
	}
	return out
}

// unpack gives each descriptor its place. It owns files; a gateway that counts wrong
// has failed.
func unpack(op *controlv1.DeployOp, files ipc.Files) (contents, error) {
	c := contents{files: map[int]*os.File{}}
	want := len(op.GetFileContents())
	if op.GetHasCode() {
		want++
	}
	if len(files) != want {
		files.Close()
		return c, &ipc.ProtocolError{What: fmt.Sprintf("deployment with %d descriptors, %d are announced", len(files), want)}
	}
	if op.GetHasCode() {
		c.code, files = files[0], files[1:]
	}
	for i, n := range op.GetFileContents() {
		if c.files[int(n)] != nil {
			c.close()
			files[i:].Close()
			return contents{}, &ipc.ProtocolError{What: "deployment with two contents for one file"}
		}
		c.files[int(n)] = files[i]
	}
	return c, nil
}

// deploy makes a service of a manifest:
//
//	validate ─▶ store contents, make the plan ─▶ open ports ─▶ commit ─┬─▶ release ─▶ answer
//	            (beside the owner)                          └▶ launch ─┘
func (k *Kernel) deploy(r *request, op *controlv1.DeployOp, files ipc.Files) error {
	c, err := unpack(op, files)
	if err != nil {
		return err
	}
	m, violations := manifest.Validate(op.GetRequest(), c.announced())
	if violations = append(violations, beyondHost(m)...); len(violations) > 0 {
		c.close()
		r.refuse(control.Invalid(violations))
		return nil
	}
	k.admit(r, m, c, func(plan manifest.Plan) { k.install(r, m, plan) })
	return nil
}

// beyondHost says what a manifest asks for that no process of this host can have.
func beyondHost(m *solov1.DeployRequest) []manifest.Violation {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || uint64(m.GetResources().GetMaxOpenFiles()) <= limit.Max {
		return nil
	}
	return []manifest.Violation{{
		Field:       "resources.max_open_files",
		Description: fmt.Sprintf("%d is over the %d that solod was started with (RLIMIT_NOFILE)", m.GetResources().GetMaxOpenFiles(), limit.Max),
	}}
}

// admit checks what can be checked without a plan, reserves the name, and has the
// plan made.
func (k *Kernel) admit(r *request, m *solov1.DeployRequest, c contents, then func(manifest.Plan)) {
	name, id := m.GetName(), m.GetRequestId()
	if r.over {
		c.close() // the client has gone while it followed another
		return
	}
	if follow, busy := k.api.following[id]; id != "" && busy {
		// The same request is being answered: look again when it has been.
		k.api.following[id] = append(follow, func() { k.admit(r, m, c, then) })
		return
	}
	if k.api.working >= maxWorking {
		c.close()
		r.refuse(control.Errorf(control.ResourceExhausted, "TOO_MANY_REQUESTS", "%d deployments are being looked into, which is the limit; try again", maxWorking))
		return
	}
	_, repeated := k.api.answered[id]
	if !m.GetValidateOnly() && !repeated {
		if err := k.room(m); err != nil {
			c.close()
			r.refuse(err)
			return
		}
		k.reserved[name] = true
		if id != "" {
			k.api.following[id] = []func(){}
		}
	}
	release := func() {
		k.api.working--
		if !m.GetValidateOnly() && !repeated {
			delete(k.reserved, name)
		}
	}
	k.api.working++
	go func() {
		err := k.storeContents(m, c)
		c.close()
		var plan manifest.Plan
		if err == nil {
			plan, err = k.makePlan(m)
		}
		k.post(func() {
			release()
			switch {
			case err != nil:
				r.refuse(err)
				if !m.GetValidateOnly() && !repeated {
					k.api.settle(id)
				}
			case m.GetValidateOnly():
				r.answer(&controlv1.Response{Result: &controlv1.Response_Deploy{Deploy: &solov1.DeployResponse{Plan: plan.Proto()}}})
			case repeated:
				k.repeat(r, m)
			case k.ending.begun:
				r.refuse(errShuttingDown())
				k.api.settle(id)
			default:
				then(plan)
			}
		})
	}()
}

// settle lets those go on who wait for the answer to a request id.
func (a *api) settle(id string) {
	waiting := a.following[id]
	delete(a.following, id)
	for _, f := range waiting {
		f()
	}
}

// maxBackends is how many instances behind published ports all services may have
// together: each is some descriptors in the kernel and in solo-net.
const maxBackends = 1000

// room says why a manifest cannot be deployed now.
func (k *Kernel) room(m *solov1.DeployRequest) error {
	name := m.GetName()
	if k.services[name] != nil || k.reserved[name] {
		return control.Errorf(control.AlreadyExists, "NAME_TAKEN", "name: the service %q exists; choose another name, or delete it first", name).With("service", name)
	}
	services, instances, backends := len(k.reserved)+1, manifest.Instances(m), manifest.Backends(m)
	for _, s := range k.services {
		if s.tier == tierUser {
			services++
			instances += manifest.Instances(s.rec.GetManifest())
			backends += manifest.Backends(s.rec.GetManifest())
		}
	}
	// A range of host ids for each instance.
	ids := int(k.boot.GetIdRanges()) - reservedRanges
	for _, l := range []struct {
		resource    string
		used, limit int
	}{{"services", services, k.maxServices()}, {"ids", instances, ids}, {"backends", backends, maxBackends}} {
		if l.used > l.limit {
			return control.Errorf(control.ResourceExhausted, "RESOURCE_EXHAUSTED", "%s: %d would be in use, %d is the limit", l.resource, l.used, l.limit).
				With("resource", l.resource).With("limit", strconv.Itoa(l.limit))
		}
	}
	return nil
}

// storeContents replaces contents by the digests under which they are kept.
func (k *Kernel) storeContents(m *solov1.DeployRequest, c contents) error {
	if c.code != nil {
		digest, _, err := k.code.Put(c.code, manifest.MaxCodeBytes)
		if err != nil {
			return fmt.Errorf("store source.code: %w", err)
		}
		m.GetSource().Artifact, m.GetSource().Code = digest, ""
	} else if src := m.GetSource(); src.GetCode() != "" {
		// Inside the message only when it is tiny: the gateway moves it out.
		return control.Invalid([]manifest.Violation{{Field: "source.code", Description: "came inside the control message"}})
	}
	total := int64(0)
	for i, f := range m.GetFiles() {
		size, err := k.storeFile(f, c.files[i])
		if err != nil {
			return fmt.Errorf("store files[%d]: %w", i, err)
		}
		if total += size; total > manifest.MaxFileBytes {
			return control.Invalid([]manifest.Violation{{Field: "files", Description: fmt.Sprintf("are over %d bytes together, which is the limit", int64(manifest.MaxFileBytes))}})
		}
	}
	return nil
}

// storeFile keeps a file's content, if it came with the manifest, and says how long it is.
func (k *Kernel) storeFile(f *solov1.File, content *os.File) (int64, error) {
	switch {
	case content != nil:
		digest, size, err := k.code.Put(content, manifest.MaxFileBytes)
		if err != nil {
			return 0, err
		}
		f.Artifact, f.Content = digest, nil
		return size, nil
	case f.GetArtifact() == "":
		return 0, nil
	}
	stored, err := k.code.OpenArtifact(f.GetArtifact())
	if err != nil {
		return 0, err
	}
	defer func() { _ = stored.Close() }()
	info, err := stored.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// makePlan has solo-fs find out about the code and makes the plan. It blocks, and is
// not for the owner.
func (k *Kernel) makePlan(m *solov1.DeployRequest) (manifest.Plan, error) {
	code, err := k.files.resolve(m)
	if err != nil {
		return manifest.Plan{}, err
	}
	plan, violations := manifest.Make(m, code)
	if violations != nil {
		return manifest.Plan{}, control.Invalid(violations)
	}
	return plan, nil
}

// digestOf identifies a manifest whatever way it is asked for.
func digestOf(m *solov1.DeployRequest) []byte {
	m = proto.CloneOf(m)
	m.RequestId, m.Wait = "", false
	data, err := (proto.MarshalOptions{Deterministic: true}).Marshal(m)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(data)
	return sum[:]
}

// repeat answers a request id that has been answered before.
func (k *Kernel) repeat(r *request, m *solov1.DeployRequest) {
	known := k.api.answered[m.GetRequestId()]
	if string(known.GetDigest()) != string(digestOf(m)) {
		r.refuse(control.Errorf(control.AlreadyExists, "REQUEST_ID_REUSED", "request_id %q was used for another manifest", m.GetRequestId()))
		return
	}
	s := k.services[m.GetName()]
	if s != nil && s.rec.GetServiceId() == known.GetResponse().GetServiceId() {
		k.deployed(r, s, m.GetWait())
		return
	}
	r.answer(&controlv1.Response{Result: &controlv1.Response_Deploy{Deploy: proto.CloneOf(known.GetResponse())}})
}

// install makes the service, from the opening of its ports on.
func (k *Kernel) install(r *request, m *solov1.DeployRequest, plan manifest.Plan) {
	wait := m.GetWait()
	s := &service{k: k, name: m.GetName(), tier: tierUser, plan: plan, busy: true, rec: &controlv1.ServiceRecord{
		ServiceId: newID(), Manifest: m, Version: 1, Desired: desiredRunning, DeployedAtUnixNano: time.Now().UnixNano(),
		CodeDigest: plan.Code.Digest, Runtime: plan.Code.Runtime,
	}}
	k.services[s.name] = s
	k.ports.open(s, func(err error) {
		if err == nil && k.ending.begun {
			err = errShuttingDown()
		}
		if err != nil {
			s.forget()
			r.refuse(err)
			k.api.settle(m.GetRequestId())
			return
		}
		change := store.Change{PutService: s.change(), Audit: []store.Entry{{
			Operation: "deploy", Actor: r.actor, Object: s.name, Result: "ok", Detail: deployFacts(s),
		}}}
		if id := m.GetRequestId(); id != "" {
			rec := &controlv1.RequestRecord{Digest: digestOf(m), TimeUnixNano: s.rec.GetDeployedAtUnixNano(), Response: &solov1.DeployResponse{
				ServiceId: s.rec.GetServiceId(), Version: 1, State: stateStarting,
			}}
			change.PutRequest = &store.RequestChange{ID: id, Record: rec}
			change.DeleteRequests = k.api.forgotten(time.Now())
		}
		k.record.commit(change, func(err error) {
			if err != nil {
				s.rec.Desired = desiredStopped
				s.kill(reasonKilled)
				s.wait(ended, s.forget)
				r.refuse(err)
				k.api.settle(m.GetRequestId())
				return
			}
			s.durable = true
			k.system.deployments++
			if change.PutRequest != nil {
				k.api.answered[change.PutRequest.ID] = change.PutRequest.Record
				k.api.order = append(k.api.order, change.PutRequest.ID)
				k.api.settle(change.PutRequest.ID)
			}
			for _, sl := range s.slots {
				if sl.inst != nil {
					k.release(sl.inst)
				}
			}
			k.deployed(r, s, wait)
		})
		k.event(s, nil, &solov1.Event{Type: "deployed"})
		s.launch()
	})
}

// deployed answers a deployment, when it is ready or has failed if that is asked for.
func (k *Kernel) deployed(r *request, s *service, wait bool) {
	tell := func() {
		resp := &solov1.DeployResponse{ServiceId: s.rec.GetServiceId(), Version: s.rec.GetVersion(), Plan: s.plan.Proto()}
		resp.State, resp.Reason = s.state(), s.rec.GetReason()
		if wait {
			resp.StartupMs = milliseconds(k.uptime() - r.at)
		}
		r.answer(&controlv1.Response{Result: &controlv1.Response_Deploy{Deploy: resp}})
	}
	if !wait {
		tell()
		return
	}
	s.wait(settled, tell)
}

// deployFacts are what the audit log keeps of a deployment.
func deployFacts(s *service) [][2]string {
	res := s.resources()
	facts := [][2]string{
		{"service_id", s.rec.GetServiceId()}, {"version", strconv.FormatUint(s.rec.GetVersion(), 10)},
		{"code", s.rec.GetCodeDigest()}, {"runtime", s.rec.GetRuntime()}, {"program", s.plan.Code.Program},
		{"seccomp", s.plan.Code.Profile}, {"memory", strconv.FormatUint(res.GetMaxMemoryBytes(), 10)},
		{"processes", strconv.FormatUint(uint64(res.GetMaxProcesses()), 10)},
	}
	for _, p := range s.plan.Ports {
		facts = append(facts, [2]string{"port " + p.GetListen(), strconv.FormatUint(uint64(p.GetTo()), 10)})
	}
	return facts
}

// storeArtifact keeps an upload.
func (k *Kernel) storeArtifact(r *request, op *controlv1.StoreArtifactOp, files ipc.Files) error {
	if len(files) != 1 {
		files.Close()
		return &ipc.ProtocolError{What: fmt.Sprintf("upload with %d descriptors", len(files))}
	}
	go func() {
		digest, size, err := k.code.Put(files[0], int64(k.maxUpload()))
		files.Close()
		k.post(func() {
			switch {
			case err != nil:
				r.refuse(err)
				return
			case uint64(size) != op.GetSize():
				r.refuse(control.Errorf(control.Internal, "INTERNAL", "upload of %d bytes arrived with %d", op.GetSize(), size))
				return
			}
			k.record.commit(store.Change{Audit: []store.Entry{{
				Operation: "upload", Actor: r.actor, Object: digest, Result: "ok", Detail: [][2]string{{"size", strconv.FormatInt(size, 10)}},
			}}}, func(err error) {
				if err != nil {
					r.refuse(err)
					return
				}
				r.answer(&controlv1.Response{Result: &controlv1.Response_Stored{Stored: &solov1.UploadResponse{Digest: digest, Size: uint64(size)}}})
			})
		})
	}()
	return nil
}

// newID names a service for ever.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
