package root

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/solo-os/solo/cgroups"
	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// Options are solod's flags. Empty or 0 stands for none, or for the default.
type Options struct {
	StateDir, RunDir, Listen, CgroupRoot, Config, Version string
	IDBase                                                uint64

	listenAt netip.AddrPort
	grace    time.Duration // stopGrace, unless a test is in a hurry
}

// Validate completes the options and says what is wrong with their form; it looks at
// no file.
func (o *Options) Validate() error {
	if o.StateDir == "" || o.RunDir == "" {
		return errors.New("--state-dir or --run-dir is empty: give a directory")
	}
	var err, err2 error
	o.StateDir, err = filepath.Abs(o.StateDir)
	o.RunDir, err2 = filepath.Abs(o.RunDir)
	c, b := o.CgroupRoot, o.IDBase
	switch {
	case err != nil || err2 != nil:
		return cmp.Or(err, err2)
	case len(o.RunDir+"/metrics.sock") > 107: // unix(7)
		return fmt.Errorf("--run-dir %s: too long for a socket's path: choose one of at most %d bytes", o.RunDir, 107-len("/metrics.sock"))
	case c != "" && (!path.IsAbs(c) || c == "/" || path.Clean(c) != c):
		return fmt.Errorf("--cgroup-root %q is not a clean absolute path below /: give one such as /solo-a", c)
	case b%idsPerRange != 0 || b > lastBase:
		return fmt.Errorf("--id-base %d: give a multiple of %d, at most %d", b, idsPerRange, lastBase)
	case o.Listen == "":
		return nil
	}
	// No name but this one: solod asks no name server.
	o.listenAt, err = netip.ParseAddrPort(strings.Replace(o.Listen, "localhost:", "127.0.0.1:", 1))
	if err != nil || o.listenAt.Addr().Zone() != "" {
		return fmt.Errorf("--listen %q: give an IP address and a port, such as 127.0.0.1:50051", o.Listen)
	}
	return nil
}

// readConfig reads the operator's file; without one everything has its default.
func (r *root) readConfig() error {
	c := &controlv1.Config{}
	r.boot.Config = c
	if r.Config == "" {
		return nil
	}
	text, err := os.ReadFile(r.Config)
	if err == nil && len(text) > 32<<10 { // it travels to the kernel in one message
		err = unix.EFBIG
	}
	if err != nil {
		return fmt.Errorf("read --config %s: %w", r.Config, err)
	}
	if err := prototext.Unmarshal(text, c); err != nil {
		// The library varies its spaces so that nobody compares its texts.
		what := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
		line := 1
		_, _ = fmt.Sscanf(what, "(line %d:", &line)
		return fmt.Errorf("config %s: %s in %q", r.Config, what, strings.Split(string(text), "\n")[line-1])
	}
	for field, paths := range map[string][]string{"binary_paths": c.GetBinaryPaths(), "runtime_paths": c.GetRuntimePaths()} {
		for _, p := range paths {
			if !path.IsAbs(p) || path.Clean(p) != p {
				return fmt.Errorf("config %s: %s: %q is not a clean absolute path", r.Config, field, p)
			}
		}
	}
	if n := c.GetPoolSize(); n < -1 || n > 256 {
		return fmt.Errorf("config %s: pool_size: %d is not between -1 and 256", r.Config, n)
	}
	return nil
}

// openDirs makes the directories and locks them for life; what is in the run directory
// is ours then.
func (r *root) openDirs() error {
	if err := openDir(r.StateDir, 0o700, "--state-dir"); err != nil {
		return err
	}
	err := openDir(r.RunDir, 0o755, "--run-dir")
	r.owned = err == nil
	for _, name := range []string{"ca.pem", "server.pem", "server.key"} {
		if _, e := os.Stat(filepath.Join(r.StateDir, "certs", name)); e != nil && r.Listen != "" && err == nil {
			err = fmt.Errorf("--listen needs certificates: %w: make them with `solo-ctl certs init --state-dir %s`", e, r.StateDir)
		}
	}
	return err
}

