package main

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// metapackage depends on Debian's newest kernel for clouds: Linux 6.1 on Debian 12.
const metapackage = "linux-image-cloud-amd64"

// kernel is an unpacked kernel package.
type kernel struct {
	release string
	image   string // the bzImage
	modules string // its directory of modules
}

// fetchKernel downloads and unpacks the kernel below dir, once.
func fetchKernel(dir string) (*kernel, error) {
	unpacked := filepath.Join(dir, "kernel")
	if k, err := findKernel(unpacked); err == nil {
		return k, nil
	}
	name, err := kernelPackage()
	if err != nil {
		return nil, err
	}
	fmt.Printf("vm: downloading %s\n", name)
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := command(tmp, "apt-get", "-qq", "-o", "APT::Sandbox::User=", "download", name); err != nil {
		return nil, err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return nil, fmt.Errorf("apt-get download %s: %d packages", name, len(debs))
	}
	// Unpacked beside and renamed, so that an interrupted run leaves nothing half done.
	fresh := filepath.Join(tmp, "kernel")
	if err := command(tmp, "dpkg", "-x", debs[0], fresh); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(unpacked); err != nil {
		return nil, err
	}
	if err := os.Rename(fresh, unpacked); err != nil {
		return nil, err
	}
	return findKernel(unpacked)
}

// kernelPackage is the package that metapackage stands for.
func kernelPackage() (string, error) {
	for try := 0; ; try++ {
		out, err := exec.Command("apt-cache", "depends", metapackage).Output()
		if err == nil {
			for line := range strings.Lines(string(out)) {
				if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok {
					return name, nil
				}
			}
		}
		if try > 0 {
			if err == nil {
				err = errors.New("it names no package")
			}
			return "", fmt.Errorf("apt-cache depends %s: %w", metapackage, err)
		}
		// A fresh machine may have no package lists at all.
		if err := command("", "apt-get", "-qq", "update"); err != nil {
			return "", err
		}
	}
}

func findKernel(unpacked string) (*kernel, error) {
	images, err := filepath.Glob(filepath.Join(unpacked, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%s: %d kernels", unpacked, len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	for _, lib := range []string{"lib", "usr/lib"} {
		modules := filepath.Join(unpacked, lib, "modules", release)
		if _, err := os.Stat(modules); err == nil {
			return &kernel{release: release, image: images[0], modules: modules}, nil
		}
	}
	return nil, fmt.Errorf("%s: no modules of %s", unpacked, release)
}

// moduleOrder lists the files of the wanted modules and of all they depend on,
// dependencies first. Modules built into the kernel need no file; one whose name
// ends with a question mark may be unknown.
func (k *kernel) moduleOrder(wanted ...string) ([]string, error) {
	files, err := k.moduleFiles()
	if err != nil {
		return nil, err
	}
	builtin, err := k.builtin()
	if err != nil {
		return nil, err
	}
	order, err := sortModules(wanted, files, builtin, dependencies)
	if err != nil {
		return nil, fmt.Errorf("modules of Linux %s: %w", k.release, err)
	}
	return order, nil
}

// sortModules is moduleOrder for modules whose files and dependencies are known.
func sortModules(wanted []string, files map[string]string, builtin map[string]bool, depends func(file string) ([]string, error)) ([]string, error) {
	var order []string
	done := make(map[string]bool)
	var add func(name string) error
	add = func(name string) error {
		name, optional := strings.CutSuffix(name, "?")
		if done[name] || builtin[name] {
			return nil
		}
		file, ok := files[name]
		switch {
		case !ok && optional:
			return nil
		case !ok:
			return fmt.Errorf("no module %s", name)
		}
		done[name] = true
		names, err := depends(file)
		if err != nil {
			return err
		}
		for _, d := range names {
			if err := add(d); err != nil {
				return err
			}
		}
		order = append(order, file)
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func (k *kernel) moduleFiles() (map[string]string, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(k.modules, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := moduleName(path); ok {
			files[name] = path
		}
		return err
	})
	return files, err
}

func (k *kernel) builtin() (map[string]bool, error) {
	data, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	names := make(map[string]bool)
	s := bufio.NewScanner(bytes.NewReader(data))
	for s.Scan() {
		if name, ok := moduleName(s.Text()); ok {
			names[name] = true
		}
	}
	return names, s.Err()
}

// moduleName is the name by which others depend on the module in this file.
func moduleName(path string) (string, bool) {
	name, ok := strings.CutSuffix(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_"), ok
}

// dependencies reads a module's .modinfo: null-terminated key=value pairs.
func dependencies(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	defer func() { _ = f.Close() }()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s: no .modinfo", file)
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return parseModinfo(data), nil
}

func parseModinfo(data []byte) []string {
	var names []string
	for pair := range bytes.SplitSeq(data, []byte{0}) {
		key, value, _ := strings.Cut(string(pair), "=")
		if key != "depends" {
			continue
		}
		for name := range strings.SplitSeq(value, ",") {
			if name != "" {
				names = append(names, strings.ReplaceAll(name, "-", "_"))
			}
		}
	}
	return names
}
