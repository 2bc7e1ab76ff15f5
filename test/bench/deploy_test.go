package bench

import (
	"context"
	"syscall"
	"testing"
	"time"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

const ms = float64(time.Millisecond)

// deploying deploys the static program and waits until it is ready: execve has
// succeeded, and the deployment is on disk with its record. startup gets the kernel's
// own figure.
func deploying(tb testing.TB, s *solo, startup *series) operation {
	var name string
	return operation{
		prepare: func() { s.filled(tb) },
		do: func() {
			req := host(s.first)
			name = req.GetName()
			r := s.deploy(tb, req)
			*startup = append(*startup, r.GetStartupMs()*ms)
		},
		clean: func() { s.forget(tb, name) },
	}
}

// besides measures deployments in turn with a peer's start of the same program.
func besides(tb testing.TB, n int, s *solo, name, against string, peer *operation, targets []target) []row {
	var startup series
	operations := []operation{deploying(tb, s, &startup)}
	if peer != nil {
		operations = append(operations, *peer)
	} else {
		against += ": peer not installed"
	}
	got := inTurn(n, operations...)
	r := row{name: name, own: got[0], against: against, targets: targets}
	if peer != nil {
		r.peer = got[1]
	}
	// The first was not counted.
	return []row{r, {name: name + ", of it in the kernel", own: startup[1:]}}
}

// deployWaiting: a blank shell waits.
func deployWaiting(tb testing.TB, n int) []row {
	s := sharing.get(tb)
	return besides(tb, n, s, "deploy, shell waiting", "bwrap", s.bubblewrap(tb), []target{{medianRatio, 0.4}, {tail, 5 * ms}})
}

// deployEmpty: no shell waits, in a solod of its own.
func deployEmpty(tb testing.TB, n int) []row {
	p := sharing.programs(tb)
	s, err := boot(testenv.Binaries(tb), p, -1)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for _, problem := range s.stop() {
			tb.Error(problem)
		}
	})
	return besides(tb, n, s, "deploy, empty pool", "runc run", p.runc(tb), []target{{medianRatio, 0.6}, {tail, 50 * ms}})
}

// watch is the client's side of a Watch.
type watch interface {
	Recv() (*solov1.WatchResponse, error)
}

// crashes: from SIGKILL of the main process to the event that says it is ready again,
// as a Watch brings it, and by the event's own time. Each crash is the first of its
// service, since later ones are held back.
func crashes(tb testing.TB, n int) []row {
	s := sharing.get(tb)
	var name string
	var pid int
	var stream watch
	var cancel context.CancelFunc
	var exited, ready series
	o := operation{
		prepare: func() {
			req := host(s.first)
			name = req.GetName()
			s.deploy(tb, req)
			s.filled(tb)
			pid = s.pid(tb, name)
			var ctx context.Context
			ctx, cancel = s.context(tb)
			var err error
			stream, err = s.client.Solo.Watch(ctx, &solov1.WatchRequest{Service: name, Kinds: []string{"event"}, Since: "start"})
			if err != nil {
				tb.Fatal(err)
			}
			awaitReady(tb, stream)
		},
		do: func() {
			killed := time.Now()
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				tb.Fatalf("kill process %d: %v", pid, err)
			}
			end, start := awaitReady(tb, stream)
			exited, ready = append(exited, float64(end.Sub(killed))), append(ready, float64(start.Sub(killed)))
		},
		clean: func() {
			cancel()
			s.forget(tb, name)
		},
	}
	got := inTurn(n, o)
	return []row{
		{name: "crash to ready, event received", own: got[0], targets: []target{{median, 3 * ms}}},
		{name: "crash to ready, event's own time", own: ready[1:]},
		{name: "crash to exited, event's own time", own: exited[1:]},
	}
}

// awaitReady reads events until the service is ready and answers when it was, and when
// the instance before had exited, by the events.
func awaitReady(tb testing.TB, stream watch) (exited, ready time.Time) {
	tb.Helper()
	for {
		m, err := stream.Recv()
		if err != nil {
			tb.Fatalf("watch: %v", err)
		}
		switch m.GetEvent().GetType() {
		case "exited":
			exited = m.GetTime().AsTime()
		case "ready":
			return exited, m.GetTime().AsTime()
		}
	}
}
