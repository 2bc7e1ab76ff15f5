// Command victim is the service that the tests deploy: static, and it does what its
// arguments say, one act after the other, each on a line of its own.
//
//	victim ACT [ARG] [, ACT [ARG]]…
//
// `victim ready , sleep 1h` says READY=1 and waits. `victim help` lists the acts.
// What an act found is printed as one line of JSON, so that a test can read it from
// the log.
//
// Trust: none; it is what Solo protects the host from, and it tries.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// act is one thing that victim can be told to do.
type act struct {
	arg  string // the name of its argument, if it takes one
	what string
	do   func(arg string) error
}

func acts() map[string]act {
	return map[string]act{
		"exit":     {"CODE", "exit with this code", exit},
		"signal":   {"NUMBER", "kill itself with this signal", killSelf},
		"sleep":    {"DURATION", "wait", sleep},
		"print":    {"TEXT", "print it to standard output", printLine(os.Stdout)},
		"complain": {"TEXT", "print it to standard error", printLine(os.Stderr)},
		"log":      {"N", "print N numbered lines of 100 bytes", logLines},
		"long":     {"N", "print one line of N bytes", longLine},
		"cat":      {"", "copy standard input to standard output", cat},
		"read":     {"PATH", "print a file", readFile},
		"write":    {"PATH", "write a file of 5 bytes", writeFile},
		"fill":     {"PATH", "write a file until it fails", fill},
		"memory":   {"BYTES", "take and touch this much, and keep it", memory},
		"fork":     {"N", "start N sleeping children", fork},
		"spin":     {"DURATION", "use one CPU", spin},
		"open":     {"N", "open /dev/null N times", openFiles},
		"ready":    {"", "send READY=1 to NOTIFY_SOCKET", notify("READY=1")},
		"notify":   {"TEXT", "send this to NOTIFY_SOCKET", func(s string) error { return notify(s)("") }},
		"flood":    {"TEXT", "send this to NOTIFY_SOCKET 500 times", flood},
		"greet":    {"N", "greet the kernel N times and read no answer", greet},
		"listen":   {"PORT", "answer HTTP on it from now on", listen},
		"activate": {"", "answer HTTP on the first socket of LISTEN_FDS from now on", activate},
		"stubborn": {"", "ignore SIGTERM and SIGINT from now on", stubborn},
		"inspect":  {"", "print what it sees of itself and of its sandbox", inspect},
		"attempt":  {"", "try what no service may do, and print how each ended", attempt},
		"deadly":   {"CALL", "make a system call that ends it", die},
		"dial":     {"ADDR", "connect to host:port or to @abstract", dial},
		"hello":    {"", "greet the kernel on SOLO_CONTROL, and say that it answered", hello},
		"garbage":  {"", "send what is no message on SOLO_CONTROL", garbage},
		"overlong": {"", "send a message over the limit on SOLO_CONTROL", overlong},
		"lie":      {"", "send what only another role may on SOLO_CONTROL", lie},
		"smuggle":  {"", "send descriptors on SOLO_CONTROL", smuggle},
		"orphan":   {"", "leave a sleeping grandchild in a session of its own", orphan},
	}
}

func main() {
	if len(os.Args) < 2 || os.Args[1] == "help" {
		help()
		return
	}
	table := acts()
	for part := range splitActs(os.Args[1:]) {
		a, ok := table[part[0]]
		want := 1
		if a.arg != "" {
			want = 2
		}
		if !ok || len(part) != want {
			fmt.Fprintf(os.Stderr, "victim: %q is no act with its argument; see victim help\n", part)
			os.Exit(2)
		}
		if err := a.do(part[want-1]); err != nil {
			fmt.Fprintf(os.Stderr, "victim: %s: %v\n", part[0], err)
			os.Exit(1)
		}
	}
}

// splitActs yields the acts between commas.
func splitActs(args []string) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(args) > 0 {
			n := slices.Index(args, ",")
			if n < 0 {
				n = len(args)
			}
			if n > 0 && !yield(args[:n]) {
				return
			}
			args = args[min(n+1, len(args)):]
		}
	}
}

func help() {
	var lines []string
	for name, a := range acts() {
		lines = append(lines, fmt.Sprintf("%-8s %-8s  %s", name, a.arg, a.what))
	}
	slices.Sort(lines)
	fmt.Println(strings.Join(lines, "\n"))
}

