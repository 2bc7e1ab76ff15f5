// Package cgroups keeps Solo's control groups: one Group type over cgroup v2
// and over v1-hybrid hosts, where cpu, cpuacct, memory and pids are v1
// hierarchies and a cgroup2 mount without controllers stands beside them.
//
// Trust: runs as root in the kernel and in solod. Paths come from the caller,
// who owns them; the files read are the Linux kernel's, but what a service does
// shapes their numbers, so every parser is bounded and never panics.
//
// A group is one path that exists in several hierarchies at once. On both kinds
// of hosts it exists in the cgroup2 hierarchy, which gives kill, freeze and the
// populated and frozen states; limits and usage are found in the cgroup2
// hierarchy (v2) or in the v1 hierarchies (v1-hybrid). See cgroups(7) and
// Documentation/admin-guide/cgroup-v2.rst.
//
//	         kill, freeze, empty      memory, pids, cpu
//	v2         <unified>/path          <unified>/path
//	v1-hybrid  <unified>/path          <cpu>/path <cpuacct>/path <memory>/path <pids>/path
//
// Other v1 hierarchies (devices, freezer, name=systemd, ...) are left alone by
// Create, but a group made there under the same path by a container library is
// moved into by AddProc and removed by Remove.
//
// What differs, and cannot be hidden:
//
//	                         v2                           v1-hybrid
//	an OOM kill ends         the whole group              one process
//	OOMKills counts          the groups below, too        this group's alone
//	MemoryMax under usage    is taken, and kills          is refused with EBUSY
//	swap of a limited group  memory.swap.max 0            memory.memsw limit = limit, or swappiness 0
//	CPUShares                converted to cpu.weight      as they are
//	a Watcher's PidsMax      at once                      at the next look
//	a group with processes   takes no controllers for     takes both
//	                         its children
//
// Who needs the same outcome of an OOM kill on both kills the group at its event.
//
// # Why not containerd/cgroups?
//
// The kernel is privileged and links neither net nor encoding/json; that library
// brings both, and D-Bus, eBPF and a logger with them. Its v2 event channel also ends
// for good when the group is empty at its first event, and its v1 and v2 managers are
// two types, while a service here is in both kinds of hierarchies at once. So the
// files are written directly. The tests have it read the same groups as an independent
// oracle.
package cgroups
