package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sight is what a service sees of itself.
type sight struct {
	UID, GID   int
	Groups     []int
	Args, Env  []string
	Dir        string
	Pids       []int             // in /proc
	Root       []string          // names in /
	Dev        []string          // names in /dev
	Files      map[string]string // open descriptors
	Interfaces []string
	Status     map[string]string // of /proc/self/status: capabilities, seccomp, no_new_privs
	Mounts     []string
	Limits     map[string]string // of /proc/self/limits: soft and hard
	Host       string
}

func inspect(string) error {
	s := sight{
		UID: os.Getuid(), GID: os.Getgid(), Groups: []int{}, Args: os.Args, Env: os.Environ(),
		Root: names("/"), Dev: names("/dev"), Files: make(map[string]string), Interfaces: interfaces(),
		Status: make(map[string]string), Limits: limits("Max open files", "Max core file size", "Max locked memory"),
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	s.Groups = append(s.Groups, groups...)
	if s.Dir, err = os.Getwd(); err != nil {
		return err
	}
	if s.Host, err = os.Hostname(); err != nil {
		return err
	}
	for _, name := range names("/proc") {
		if pid, err := strconv.Atoi(name); err == nil {
			s.Pids = append(s.Pids, pid)
		}
	}
	for _, fd := range names("/proc/self/fd") {
		if target, err := os.Readlink(filepath.Join("/proc/self/fd", fd)); err == nil {
			s.Files[fd] = target
		}
	}
	wanted := []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"}
	for line := range lines("/proc/self/status") {
		if key, value, ok := strings.Cut(line, ":"); ok && slices.Contains(wanted, key) {
			s.Status[key] = strings.TrimSpace(value)
		}
	}
	for line := range lines("/proc/self/mounts") {
		s.Mounts = append(s.Mounts, line)
	}
	return say(s)
}

func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return []string{err.Error()}
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// lines yields a file's lines, or the error in their place.
func lines(path string) func(func(string) bool) {
	return func(yield func(string) bool) {
		data, err := os.ReadFile(path)
		if err != nil {
			yield(err.Error())
			return
		}
		for line := range strings.Lines(string(data)) {
			if !yield(strings.TrimSpace(line)) {
				return
			}
		}
	}
}

// interfaces asks /proc: a service has no netlink sockets.
func interfaces() []string {
	var list []string
	for line := range lines("/proc/self/net/dev") {
		if name, _, ok := strings.Cut(line, ":"); ok {
			list = append(list, name)
		}
	}
	return list
}

// limits reads lines such as "Max open files  1024  1024  files".
func limits(wanted ...string) map[string]string {
	m := make(map[string]string)
	for line := range lines("/proc/self/limits") {
		for _, name := range wanted {
			if rest, ok := strings.CutPrefix(line, name); ok {
				if f := strings.Fields(rest); len(f) >= 2 {
					m[name] = f[0] + " " + f[1]
				}
			}
		}
	}
	return m
}
