// Command vm runs tests on cgroup v2 and Debian's Linux 6.1, in qemu without
// hardware acceleration, whatever the host has.
//
//	go run ./test/vm [-bin DIR] [-timeout D] [-run REGEXP] PACKAGE...
//
// It downloads the kernel once (apt-get download), builds each package's tests
// statically, puts them with Solo's programs and some of the host's on an ext4 disk,
// and boots that with test/vm/init as pid 1. All tests run in one boot, each binary
// in /src/PACKAGE with that package's testdata. They see SOLO_VM=1.
//
// It ends with 0 only if every binary ran at least one test, said PASS and left no
// process, and the VM ended by itself in time. Two runs with one -work directory
// follow one another.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`directory` of Solo's programs, copied to /solo/bin")
	flag.StringVar(&o.work, "work", "build/vm", "`directory` for kernel, disk and log")
	flag.StringVar(&o.run, "run", ".", "run only the tests that match `regexp`")
	flag.StringVar(&o.skip, "skip", "", "skip the tests that match `regexp`")
	flag.DurationVar(&o.timeout, "timeout", 7*time.Minute, "end the VM after this `long`")
	flag.BoolVar(&o.verbose, "v", false, "print the tests' names as they run")
	flag.Parse()
	o.packages, o.out = flag.Args(), os.Stdout
	start := time.Now()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "vm: FAIL: %v\n", err)
		os.Exit(1)
	}
	fmt.Printf("vm: ok (%.0fs)\n", time.Since(start).Seconds())
}

type options struct {
	bin, work, run, skip string
	timeout              time.Duration
	verbose              bool
	packages             []string
	out                  io.Writer
	// cache holds the unpacked kernel; work if it is empty.
	cache string
	// bare leaves out the host's programs.
	bare bool
}

// plan is what test/vm/init reads from /plan.json.
type plan struct {
	// Limit is when the VM gives up by itself, should nobody watch it any more.
	Limit time.Duration
	Env   []string
	Tests []test
}

type test struct {
	Name, Path string
	Args       []string
	Dir        string
}

func run(ctx context.Context, o options) error {
	if len(o.packages) == 0 {
		return errors.New("name the packages to test")
	}
	work, err := filepath.Abs(o.work)
	if err != nil {
		return err
	}
	o.work = work
	if err := os.MkdirAll(o.work, 0o755); err != nil {
		return err
	}
	unlock, err := lock(o)
	if err != nil {
		return err
	}
	defer unlock()
	if o.cache == "" {
		o.cache = o.work
	}
	k, err := fetchKernel(o.cache)
	if err != nil {
		return err
	}
	disk, names, err := makeDisk(o)
	if err != nil {
		return err
	}
	initramfs, err := makeInitramfs(o, k)
	if err != nil {
		return err
	}
	vm := machine{
		kernel: k.image, initramfs: initramfs, disk: disk,
		log: filepath.Join(o.work, "console.log"), timeout: o.timeout, verbose: o.verbose, out: o.out,
	}
	return vm.boot(ctx, names)
}

// lock waits until no other run uses the work directory.
func lock(o options) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(o.work, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		_, _ = fmt.Fprintf(o.out, "vm: another run uses %s: waiting for its end\n", o.work)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", o.work, err)
	}
	return func() { _ = f.Close() }, nil
}

func makeDisk(o options) (string, []string, error) {
	t, err := newTree(filepath.Join(o.work, "root"))
	if err != nil {
		return "", nil, err
	}
	if !o.bare {
		if err := t.addHost(); err != nil {
			return "", nil, err
		}
	}
	if err := t.addDir(o.bin, "/solo/bin"); err != nil {
		return "", nil, err
	}
	p := plan{Limit: o.timeout, Env: []string{
		"PATH=/solo/bin:/usr/sbin:/usr/bin", "HOME=/root", "TMPDIR=/tmp", "LANG=C.UTF-8",
		"SOLO_VM=1", "SOLO_BIN=/solo/bin",
		"SOLO_REQUIRE=root,cgroup,cgroup2,userns,seccomp,landlock,python,redis",
	}}
	var names []string
	for _, pkg := range o.packages {
		name := strings.TrimPrefix(filepath.Clean(pkg), "./")
		binary := "/test/" + strings.ReplaceAll(name, "/", "-")
		if err := buildTest(pkg, filepath.Join(t.dir, binary)); err != nil {
			return "", nil, err
		}
		dir := "/src/" + name
		if err := os.MkdirAll(filepath.Join(t.dir, dir), 0o755); err != nil {
			return "", nil, err
		}
		if err := t.addDir(filepath.Join(pkg, "testdata"), dir+"/testdata"); err != nil {
			return "", nil, err
		}
		p.Tests = append(p.Tests, test{
			Name: name, Path: binary, Dir: dir,
			Args: []string{
				"-test.v", "-test.count=1", "-test.run=" + o.run, "-test.skip=" + o.skip,
				"-test.timeout=" + (o.timeout - 30*time.Second).String(),
			},
		})
		names = append(names, name)
	}
	if err := t.addJSON("plan.json", p); err != nil {
		return "", nil, err
	}
	image := filepath.Join(o.work, "disk.img")
	return image, names, t.image(image)
}

// buildTest builds a package's tests as one static program.
func buildTest(pkg, to string) error {
	cmd := exec.Command("go", "test", "-c", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go test -c %s: %w", pkg, err)
	}
	if _, err := os.Stat(to); err != nil {
		return fmt.Errorf("%s has no tests: %w", pkg, err)
	}
	return nil
}

func makeInitramfs(o options, k *kernel) (string, error) {
	modules, err := k.moduleOrder("virtio_pci", "virtio_blk", "crc32c_generic?", "ext4", "loop")
	if err != nil {
		return "", err
	}
	program := filepath.Join(o.work, "init")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "github.com/solo-os/solo/test/vm/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go build test/vm/init: %w", err)
	}
	path := filepath.Join(o.work, "initramfs.gz")
	return path, writeInitramfs(path, program, modules)
}

// command runs a program of the host; its output is part of the error.
func command(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}