// openDir locks by a file: a crash frees it, and children do not inherit it.
func openDir(dir string, mode os.FileMode, flag string) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("make %s: %w", flag, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Uid != 0 || st.Mode&0o022 != 0 {
		return fmt.Errorf("%s is writable for others than root: chown root and chmod go-w it, or choose another with %s", dir, flag)
	}
	fd, err := unix.Open(filepath.Join(dir, "lock"), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s is in use by another solod: stop that one, or choose another with %s", dir, flag)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	return nil
}

// Host ids are given out in ranges of 65,536, at most 1,024 of them: a slot. A solod
// claims the slots it uses. Without --id-base it takes a free one from 1<<29 on; the
// last of all would hold the id 1<<32-1, which is none.
const (
	idsPerRange = 1 << 16
	maxRanges   = 1024
	idsPerSlot  = idsPerRange * maxRanges
	firstSlot   = 1 << 29 / idsPerSlot
	slots       = 1<<32/idsPerSlot - firstSlot - 1
	lastBase    = 1<<32 - 2*idsPerRange
)

// claimIDs takes the ranges from --id-base on, or else the first slot that is free from
// where the state directory's hash points.
func (r *root) claimIDs() (err error) {
	claimSlot := func(slot uint64) error { return claim(fmt.Sprintf("solo-ids-%d", slot)) }
	base, ranges := r.IDBase, min(maxRanges, (lastBase-r.IDBase)/idsPerRange+1)
	if base == 0 {
		for i := range uint64(slots) {
			slot := firstSlot + (uint64(r.seed[0])+i)%slots
			if err = claimSlot(slot); !errors.Is(err, unix.EADDRINUSE) {
				base = slot * idsPerSlot
				break
			}
		}
	} else {
		for slot := base / idsPerSlot; slot <= (base+ranges*idsPerRange-1)/idsPerSlot && err == nil; slot++ {
			err = claimSlot(slot)
		}
	}
	if err != nil {
		return fmt.Errorf("claim host ids: %w: another solod has them: choose another multiple of %d for --id-base", err, idsPerSlot)
	}
	r.boot.IdBase, r.boot.IdRanges = uint32(base), uint32(ranges)
	return nil
}

// claim binds an abstract socket's name, which ends with the process.
func claim(name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err != nil {
		_ = unix.Close(fd)
	}
	return err
}

// listenUnix opens a socket in the run directory, in the place of one that an earlier
// run left.
func (r *root) listenUnix(name string, mask int) error {
	path := r.removeSocket(name)
	defer unix.Umask(unix.Umask(mask))
	return r.listen(name, path, unix.AF_UNIX, &unix.SockaddrUnix{Name: path})
}

// removeSocket removes a socket, and nothing else, and answers its path.
func (r *root) removeSocket(name string) string {
	path := filepath.Join(r.RunDir, name)
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(path)
	}
	return path
}

// listenTCP opens the TCP socket, if there is to be one; port 0 lets the system choose.
func (r *root) listenTCP() error {
	ip, port := r.listenAt.Addr(), int(r.listenAt.Port())
	if !ip.IsValid() {
		return nil
	}
	family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: port, Addr: ip.As16()})
	if ip.Is4() {
		family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: ip.As4()}
	}
	if err := r.listen("tcp", r.Listen, family, addr); err != nil {
		return err
	}
	switch bound, _ := unix.Getsockname(int(r.files[len(r.files)-1].Fd())); b := bound.(type) {
	case *unix.SockaddrInet4:
		port = b.Port
	case *unix.SockaddrInet6:
		port = b.Port
	}
	r.Listen = netip.AddrPortFrom(ip, uint16(port)).String()
	return nil
}

// listen opens a listener and keeps it for all kernels. Only services accept on it, so
// the runtime's poller does not get it.
func (r *root) listen(name, where string, family int, addr unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = cmp.Or(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, addr), unix.Listen(fd, unix.SOMAXCONN))
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", where, err)
	}
	r.boot.Names, r.files = append(r.boot.Names, name), append(r.files, os.NewFile(uintptr(fd), name))
	return nil
}

