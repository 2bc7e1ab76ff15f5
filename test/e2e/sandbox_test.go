package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// sight is what test/victim sees of itself; its fields are those of inspect.
type sight struct {
	UID, GID   int
	Groups     []int
	Args, Env  []string
	Dir        string
	Pids       []int
	Root, Dev  []string
	Files      map[string]string
	Interfaces []string
	Status     map[string]string
	Mounts     []string
	Limits     map[string]string
	Host       string
}

var sizes = regexp.MustCompile(`,(size|nr_inodes)=\w+`)

// steady leaves out what differs from one sandbox or host to the next.
func (s *sight) steady() {
	for fd, target := range s.Files {
		s.Files[fd] = plain(target)
	}
	for i, m := range s.Mounts {
		// Source, target, type, options and two zeroes.
		if f := strings.Fields(m); len(f) == 6 {
			options := strings.Split(sizes.ReplaceAllString(f[3], ""), ",")
			if f[2] != "tmpfs" && f[2] != "proc" { // the host's own file system
				f[2] = "host"
				options = slices.DeleteFunc(options, func(o string) bool { return !slices.Contains([]string{"ro", "rw", "nosuid", "nodev", "noexec"}, o) })
			}
			options = slices.DeleteFunc(options, func(o string) bool {
				return strings.HasPrefix(o, "uid=") || strings.HasPrefix(o, "gid=") || o == "inode64"
			})
			s.Mounts[i] = f[1] + " " + f[2] + " " + strings.Join(options, ",")
		}
	}
	slices.Sort(s.Mounts)
	slices.Sort(s.Env)
	// The Go runtime of the victim opens these, or not.
	for fd, target := range s.Files {
		if strings.HasPrefix(target, "anon_inode:[event") || strings.HasPrefix(target, "anon_inode:[]") {
			delete(s.Files, fd)
		}
	}
}

