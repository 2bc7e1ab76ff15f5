package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/ipc"
	"github.com/solo-os/solo/kernel/manifest"
	"github.com/solo-os/solo/kernel/supervision"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sandbox"
)

// serviceUID owns what a service may write, before the id map of its mount.
const serviceUID = sandbox.UID

// role is what makes a service one of Solo's own. Who is connected to whom, and with
// what, is this list.
type role struct {
	name    string
	tier    tier
	profile string
	spec    supervision.Spec
	memory  uint64
	reads   []roleFile
	// open is the limit of descriptors.
	open        uint32
	hostNetwork bool
	// listeners are the descriptors from solod that it gets, by name.
	listeners []string
	// data is its directory below the state directory, seen as /data.
	data string
	// slot is where its instance is kept once it has said hello.
	slot func(*systemServices) **instance
	// mounts are what it sees of the host besides its own program.
	mounts func(*Kernel) []sandbox.Mount
	// greet tells it what it must know before it can join; it says itself when it has
	// understood.
	greet  func(*Kernel, *instance)
	joined func(*Kernel, *instance)
	left   func(*Kernel)
	handle func(*Kernel, *instance, *controlv1.FromService, ipc.Files) error
}

// roleFile is a file of the state directory that a role reads.
type roleFile struct{ source, target string }

func roles() []*role {
	system := supervision.Spec{Restart: supervision.Permanent, Intensity: 3, Period: 30 * time.Second}
	driver := supervision.Spec{Restart: supervision.Permanent, Intensity: 5, Period: 30 * time.Second}
	return []*role{
		{
			name: "solo-audit", tier: tierSystem, profile: "audit", spec: system, memory: 256 << 20, open: 1024, data: "audit",
			slot:   func(s *systemServices) **instance { return &s.audit },
			joined: joinAudit, handle: fromAudit, left: func(k *Kernel) { k.record.flying = false },
		},
		{
			name: "solo-monitor", tier: tierSystem, profile: "monitor", spec: system, memory: 512 << 20, open: 16384, data: "logs",
			listeners: []string{"metrics.sock"},
			slot:      func(s *systemServices) **instance { return &s.monitor },
			joined:    joinMonitor,
		},
		{
			name: "solo-fs", tier: tierDriver, profile: "fs", spec: driver, memory: 512 << 20, open: 1024,
			slot:   func(s *systemServices) **instance { return &s.fs },
			mounts: hostMounts, greet: greetFilesystem,
			joined: func(*Kernel, *instance) {}, handle: fromFilesystem, left: func(k *Kernel) { k.files.lost() },
		},
		{
			name: "solo-net", tier: tierDriver, profile: "net", spec: driver, memory: 512 << 20, open: 16384, hostNetwork: true,
			slot:   func(s *systemServices) **instance { return &s.net },
			joined: joinNet, handle: fromNet, left: func(k *Kernel) { k.ports.lost() },
		},
		{
			name: "solo-gateway", tier: tierSystem, profile: "gateway", spec: system, memory: 2 << 30, open: 4096,
			listeners: []string{"api.sock", "tcp"},
			reads: []roleFile{
				{"certs/ca.pem", "/etc/solo/tls/ca.pem"}, {"certs/server.pem", "/etc/solo/tls/server.pem"}, {"certs/server.key", "/etc/solo/tls/server.key"},
			},
			slot:   func(s *systemServices) **instance { return &s.gateway },
			joined: joinGateway, handle: fromGateway, left: func(k *Kernel) { k.api.lost() },
		},
	}
}

// record stands for what a user service has in the store.
func (r *role) record() *controlv1.ServiceRecord {
	open := r.open
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		open = uint32(min(uint64(open), limit.Max))
	}
	return &controlv1.ServiceRecord{
		ServiceId: r.name, Version: 1, Desired: desiredRunning, Runtime: r.tier.String(),
		Manifest: &solov1.DeployRequest{
			Name: r.name, Restart: "permanent", Replicas: 1,
			Resources: &solov1.Resources{
				MaxMemoryBytes: r.memory, MaxProcesses: 256, CpuShares: 1024, MaxOpenFiles: open, MaxTmpBytes: 1 << 20,
				LogRate: 1 << 20, StartupTimeoutMs: 30_000, ShutdownTimeoutMs: 10_000, LimitExceededAction: "kill",
			},
		},
	}
}

// plan is fixed: a static program of ours, and nothing else of the host.
func (r *role) plan(programs string) manifest.Plan {
	program := "/app/" + r.name
	return manifest.Plan{
		Code:   manifest.Code{Runtime: r.tier.String(), Program: program, Profile: r.profile},
		Argv:   []string{r.name},
		Env:    []string{"GOMAXPROCS=1", "GOTRACEBACK=single", "HOME=/tmp", "NOTIFY_SOCKET=/run/notify", "TMPDIR=/tmp"},
		Mounts: []manifest.Mount{{Source: filepath.Join(programs, r.name), Target: program}},
	}
}

func (r *role) volumes(k *Kernel) []sandbox.Volume {
	if r.data == "" {
		return nil
	}
	return []sandbox.Volume{{Source: filepath.Join(k.boot.GetStateDir(), r.data), Target: "/data"}}
}

// files opens what the role reads. Certificates are there only if solod has a TCP
// listener.
func (r *role) files(k *Kernel) ([]sandbox.File, error) {
	if k.inbox["tcp"] == nil {
		return nil, nil
	}
	var out []sandbox.File
	for _, f := range r.reads {
		content, err := os.Open(filepath.Join(k.boot.GetStateDir(), f.source))
		if err != nil {
			for _, o := range out {
				_ = o.Content.Close()
			}
			return nil, err
		}
		// Readable by the service's user, in a sandbox that has no other.
		out = append(out, sandbox.File{Path: f.target, Mode: 0o444, Content: content})
	}
	return out, nil
}

// prepareState makes the directories of all roles. On the host they belong to the id
// 1000, which may be a person's: that the state directory is closed to everybody but
// root is what keeps them apart.
func prepareState(stateDir string) error {
	errs := []error{os.Chmod(stateDir, 0o700)}
	for _, r := range roles() {
		if r.data != "" {
			errs = append(errs, dataDir(stateDir, r.data))
		}
	}
	return errors.Join(errs...)
}
