package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// empty is a health check over a Unix socket: the emptiest call there is.
func empty(tb testing.TB, socket string) operation {
	tb.Helper()
	conn, err := grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}), grpc.WithNoProxy())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	client := healthpb.NewHealthClient(conn)
	return operation{do: func() {
		r, err := client.Check(tb.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			tb.Fatalf("health check over %s: %v, %v", socket, r, err)
		}
	}}
}

// statusCalls: Status beside an empty call of grpc-go to another process, and beside
// one to solo-gateway, which leaves out solo-kernel.
func statusCalls(tb testing.TB, n int) []row {
	s := sharing.get(tb)
	req := host(s.first)
	s.deploy(tb, req)
	tb.Cleanup(func() { s.forget(tb, req.GetName()) })
	s.filled(tb)
	dir, err := os.MkdirTemp("", "solo-bench-grpc-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "peer.sock")
	s.serve(tb, "grpc", socket)
	status := operation{do: func() {
		r, err := s.client.Solo.Status(tb.Context(), &solov1.StatusRequest{Service: req.GetName()})
		if err != nil || r.GetService().GetState() != "ready" {
			tb.Fatalf("status: %v, %v", r, err)
		}
	}}
	got := inTurn(n, status, empty(tb, socket), empty(tb, s.socket()))
	const against = "empty grpc-go call"
	return []row{
		{name: "Status, Unix socket", own: got[0], peer: got[1], against: against, targets: []target{{medianRatio, 1.3}, {tail, 50 * ms}}},
		{name: "health check of solo-gateway", own: got[2], peer: got[1], against: against},
	}
}

// once runs a manifest to its end, from the call to the end of its stream.
func once(tb testing.TB, s *solo, manifest func() *solov1.DeployRequest, want string) operation {
	return operation{
		prepare: func() { s.filled(tb) },
		do: func() {
			ctx, cancel := s.context(tb)
			defer cancel()
			stream, err := s.client.Lifecycle.Run(ctx)
			if err != nil {
				tb.Fatal(err)
			}
			for _, m := range []*solov1.RunRequest{
				{Item: &solov1.RunRequest_Start{Start: &solov1.RunStart{Manifest: manifest()}}},
				{Item: &solov1.RunRequest_CloseStdin{CloseStdin: true}},
			} {
				if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
					tb.Fatal(err) // io.EOF: Recv says what is wrong
				}
			}
			var out, reason string
			for {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					tb.Fatalf("run: %v", err)
				}
				out += string(m.GetStdout()) + string(m.GetStderr())
				if exit := m.GetExit(); exit != nil {
					reason = exit.GetReason()
				}
			}
			if out != want || reason != "exit:0" {
				tb.Fatalf("the run said %q and ended by %q", out, reason)
			}
		},
	}
}

// plain runs a program outside any sandbox.
func plain(tb testing.TB, want, path string, args ...string) operation {
	return operation{do: func() {
		if out, err := exec.Command(path, args...).CombinedOutput(); err != nil || string(out) != want {
			tb.Fatalf("%s: %q, %v", path, out, err)
		}
	}}
}

// runs: one-shot runs of a small program and of a script, beside the same without a
// sandbox.
func runs(tb testing.TB, n int) []row {
	testenv.Require(tb, testenv.Python)
	const code, hello = "print('hello')", "hello\n"
	s := sharing.get(tb)
	unnamed := func(m *solov1.DeployRequest) *solov1.DeployRequest {
		m.Name, m.Wait = "", false
		return m
	}
	quick := func() *solov1.DeployRequest { return unnamed(host("/bin/true")) }
	script := func() *solov1.DeployRequest {
		m := unnamed(host(""))
		m.Code = &solov1.DeployRequest_Source{Source: &solov1.Source{File: "hello.py", Code: code}}
		return m
	}
	got := inTurn(n,
		once(tb, s, quick, ""), plain(tb, "", "/bin/true"),
		once(tb, s, script, hello), plain(tb, hello, "/usr/bin/python3", "-c", code))
	const against = "fork, exec, wait"
	return []row{
		{name: "run /bin/true", own: got[0], peer: got[1], against: against},
		{name: "run a Python hello", own: got[2], peer: got[3], against: against},
	}
}