// TestWhatAServiceSees compares it whole: nothing may be added unseen.
func TestWhatAServiceSees(t *testing.T) {
	x := shared(t)
	req := x.victim("inspect , sleep 1h")
	req.Env = map[string]string{"GREETING": "hi"}
	req.Files = []*solov1.File{{Path: "/etc/app/a.conf", Content: []byte("a")}}
	name := x.deploy(req)
	var got sight
	x.said(name, &got)
	host := got.Host
	got.steady()
	none := "0000000000000000"
	want := sight{
		UID: 1000, GID: 1000, Groups: []int{},
		Args: []string{got.Args[0], "inspect", ",", "sleep", "1h"},
		Env: []string{
			"GREETING=hi", "HOME=/tmp", "LANG=C.UTF-8", "NOTIFY_SOCKET=/run/notify",
			"PATH=/usr/local/bin:/usr/bin:/bin", "SOLO_CONTROL=3", "TMPDIR=/tmp",
		},
		Dir: "/tmp", Pids: got.Pids, Host: host,
		Root: []string{"app", "bin", "data", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "tmp", "usr", "var"},
		Dev:  []string{"fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"},
		Files: map[string]string{
			"0": "/dev/null", "1": "pipe:[]", "2": "pipe:[]", "3": "socket:[]",
		},
		Interfaces: []string{"lo"},
		Status: map[string]string{
			"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
			"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "2",
		},
		Mounts: []string{
			"/ tmpfs ro,nosuid,nodev,relatime,mode=755",
			"/app/program host ro,nosuid,nodev",
			"/dev tmpfs ro,nosuid,noexec,relatime,mode=755",
			"/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime",
			"/proc proc rw,nosuid,nodev,noexec,relatime",
			"/proc proc rw,nosuid,nodev,noexec,relatime,subset=pid",
			"/tmp tmpfs rw,nosuid,nodev,noexec,relatime",
		},
		Limits: map[string]string{
			"Max open files": "1024 1024", "Max core file size": "0 0", "Max locked memory": got.Limits["Max locked memory"],
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("a service sees (-want +got):\n%s", diff)
	}
	// solo-init and the service itself: not even the host's other processes' numbers.
	if len(got.Pids) == 0 || slices.ContainsFunc(got.Pids, func(pid int) bool { return pid > 9 }) {
		t.Errorf("it sees the processes %v", got.Pids)
	}
	if filepath.Base(got.Args[0]) != got.Args[0] && !strings.HasPrefix(got.Args[0], "/") {
		t.Errorf("argv[0] is %q", got.Args[0])
	}
}

// TestForbidden: the victim tries what no service may do. On the host without a
// sandbox most of it is allowed to root.
func TestForbidden(t *testing.T) {
	x := shared(t)
	req := x.victim("attempt , sleep 1h")
	name := x.deploy(req)
	var got map[string]string
	x.said(name, &got)
	if len(got) < 50 {
		t.Fatalf("only %d attempts were made", len(got))
	}
	for what, how := range got {
		switch how {
		case "EPERM", "EACCES", "EROFS", "ENOENT", "ENOSYS", "SIGSYS", "EAFNOSUPPORT":
		default:
			t.Errorf("%s: %s", what, how)
		}
	}
	deadly := []string{"reboot", "kexec_load", "init_module", "swapon", "32 bit", "x32"}
	for _, what := range deadly {
		if got[what] != "SIGSYS" {
			t.Errorf("%s: %s, not SIGSYS", what, got[what])
		}
	}
	if s := x.status(name); s.GetState() != "ready" || s.GetRestarts() != 0 {
		t.Errorf("the attempts ended the service: %v", s)
	}
}

// TestNetworkIsEmpty: a service reaches neither the host's loopback nor its abstract
// Unix sockets, nor another service.
func TestNetworkIsEmpty(t *testing.T) {
	x := shared(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	abstract := "@solo-e2e-" + x.name()
	unixListener, err := net.Listen("unix", abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unixListener.Close() }()
	x.deploy(x.victim("listen 7001 , sleep 1h"))
	for _, addr := range []string{
		listener.Addr().String(), abstract, "127.0.0.1:7001", "10.0.0.1:80", "[::1]:7001", x.run + "/api.sock",
	} {
		// Each by a service of its own: what dial prints is its first line.
		name := x.deploy(x.victim("dial " + addr + " , sleep 1h"))
		var got struct{ Dial, Result string }
		x.said(name, &got)
		if !slices.Contains([]string{"ECONNREFUSED", "ENETUNREACH", "EPERM", "EACCES", "ENOENT", "EADDRNOTAVAIL"}, got.Result) {
			t.Errorf("dial %s: %s", addr, got.Result)
		}
	}
	// Its own loopback works: the refusals above are not of a broken network.
	name := x.deploy(x.victim("listen 7002 , dial 127.0.0.1:7002 , sleep 1h"))
	var got struct{ Dial, Result string }
	if x.said(name, &got); got.Result != "ALLOWED" {
		t.Errorf("dial its own port: %s", got.Result)
	}
}

// TestSeparate: two services do not see each other's files, processes or ids.
func TestSeparate(t *testing.T) {
	x := shared(t)
	one := x.deploy(x.victim("write /tmp/secret , inspect , sleep 1h"))
	two := x.deploy(x.victim("read /tmp/secret , sleep 1h")) // ends, and again
	var first sight
	x.said(one, &first)
	x.await(two, "an end", func(s *solov1.ServiceStatus) bool {
		return s.GetReason() == "exit:1" || s.GetReason() == "restart_intensity"
	})
	three := x.deploy(x.victim("inspect , sleep 1h"))
	var second sight
	x.said(three, &second)
	if first.Host == second.Host {
		t.Errorf("both are on host %q", first.Host)
	}
	uid := func(pid int) string {
		data := groupFile(t, fmt.Sprintf("/proc/%d", pid), "uid_map")
		return strings.Fields(data)[1]
	}
	if a, b := uid(x.pid(one)), uid(x.pid(three)); a == b || a == "0" || b == "0" {
		t.Errorf("the host's ids of two services begin at %s and %s", a, b)
	}
}

// TestDynamicPrograms runs dynamic programs, whose libraries Solo finds.
func TestDynamicPrograms(t *testing.T) {
	x := shared(t)
	for _, test := range []struct {
		path string
		args []string
		want string
	}{
		{"/usr/bin/id", []string{"-u"}, "1000"},
		{"/usr/bin/uname", nil, "Linux"},
		{"/usr/bin/cat", []string{"/etc/given"}, "given"},
	} {
		t.Run(filepath.Base(test.path), func(t *testing.T) {
			x := x.on(t)
			req := host(test.path, test.args...)
			req.Restart = "temporary"
			req.Files = []*solov1.File{{Path: "/etc/given", Content: []byte("given\n")}}
			x.generous(req)
			r, err := x.try(req)
			if err != nil {
				t.Fatal(err)
			}
			x.awaitState(req.GetName(), "finished", "exit:0")
			if got := x.awaitLog(req.GetName(), test.want); got != test.want {
				t.Errorf("%s said %q; deploy answered %v", test.path, got, r)
			}
		})
	}
}

// TestArgumentsAndEnvironment pass through unchanged, whatever is in them.
func TestArgumentsAndEnvironment(t *testing.T) {
	x := shared(t)
	req := x.victim("")
	odd := []string{"inspect", ",", "print", "a b\t'c' \"d\" $HOME \\ é\n—end", ",", "sleep", "1h"}
	req.GetBinary().Args = odd
	req.Env = map[string]string{"ODD": "x=y z\n$PATH", "EMPTY": "", "PATH": "/nowhere"}
	name := x.deploy(req)
	var got sight
	x.said(name, &got)
	if diff := cmp.Diff(odd, got.Args[1:]); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	for _, kv := range []string{"ODD=x=y z\n$PATH", "EMPTY=", "PATH=/nowhere"} {
		if !slices.Contains(got.Env, kv) {
			text, _ := json.Marshal(got.Env)
			t.Errorf("%q is not in the environment %s", kv, text)
		}
	}
}
