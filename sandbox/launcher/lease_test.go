package launcher_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// insn is struct sock_filter (linux/filter.h).
type insn struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// deny makes a filter that answers the given calls with EPERM and allows the rest.
func deny(calls ...uint32) []byte {
	prog := []insn{{unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, 0, 0, 0}}
	for i, nr := range calls {
		prog = append(prog, insn{unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, uint8(len(calls) - i), 0, nr})
	}
	prog = append(prog, insn{unix.BPF_RET | unix.BPF_K, 0, 0, 0x7fff0000}, insn{unix.BPF_RET | unix.BPF_K, 0, 0, 0x00050000 | uint32(unix.EPERM)})
	return encode(prog...)
}

func encode(prog ...insn) []byte {
	var out bytes.Buffer
	for _, i := range prog {
		_ = binary.Write(&out, binary.NativeEndian, i.code)
		out.Write([]byte{i.jt, i.jf})
		_ = binary.Write(&out, binary.NativeEndian, i.k)
	}
	return out.Bytes()
}

// lease is a Lease with its descriptors, as a test puts it together.
type lease struct {
	*controlv1.Lease
	mounts, files, descriptors []*os.File
	stdio                      [3]*os.File
}

// newLease runs the victim in a mode, from /app/victim, under a floor, a filter and
// Landlock, with /tmp.
func (s *shell) newLease(args ...string) *lease {
	s.t.Helper()
	l := &lease{Lease: &controlv1.Lease{
		Program: []byte("/app/victim"),
		Argv:    [][]byte{[]byte("victim")},
		Cwd:     []byte("/"),
		Uid:     1000, Gid: 1000,
		Floor: deny(unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_PTRACE, unix.SYS_BPF, unix.SYS_KEYCTL, unix.SYS_IO_URING_SETUP,
			unix.SYS_FSOPEN, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT),
		Filter:     deny(unix.SYS_CHROOT),
		LandlockFs: unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE,
	}}
	for _, a := range args {
		l.Argv = append(l.Argv, []byte(a))
	}
	for _, rule := range []string{"/app", "/etc", "/proc", "/run", "/dev"} {
		l.rule(rule, unix.LANDLOCK_ACCESS_FS_READ_FILE|unix.LANDLOCK_ACCESS_FS_EXECUTE)
	}
	l.rule("/tmp", l.LandlockFs)
	l.rule("/dev/null", l.LandlockFs)
	victim, err := os.Open(s.victim)
	must(s.t, err)
	l.file("/app/victim", 0o555, victim)
	l.mount("/tmp", true, s.tmpfs(unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC))
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(s.t, err)
	l.stdio = [3]*os.File{null, null, null}
	return l
}

func (l *lease) rule(path string, access uint64) {
	l.LandlockRules = append(l.LandlockRules, &controlv1.LandlockRule{Path: []byte(path), Access: access})
}

func (l *lease) file(path string, mode uint32, content *os.File) {
	l.Files = append(l.Files, &controlv1.LeaseFile{Path: []byte(path), Mode: mode})
	l.files = append(l.files, content)
}

func (l *lease) mount(target string, directory bool, mount *os.File) {
	l.Mounts = append(l.Mounts, &controlv1.LeaseMount{Target: []byte(target), Directory: directory})
	l.mounts = append(l.mounts, mount)
}

func (l *lease) give(fs ...*os.File) {
	l.descriptors = append(l.descriptors, fs...)
	l.Descriptors += uint32(len(fs))
}

// input makes the program's standard input a pipe and answers the end to write to.
func (l *lease) input(t *testing.T) *os.File {
	t.Helper()
	r, w := pipe(t)
	must(t, unix.SetNonblock(int(r.Fd()), false))
	t.Cleanup(func() { _ = w.Close() })
	_ = l.stdio[0].Close()
	l.stdio[0] = r
	return w
}

// all are the descriptors in the order of the protocol.
func (l *lease) all() []*os.File {
	out := append([]*os.File{}, l.stdio[:]...)
	out = append(append(out, l.mounts...), l.files...)
	return append(out, l.descriptors...)
}

// tmpfs makes the detached mount that becomes a service's /tmp.
func (s *shell) tmpfs(attr int) *os.File {
	s.t.Helper()
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	must(s.t, err)
	defer func() { _ = unix.Close(fs) }()
	owner := fmt.Sprint(s.idBase + 1000)
	for k, v := range map[string]string{"size": "1048576", "nr_inodes": "128", "mode": "1777", "uid": owner, "gid": owner} {
		must(s.t, unix.FsconfigSetString(fs, k, v))
	}
	must(s.t, unix.FsconfigCreate(fs))
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	must(s.t, err)
	return os.NewFile(uintptr(mount), "tmpfs")
}

// bind clones a directory or file of the host as a read-only detached mount.
func (s *shell) bind(path string) *os.File {
	s.t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(s.t, err)
	must(s.t, unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}))
	return os.NewFile(uintptr(fd), path)
}