// say prints a value as one line of JSON.
func say(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

func exit(code string) error {
	n, err := strconv.Atoi(code)
	if err == nil {
		os.Exit(n)
	}
	return err
}

func killSelf(number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	sig := syscall.Signal(n)
	// Behind the back of the Go runtime, which takes some signals for its own errors:
	// an all-zero struct sigaction is SIG_DFL.
	var action [4]uintptr
	if n != int(unix.SIGKILL) {
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0); errno != 0 {
			return errno
		}
	}
	if err := unix.Kill(os.Getpid(), sig); err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	return fmt.Errorf("survived %v", sig)
}

func sleep(d string) error {
	t, err := time.ParseDuration(d)
	time.Sleep(t)
	return err
}

func printLine(f *os.File) func(string) error {
	return func(text string) error {
		_, err := fmt.Fprintln(f, text)
		return err
	}
}

func logLines(n string) error {
	count, err := strconv.Atoi(n)
	for i := range count {
		fmt.Printf("%09d %s\n", i, strings.Repeat("x", 89))
	}
	return err
}

func longLine(n string) error {
	count, err := strconv.Atoi(n)
	if err == nil {
		fmt.Println(strings.Repeat("y", count))
	}
	return err
}

func cat(string) error {
	_, err := os.Stdout.ReadFrom(os.Stdin)
	return err
}

func readFile(path string) error {
	data, err := os.ReadFile(path)
	if err == nil {
		_, err = os.Stdout.Write(data)
	}
	return err
}

func writeFile(path string) error { return os.WriteFile(path, []byte("hello"), 0o644) }

func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	var n int64
	for chunk := make([]byte, 64<<10); err == nil && n < 1<<30; {
		var w int
		w, err = f.Write(chunk)
		n += int64(w)
	}
	_ = f.Close()
	return say(map[string]any{"written": n, "error": errorText(err)})
}

// kept is what must stay reachable until the end.
var kept [][]byte

func memory(bytes string) error {
	n, err := strconv.Atoi(bytes)
	if err != nil {
		return err
	}
	// Outside Go's heap, so that exactly this much is taken.
	m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	kept = append(kept, m)
	for i := 0; i < n; i += os.Getpagesize() {
		m[i] = 1
	}
	return say(map[string]any{"memory": n})
}

// sleeper starts this program again, as a child that only sleeps.
func sleeper(attr *os.ProcAttr, args ...string) (*os.Process, error) {
	attr.Files = []*os.File{nil, os.Stdout, os.Stderr}
	return os.StartProcess("/proc/self/exe", append([]string{"victim"}, args...), attr)
}

func fork(n string) error {
	count, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	started := 0
	for ; started < count; started++ {
		if _, err = sleeper(&os.ProcAttr{Env: []string{"GOMAXPROCS=1"}}, "sleep", "1h"); err != nil {
			break
		}
	}
	return say(map[string]any{"forked": started, "error": errorText(err)})
}

func orphan(string) error {
	p, err := sleeper(&os.ProcAttr{Sys: &syscall.SysProcAttr{Setsid: true}}, "fork", "1")
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}

func spin(d string) error {
	t, err := time.ParseDuration(d)
	for end := time.Now().Add(t); time.Now().Before(end); {
	}
	return err
}

func openFiles(n string) error {
	count, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	opened := 0
	for ; opened < count; opened++ {
		if _, err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			break
		}
	}
	return say(map[string]any{"opened": opened, "error": errorText(err)})
}

func notify(text string) func(string) error {
	return func(string) error {
		c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
		if err != nil {
			return err
		}
		_, err = c.Write([]byte(text))
		_ = c.Close()
		return err
	}
}

func flood(text string) error {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for range 500 {
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
	}
	return nil
}

func listen(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err == nil {
		go serve(l)
	}
	return err
}

func activate(string) error {
	if n, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err != nil || n < 1 {
		return fmt.Errorf("LISTEN_FDS=%q", os.Getenv("LISTEN_FDS"))
	}
	l, err := net.FileListener(os.NewFile(3, "LISTEN_FDS"))
	if err == nil {
		go serve(l)
	}
	return err
}

// serve answers GET /503 with that status and everything else with 200.
func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			request := make([]byte, 4096)
			n, _ := c.Read(request)
			status := "200 OK"
			if strings.HasPrefix(string(request[:n]), "GET /503 ") {
				status = "503 Service Unavailable"
			}
			_, _ = c.Write([]byte("HTTP/1.0 " + status + "\r\nContent-Length: 7\r\nConnection: close\r\n\r\nvictim\n"))
			_ = c.Close()
		}()
	}
}

func stubborn(string) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	return nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
