package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// machine is one VM, used for one boot.
type machine struct {
	kernel, initramfs, disk string
	log                     string // everything the console said
	timeout                 time.Duration
	verbose                 bool
	out                     io.Writer // what people read
}

// exitOK is qemu's status when test/vm/init wrote 0x10 to isa-debug-exit.
const exitOK = 0x10<<1 | 1

// boot runs the machine and fails unless every test in names was reported ok. It
// blocks for at most the machine's timeout.
func (m machine) boot(ctx context.Context, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	log, err := os.Create(m.log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()

	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536",
		"-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", m.kernel, "-initrd", m.initramfs,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off",
		"-drive", "file="+m.disk+",if=virtio,format=raw,cache=unsafe",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=1")
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = 5 * time.Second
	console, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r := newReport(m.out, m.verbose)
	scanErr := r.read(io.TeeReader(console, log))
	waitErr := cmd.Wait()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("hung in %s: ended after %v; its console is in %s", r.where(), m.timeout, m.log)
	case ctx.Err() != nil:
		return fmt.Errorf("stopped in %s: %w", r.where(), context.Cause(ctx))
	}
	var exit *exec.ExitError
	if !errors.As(waitErr, &exit) || exit.ExitCode() != exitOK {
		err = fmt.Errorf("qemu: %w; its console is in %s", errors.Join(errors.New("the VM did not report success"), waitErr), m.log)
	}
	return errors.Join(r.check(names), scanErr, err)
}

// report follows the console by the lines that test/vm/init frames it with.
type report struct {
	out     io.Writer
	verbose bool
	current string
	ended   bool
	results map[string]result
	skipped int
}

type result struct{ verdict, seconds string }

func newReport(out io.Writer, verbose bool) *report {
	return &report{out: out, verbose: verbose, results: make(map[string]result)}
}

func (r *report) read(console io.Reader) error {
	s := bufio.NewScanner(console)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		r.line(strings.TrimRight(s.Text(), "\r"))
	}
	return s.Err()
}

func (r *report) line(line string) {
	// The firmware and the kernel may leave something before the first line.
	if _, after, ok := strings.Cut(line, "@@ "); ok {
		r.event(strings.Fields(after), after)
		return
	}
	if r.verbose || !strings.HasPrefix(line, "=== ") {
		r.print("%s", line)
	}
	if strings.HasPrefix(strings.TrimSpace(line), "--- SKIP") {
		r.skipped++
	}
}

func (r *report) event(words []string, line string) {
	switch {
	case len(words) == 2 && words[0] == "run":
		r.current, r.skipped = words[1], 0
	case len(words) == 4 && words[0] == "done":
		r.results[words[1]] = result{verdict: words[2], seconds: words[3]}
		r.print("vm: %-6s %s (%ss, %d skipped)", words[2], words[1], words[3], r.skipped)
		r.current = ""
	case len(words) == 1 && words[0] == "end":
		r.ended = true
	default:
		r.print("vm: %s", line)
	}
}

func (r *report) print(format string, args ...any) {
	_, _ = fmt.Fprintf(r.out, format+"\n", args...)
}

// where says what ran last.
func (r *report) where() string {
	switch {
	case r.current != "":
		return r.current
	case r.ended:
		return "the end"
	default:
		return "its boot"
	}
}

// check compares what was reported with what was to run.
func (r *report) check(names []string) error {
	var errs []error
	for _, name := range names {
		switch got, ok := r.results[name]; {
		case !ok:
			errs = append(errs, fmt.Errorf("%s did not run to its end", name))
		case got.verdict != "ok":
			errs = append(errs, fmt.Errorf("%s %s", name, got.verdict))
		}
	}
	if !r.ended {
		errs = append(errs, errors.New("the VM's init did not reach its end"))
	}
	return errors.Join(errs...)
}
