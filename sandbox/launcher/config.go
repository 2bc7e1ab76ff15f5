//go:build seccomp

package launcher

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/cgroups"
	devconfig "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	idRange = 65536
	// What a waiting shell may use; the kernel writes the service's limits at the lease.
	shellPids   = 64
	shellMemory = 64 << 20
)

// initCapabilities are what solo-init needs in its own user namespace until the lease.
var initCapabilities = []string{"CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_ADMIN"}

// config describes a shell. libcontainer's config has no safe defaults: what is not
// named here is shared with the launcher.
func (h *host) config(p *controlv1.Prepare, root string) *configs.Config {
	ids := []configs.IDMap{{ContainerID: 0, HostID: int64(p.GetIdBase()), Size: idRange}}
	c := &configs.Config{
		Rootfs:   root,
		Hostname: p.GetShellId(),
		Namespaces: configs.Namespaces{
			{Type: configs.NEWUSER}, {Type: configs.NEWNS}, {Type: configs.NEWPID},
			{Type: configs.NEWIPC}, {Type: configs.NEWUTS}, {Type: configs.NEWCGROUP},
		},
		UIDMappings: ids,
		GIDMappings: ids,
		Mounts: []*configs.Mount{
			// Plain: libcontainer reads /proc/sys. solo-init covers it at the lease.
			{Source: "proc", Device: "proc", Destination: "/proc", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
			// "bind" on /dev switches libcontainer's own set-up of /dev off.
			{Source: h.dev, Device: "bind", Destination: "/dev", Flags: unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NOEXEC},
		},
		Capabilities: &configs.Capabilities{
			Bounding: initCapabilities, Permitted: initCapabilities, Effective: initCapabilities,
		},
		NoNewPrivileges: true,
		// The launcher's session keyring is an empty one of its own (session.go).
		NoNewKeyring: true,
		Cgroups: &cgroups.Cgroup{
			Path: p.GetCgroup(),
			Resources: &cgroups.Resources{
				Devices:   deviceRules(),
				Memory:    shellMemory,
				PidsLimit: new(int64(shellPids)),
			},
		},
	}
	if !p.GetHostNetwork() {
		c.Namespaces = append(c.Namespaces, configs.Namespace{Type: configs.NEWNET})
		c.Networks = []*configs.Network{{Type: "loopback"}}
		// A service may listen on 80 in its own namespace.
		c.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}
	}
	return c
}

func deviceRules() []*devconfig.Rule {
	rules := []*devconfig.Rule{{Type: devconfig.WildcardDevice, Major: devconfig.Wildcard, Minor: devconfig.Wildcard, Permissions: "rwm"}}
	for _, d := range devices {
		rules = append(rules, &devconfig.Rule{Type: devconfig.CharDevice, Major: 1, Minor: int64(d.minor), Permissions: "rw", Allow: true})
	}
	return rules
}

// process is solo-init, executed by descriptor: no file of it is in the sandbox.
func (h *host) process(control *os.File) *libcontainer.Process {
	return &libcontainer.Process{
		Args:       []string{"/proc/self/fd/4"},
		Env:        []string{},
		Cwd:        "/",
		Stdin:      h.null,
		Stdout:     h.null,
		Stderr:     h.null,
		ExtraFiles: []*os.File{control, h.init},
		Init:       true,
	}
}

// needed are the v1 controllers in whose hierarchies a shell must be, where they are
// mounted; "" is the unified tree, which libcontainer joins on hybrid hosts but
// ignores errors of.
var needed = []string{"", "cpu", "cpuacct", "memory", "pids", "devices", "freezer"}

// checkCgroups reads back that a process is in its group in every hierarchy.
func checkCgroups(pid int, group string) error {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err
	}
	return checkCgroupFile(string(data), group)
}

func checkCgroupFile(content, group string) error {
	lines := 0
	for line := range strings.Lines(content) {
		_, rest, ok1 := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok2 := strings.Cut(rest, ":")
		if !ok1 || !ok2 {
			return fmt.Errorf("unreadable line %q", line)
		}
		lines++
		for c := range strings.SplitSeq(controllers, ",") {
			if slices.Contains(needed, c) && path != group {
				return fmt.Errorf("hierarchy %q: process is in %s, not in %s", controllers, path, group)
			}
		}
	}
	if lines == 0 {
		return fmt.Errorf("process is in no hierarchy: %w", os.ErrNotExist)
	}
	return nil
}
