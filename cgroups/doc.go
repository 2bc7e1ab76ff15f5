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
// A v1 OOM kill ends one process, a v2 one the whole group (memory.oom.group);
// who needs the same outcome on both kills the group at the OOM event.
package cgroups
