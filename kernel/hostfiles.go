package kernel

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/sandbox"
)

// Bounds on what solo-fs may answer.
const (
	maxCodeMounts = 200
	maxCodeWords  = 128
	maxCodeBytes  = 32 << 10
	maxStartupMs  = 600_000
)

var (
	// applicationProfiles are the seccomp profiles of user services.
	applicationProfiles = []string{"default", "jit"}
	// reserved are the sandbox's own directories: no code is mounted there.
	reserved = []string{"/proc", "/dev", "/tmp", "/run", "/sys"}
	// unseen are the host's directories of which no code gets anything.
	unseen = []string{"/proc", "/sys", "/dev", "/run"}
	// usual are where programs and libraries lie besides binary_paths.
	usual = []string{"/usr/local/lib", "/usr/lib", "/usr/share", "/lib64", "/etc", "/nix/store"}
)

func below(p string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return p == d || strings.HasPrefix(p, d+"/") })
}

func plainPath(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && p != "/" && len(p) < unix.PathMax && !strings.ContainsRune(p, 0)
}

// checkCode believes nothing of what solo-fs found out: it may be in the hands of a
// program that it read. artifact is the digest of the code, if it is one.
func (k *Kernel) checkCode(c *controlv1.Code, artifact string) (manifest.Code, error) {
	out := manifest.Code{
		Runtime: c.GetRuntime(), Digest: artifact, Program: c.GetProgram(), Argv: c.GetArgv(), File: c.GetFile(), Env: c.GetEnv(),
		Profile: c.GetSeccompProfile(), StartupTimeoutMs: c.GetStartupTimeoutMs(),
	}
	if artifact == "" {
		out.Digest = c.GetDigest()
	}
	words, size := slices.Concat([]string{out.Runtime}, out.Argv, out.Env), 0
	for _, w := range words {
		size += len(w) + 1
		if strings.ContainsRune(w, 0) {
			return out, errors.New("code with a NUL byte")
		}
	}
	inside := func(p string) bool { return plainPath(p) && !below(p, reserved...) }
	switch {
	case !slices.Contains(applicationProfiles, out.Profile):
		return out, fmt.Errorf("code with the profile %.80q", out.Profile)
	case manifest.CheckDigest(out.Digest) != "":
		return out, fmt.Errorf("code with the digest %.80q", out.Digest)
	case out.Runtime == "" || len(out.Runtime) > 64 || len(out.Argv) == 0 || len(words) > maxCodeWords || size > maxCodeBytes || out.StartupTimeoutMs > maxStartupMs:
		return out, errors.New("code beyond the limits")
	case !inside(out.Program) || out.File != "" && !inside(out.File):
		return out, fmt.Errorf("code at %.80q, %.80q", out.Program, out.File)
	case len(c.GetMounts()) > maxCodeMounts:
		return out, fmt.Errorf("code with %d mounts", len(c.GetMounts()))
	}
	for _, m := range c.GetMounts() {
		mount := manifest.Mount{Source: m.GetSource(), Target: m.GetTarget(), Directory: m.GetDirectory(), Artifact: m.GetArtifact()}
		ok := plainPath(mount.Source) && !below(mount.Source, unseen...) && !below(mount.Source, k.boot.GetStateDir(), k.boot.GetRunDir())
		if mount.Artifact {
			ok = artifact != "" && mount.Source == "" && !mount.Directory
		}
		if !ok || !inside(mount.Target) {
			return out, fmt.Errorf("code with the mount %.200q at %.200q", mount.Source, mount.Target)
		}
		out.Mounts = append(out.Mounts, mount)
	}
	return out, nil
}

// mount says how a lease gets one mount of a plan.
func (s *service) mount(m manifest.Mount) sandbox.Mount {
	digest, library := s.plan.Code.Digest, s.k.code
	out := sandbox.Mount{Target: m.Target, Directory: m.Directory, Open: func() (*os.File, error) { return openHost(m.Source) }}
	switch {
	case s.role != nil:
		out.Open = func() (*os.File, error) { return openPath(m.Source) }
	case m.Artifact:
		out.Open = func() (*os.File, error) { return library.OpenArtifact(digest) }
	}
	return out
}

// openPath opens what the kernel itself names, to be mounted.
func openPath(p string) (*os.File, error) {
	fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, err)
	}
	return os.NewFile(uintptr(fd), p), nil
}

// openHost opens a file or directory of the host that solo-fs named, to be mounted:
// step by step and following no link, and only what any user of the host could read,
// since root's own rights answer for nobody here.
func openHost(p string) (*os.File, error) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	names := strings.Split(p[1:], "/")
	var st unix.Stat_t
	for i := 0; err == nil && i < len(names); i++ {
		var next int
		next, err = unix.Openat2(fd, names[i], &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil {
			break
		}
		_ = unix.Close(fd)
		fd = next
		if err = unix.Fstat(fd, &st); err != nil {
			break
		}
		need, directory := uint32(0o004), st.Mode&unix.S_IFMT == unix.S_IFDIR
		if i < len(names)-1 {
			need = 0o001
		} else if directory {
			need = 0o005
		}
		switch {
		case i < len(names)-1 && !directory:
			err = unix.ENOTDIR
		case st.Mode&need != need:
			err = unix.EACCES
		}
	}
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("open %s as others may: %w", p, err)
	}
	return os.NewFile(uintptr(fd), p), nil
}

// hostFilesystems are what solo-fs sees of the host: the root's file system, and those
// on the way to where programs and libraries lie.
func hostFilesystems(binaryPaths []string) []*controlv1.HostMount {
	found := map[string]bool{"/": true}
	for _, p := range slices.Concat(binaryPaths, usual) {
		real, err := filepath.EvalSymlinks(p)
		if err != nil || !plainPath(real) || below(real, unseen...) {
			continue
		}
		for dir := real; dir != "/"; dir = path.Dir(dir) {
			var at, above unix.Stat_t
			if unix.Stat(dir, &at) == nil && unix.Stat(path.Dir(dir), &above) == nil && at.Mode&unix.S_IFMT == unix.S_IFDIR && at.Dev != above.Dev {
				found[dir] = true
			}
		}
	}
	var out []*controlv1.HostMount
	for dir := range found {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil {
			out = append(out, &controlv1.HostMount{Path: dir, Noexec: fs.Flags&unix.ST_NOEXEC != 0})
		}
	}
	slices.SortFunc(out, func(a, b *controlv1.HostMount) int { return strings.Compare(a.GetPath(), b.GetPath()) })
	return out
}

// hostMounts shows them to solo-fs. Its host ids own nothing there.
func hostMounts(k *Kernel) []sandbox.Mount {
	var out []sandbox.Mount
	for _, m := range hostFilesystems(k.files.binaryPaths) {
		out = append(out, sandbox.Mount{
			Target: path.Join("/host", m.GetPath()), Directory: true, NoExec: true,
			Open: func() (*os.File, error) { return openPath(m.GetPath()) },
		})
	}
	return out
}