// notify tells systemd, if that started us (sd_notify(3)). Nothing depends on it.
func notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil && name != "" {
		_ = unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: name})
		_ = unix.Close(fd)
	}
}

// openGroups finds the root of the groups: what the flag names, else the unit's own
// under systemd, else one named after the state directory. Of those below it, solod,
// launcher and kernel have one each; the kernel makes those of services.
func (r *root) openGroups() error {
	h, err := cgroups.Mount()
	if err != nil {
		return fmt.Errorf("%w: Solo needs cgroup v2, or v1 with cgroup2 mounted beside it", err)
	}
	at, err := h.Current()
	if err != nil {
		return err
	}
	top, own := r.CgroupRoot, at.Group()
	if top == "" && own != "/" && os.Getenv("NOTIFY_SOCKET")+os.Getenv("INVOCATION_ID") != "" {
		top = own
	}
	r.boot.CgroupRoot = cmp.Or(top, fmt.Sprintf("/solo-%x", r.seed[:4]))
	if strings.HasPrefix(own, r.boot.CgroupRoot+"/") {
		return fmt.Errorf("solod was started in group %s, below its --cgroup-root %s: start it outside", own, r.boot.CgroupRoot)
	}
	if h, err = h.Below(r.boot.CgroupRoot); err != nil {
		return err
	}
	for name, group := range map[string]**cgroups.Group{"": &r.top, "/solod": &r.self, "/launcher": &r.launcher.group, "/kernel": &r.kernel.group} {
		if *group, err = h.Open(r.boot.CgroupRoot + name); err != nil {
			return err
		}
	}
	r.made = r.self
	if own != r.top.Path() && strings.HasPrefix(r.top.Path(), "/solo") {
		r.made = r.top
	}
	return nil
}

// enterGroup kills what an earlier run left, whose solod is gone, as the state
// directory's lock says, and moves this process to its group.
func (r *root) enterGroup() error {
	// The same root given to the solod of another state directory would end that.
	if err := claim(fmt.Sprintf("solo-cgroup-%.16x", sha256.Sum256([]byte(r.top.Path())))); err != nil {
		return fmt.Errorf("%w: another solod runs below %s: choose another --cgroup-root", err, r.top.Path())
	}
	err := r.clearGroups()
	if err == nil {
		r.before, err = r.self.MoveSelf()
	}
	return err
}

// clearGroups kills and removes everything below the root but this process's own group.
func (r *root) clearGroups() error {
	ctx, cancel := context.WithTimeout(context.Background(), clearTimeout)
	defer cancel()
	children, err := r.top.Children()
	for _, c := range children {
		if r.before == nil || c.Path() != r.self.Path() {
			err = errors.Join(err, c.RemoveTree(ctx))
		}
	}
	return err
}

// load takes the programs that lie beside solod.
func (r *root) load() error {
	var err, err2, err3, err4 error
	r.launcher.name, r.launcher.unshare = "solo-launcher", unix.CLONE_NEWNS
	r.kernel.name, r.kernel.unshare = "solo-kernel", unix.CLONE_NEWNET
	r.launcher.program, err = loadProgram(r.boot.GetProgramDir(), r.launcher.name)
	r.kernel.program, err2 = loadProgram(r.boot.GetProgramDir(), r.kernel.name)
	r.init, err3 = os.Open(filepath.Join(r.boot.GetProgramDir(), "solo-init"))
	r.null, err4 = os.Open(os.DevNull)
	return cmp.Or(err, err2, err3, err4)
}

// loadProgram copies a program into a sealed memfd. It is run from there: every
// restart runs the same bytes, whatever is installed meanwhile.
func loadProgram(dir, name string) (*os.File, error) {
	from, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = from.Close() }()
	f, err := ipc.NewMemfd(name)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, from); err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return f, ipc.Seal(f)
}
