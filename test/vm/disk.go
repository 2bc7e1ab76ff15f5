package main

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// diskSize is that of the VM's only file system; the image is sparse.
const diskSize = "2G"

// hostPrograms are copied from this host, with the libraries they need: what
// manifests in the tests name, and what a shell script expects to find.
var hostPrograms = []string{
	"sh", "cat", "echo", "sleep", "true", "false", "env", "id", "head", "tail", "yes",
	"dd", "ls", "mkdir", "rm", "seq", "sha256sum", "tr", "wc", "date", "grep", "sed",
	"sort", "uname", "python3", "python3.11", "python3.12", "python3.13", "redis-server", "redis-cli", "mkfs.ext4", "stat", "kill",
}

// hostTrees are patterns of directories that are copied whole.
var hostTrees = []string{"/usr/lib/python3.[0-9]*"}

// tree is a directory that becomes the VM's disk.
type tree struct{ dir string }

// newTree makes dir anew, with a host's usual directories and the merged /usr that
// the libraries' paths rely on.
func newTree(dir string) (*tree, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	for _, d := range []string{
		"dev", "etc", "proc", "sys", "run", "root", "tmp", "usr/bin", "usr/sbin",
		"usr/lib", "usr/lib64", "var/lib/solo", "var/tmp", "opt", "test", "src",
	} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(filepath.Join(dir, d), 0o777|fs.ModeSticky); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+d, filepath.Join(dir, d)); err != nil {
			return nil, err
		}
	}
	t := &tree{dir: dir}
	for name, text := range map[string]string{
		"etc/passwd":   "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
		"etc/group":    "root:x:0:\nnogroup:x:65534:\n",
		"etc/hosts":    "127.0.0.1 localhost\n::1 localhost\n",
		"etc/hostname": "solo-vm\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// addHost copies the host's programs and trees that exist.
func (t *tree) addHost() error {
	for _, name := range hostPrograms {
		for _, dir := range []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				continue
			}
			if err := t.addProgram(filepath.Join(dir, name)); err != nil {
				return err
			}
			break
		}
	}
	var trees []string
	for _, pattern := range hostTrees {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		trees = append(trees, found...)
	}
	for _, dir := range trees {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && slices.Contains([]string{"__pycache__", "test", "idlelib", "tkinter"}, d.Name()):
				return fs.SkipDir
			case d.IsDir():
				return nil
			case strings.HasSuffix(path, ".so"):
				return t.addProgram(path)
			}
			return t.addFile(path, path)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// libraryDirs are searched as ld.so(8) would on Debian.
var libraryDirs = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/lib", "/usr/lib",
}

// addProgram copies an ELF file of the host to the same path, and what it needs.
func (t *tree) addProgram(path string) error {
	if _, err := os.Lstat(filepath.Join(t.dir, path)); err == nil {
		return nil
	}
	if err := t.addFile(path, path); err != nil {
		return err
	}
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(p.Open())
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		interp := string(bytes.TrimRight(name, "\x00"))
		if err := t.addFile(interp, interp); err != nil {
			return err
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, lib := range libs {
		if err := t.addLibrary(lib); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (t *tree) addLibrary(name string) error {
	for _, dir := range libraryDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return t.addProgram(path)
		}
	}
	return fmt.Errorf("library %s is not on this host", name)
}

// addFile copies one file; a symbolic link becomes what it points to.
func (t *tree) addFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	to = filepath.Join(t.dir, to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return out.Close()
}

// addDir copies the directory from, if it exists.
func (t *tree) addDir(from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return t.addFile(path, filepath.Join(to, rel))
	})
}

// addJSON writes a value for the VM's init.
func (t *tree) addJSON(name string, value any) error {
	data, err := json.MarshalIndent(value, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(t.dir, name), data, 0o644)
}

// image makes the file system of the tree's content.
func (t *tree) image(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return command("", mkfs(), "-q", "-F", "-d", t.dir, "-L", "solo-vm", "-m", "0",
		"-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1", path, diskSize)
}

// mkfs is often outside an ordinary user's PATH.
func mkfs() string {
	if path, err := exec.LookPath("mkfs.ext4"); err == nil {
		return path
	}
	return "/usr/sbin/mkfs.ext4"
}

// writeInitramfs makes an initramfs of the init program and the modules in order.
func writeInitramfs(path, init string, modules []string) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	zip, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	a := &archive{w: zip}
	a.entry("dev", modeDir|0o755, nil, 0, 0)
	a.entry("dev/console", modeChar|0o600, nil, 5, 1)
	a.entry("modules", modeDir|0o755, nil, 0, 0)
	a.entry("init", modeFile|0o755, program, 0, 0)
	var order strings.Builder
	for _, m := range modules {
		data, err := os.ReadFile(m)
		if err != nil {
			return err
		}
		fmt.Fprintln(&order, filepath.Base(m))
		a.entry("modules/"+filepath.Base(m), modeFile|0o644, data, 0, 0)
	}
	a.entry("modules/order", modeFile|0o644, []byte(order.String()), 0, 0)
	if err := a.close(); err != nil {
		return err
	}
	return zip.Close()
}
