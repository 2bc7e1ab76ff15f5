package launcher_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/sandbox"
	"github.com/solo-os/solo/test/testenv"
)

// hostMounts are read-only mounts of these host paths, where they exist, at the same
// places.
func hostMounts(t *testing.T, patterns ...string) []sandbox.Mount {
	t.Helper()
	var out []sandbox.Mount
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		must(t, err)
		for _, path := range found {
			st, err := os.Stat(path)
			must(t, err)
			out = append(out, sandbox.Mount{Open: func() (*os.File, error) { return os.Open(path) }, Target: path, Directory: st.IsDir()})
		}
	}
	return out
}

// TestOrdinaryPrograms: the shipped floor and default profile let them work.
func TestOrdinaryPrograms(t *testing.T) {
	k := newKernelSide(t)
	script := func(content string) []sandbox.File {
		f := memfd(t, []byte(content))
		t.Cleanup(func() { _ = f.Close() })
		return []sandbox.File{{Path: "/app/script", Mode: 0o444, Content: f}}
	}
	libraries := []string{"/usr/lib/*-linux-gnu", "/usr/lib64"}
	for _, c := range []struct {
		name, program string
		argv          []string
		mounts        []string
		script        string
		want          string
	}{
		{"dynamic binary", "/usr/bin/env", []string{"env", "echo", "hello"}, append(libraries, "/usr/bin"), "", "hello\n"},
		{"shell", "/usr/bin/sh", []string{"sh", "/app/script", "x"}, append(libraries, "/usr/bin"), `
set -e
cd /tmp
echo "$1" | tr x y > out
(sleep 0; cat out) &
wait
mkdir d && mv out d/o && ln -s o d/l && cat d/l && rm -r d
seq 3 | sort -r | head -n 1
echo "$(id -u) $(id -un) $(hostname >/dev/null && echo named)"
`, "y\ny\n3\n1000 solo named\n"},
		{"python", "/usr/bin/python3", []string{"python3", "/app/script"}, append(libraries, "/usr/lib/python3*", "/usr/bin/python3*"), `
import subprocess, sys, threading, socket, tempfile, os, select, multiprocessing, sqlite3, ssl, asyncio, mmap
out = []
t = threading.Thread(target=lambda: out.append("thread")); t.start(); t.join()
out.append(subprocess.run([sys.executable, "-c", "print('child')"], capture_output=True, text=True).stdout.strip())
s = socket.create_server(("127.0.0.1", 0))
c = socket.create_connection(s.getsockname()); p, _ = s.accept(); c.sendall(b"tcp"); out.append(p.recv(3).decode())
a, b = socket.socketpair(); a.sendall(b"pair"); out.append(b.recv(4).decode())
with tempfile.NamedTemporaryFile() as f: f.write(b"x"); f.flush(); out.append(str(os.path.getsize(f.name)))
e = select.epoll(); e.register(b, select.EPOLLIN); a.send(b"z"); out.append(str(len(e.poll(10))))
with multiprocessing.Pool(2) as pool: out.append(str(sum(pool.map(abs, [-1, -2]))))
out.append(sqlite3.connect("/tmp/db").execute("select 'sql'").fetchone()[0])
async def main(): return (await (await asyncio.create_subprocess_exec(sys.executable, "-c", "print('aio')", stdout=-1)).communicate())[0].decode().strip()
out.append(asyncio.run(main()))
m = mmap.mmap(-1, 4096); m[:2] = b"mm"; out.append(m[:2].decode())
print(" ".join(out))
`, "thread child tcp pair 1 1 3 sql aio mm\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "python" {
				testenv.Require(t, testenv.Python)
			}
			v := k.start(sandbox.Lease{
				Program: c.program, Argv: c.argv, Env: []string{"PATH=/usr/bin", "HOME=/tmp"}, Mounts: hostMounts(t, c.mounts...),
				Files: script(c.script), TmpBytes: 16 << 20,
			})
			out, exit := v.finish()
			if diff := cmp.Diff(c.want, out); diff != "" || exit.GetSiCode() != exited || exit.GetSiStatus() != 0 {
				t.Errorf("ended with %v (-want +got):\n%s", exit, diff)
			}
		})
	}
}

// TestVolume: a service writes to a volume as itself, through an id-mapped mount, and
// on the host the files belong to 1000.
func TestVolume(t *testing.T) {
	k := newKernelSide(t)
	dir, err := os.MkdirTemp(scratch, "volume-")
	must(t, err)
	must(t, os.Chown(dir, 1000, 1000))
	l := sandbox.Lease{
		Program: "/usr/bin/sh", Argv: []string{"sh", "-c", `cd /data/v && echo kept > f && stat -c "%u %g" f . && cp /usr/bin/true . && (./true || echo noexec) && touch /data/x`},
		Env: []string{"PATH=/usr/bin"}, Mounts: hostMounts(t, "/usr/bin", "/usr/lib/*-linux-gnu", "/usr/lib64"),
		Volumes: []sandbox.Volume{{Source: dir, Target: "/data/v"}},
	}
	out, exit := k.start(l).finish()
	for _, want := range []string{"1000 1000\n1000 1000\n", "noexec\n", "Read-only file system"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q: %q, ended with %v", want, out, exit)
		}
	}
	var st os.FileInfo
	if st, err = os.Stat(dir + "/f"); err != nil || owner(st) != [2]uint32{1000, 1000} {
		t.Errorf("on the host: %v, %v", st, err)
	}
}

func owner(st os.FileInfo) [2]uint32 {
	sys, _ := st.Sys().(*syscall.Stat_t)
	return [2]uint32{sys.Uid, sys.Gid}
}
