package e2e

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// events are those kept of a service, in order.
func (x *tester) events(name string) []*solov1.Event {
	x.Helper()
	var list []*solov1.Event
	for _, m := range x.kept(&solov1.WatchRequest{Service: name, Kinds: []string{"event"}}) {
		list = append(list, m.GetEvent())
	}
	return list
}

func (x *tester) awaitEvents(name, what string, ok func([]*solov1.Event) bool) {
	x.Helper()
	var last []*solov1.Event
	defer func() {
		if x.Failed() {
			x.Logf("the events of %s are %v", name, last)
		}
	}()
	testenv.Eventually(x.T, patience, "event "+what+" of "+name, func() bool {
		last = x.events(name)
		return ok(last)
	})
}

// TestLogOrder: every line comes once, in order, with its stream.
func TestLogOrder(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("log 500 , complain oops , print done , sleep 1h"))
	x.awaitLog(name, "done")
	var out, errs []string
	for _, l := range x.logs(name) {
		switch l.Stream {
		case "stdout":
			out = append(out, l.Text)
		case "stderr":
			errs = append(errs, l.Text)
		default:
			t.Errorf("stream %q: %s", l.Stream, l.Text)
		}
	}
	var want []string
	for i := range 500 {
		want = append(want, fmt.Sprintf("%09d %s", i, strings.Repeat("x", 89)))
	}
	if diff := cmp.Diff(append(want, "done"), out); diff != "" {
		t.Errorf("stdout (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"oops"}, errs); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
}

// TestLogLongLines: a line over 16 KiB is split and marked, and nothing is lost.
func TestLogLongLines(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("long 40000 , print done , sleep 1h"))
	x.awaitLog(name, "done")
	total, whole := 0, 0
	for _, m := range x.kept(&solov1.WatchRequest{Service: name, Kinds: []string{"log"}}) {
		text := m.GetLog().GetText()
		if len(text) > 16<<10 {
			t.Errorf("a line of %d bytes", len(text))
		}
		if strings.HasPrefix(string(text), "y") {
			total += len(text)
			if !m.GetLog().GetPartial() {
				whole++
			}
		}
	}
	if total != 40000 || whole != 1 {
		t.Errorf("%d bytes came in lines of which %d ended", total, whole)
	}
}

// TestLogCap: what is kept is bounded; the newest lines are.
func TestLogCap(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	const lines = 4 * maxLogs / 100
	req := x.victim(fmt.Sprintf("log %d , print done , sleep 1h", lines))
	req.Resources = &solov1.Resources{LogRate: 1 << 30}
	name := x.deploy(req)
	x.awaitLog(name, "done")
	kept := x.logs(name)
	bytes := 0
	for _, l := range kept {
		bytes += len(l.Text)
	}
	if bytes > 2*maxLogs || bytes < maxLogs/4 {
		t.Errorf("%d bytes are kept of %d; the limit is %d", bytes, lines*100, maxLogs)
	}
	last := fmt.Sprintf("%09d ", lines-1)
	if n := len(kept); n < 2 || !strings.HasPrefix(kept[n-2].Text, last) {
		t.Errorf("the last line but one is %q", kept[len(kept)-2].Text)
	}
	// No gap in what is kept.
	first := -1
	for i, l := range kept[:len(kept)-1] {
		var n int
		if l.Stream != "stdout" {
			continue
		}
		if _, err := fmt.Sscanf(l.Text, "%d", &n); err != nil {
			t.Fatalf("line %q", l.Text)
		}
		if first >= 0 && n != first+1 {
			t.Fatalf("line %d follows %d (at %d)", n, first, i)
		}
		first = n
	}
}

// TestLogRate: what comes faster than log_rate is dropped, and that is said.
func TestLogRate(t *testing.T) {
	hostOnly(t)
	x := shared(t)
	req := x.victim("log 2000 , sleep 1h")
	req.Resources = &solov1.Resources{LogRate: 10 << 10}
	name := x.deploy(req)
	testenv.Eventually(t, patience, "a remark of Solo's", func() bool {
		for _, l := range x.logs(name) {
			if l.Stream == "solo" {
				return true
			}
		}
		return false
	})
	bytes := 0
	for _, l := range x.logs(name) {
		bytes += len(l.Text)
	}
	if bytes >= 150_000 {
		t.Errorf("%d of 200000 bytes were kept at a rate of 10 KiB/s", bytes)
	}
}

// TestFollow: solo-ctl logs -f shows lines as they come, until the service is deleted.
func TestFollow(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("print first , sleep 1h"))
	stream, err := x.client.Solo.Watch(x.ctx(), &solov1.WatchRequest{Service: name, Kinds: []string{"log"}, Since: "start"})
	if err != nil {
		t.Fatal(err)
	}
	next := func() string {
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("watch: %v", err)
		}
		return string(m.GetLog().GetText())
	}
	if got := next(); got != "first" {
		t.Errorf("the first line is %q", got)
	}
	x.killPID(x.pid(name)) // it comes back and says it again
	if got := next(); got != "first" {
		t.Errorf("the second line is %q", got)
	}
	cmd := exec.CommandContext(x.ctx(), filepath.Join(x.bin, "solo-ctl"), "--addr", x.addr(), "--token-file", x.tokenFile(), "logs", "-f", name)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(pipe)
	for range 2 {
		if !lines.Scan() || lines.Text() != "first" {
			t.Errorf("solo-ctl logs -f says %q, %v", lines.Text(), lines.Err())
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("interrupted, it ended with %v", err)
	}
	if out := x.ctl("logs", name); out.status != 0 || out.stdout != "first\nfirst\n" {
		t.Errorf("solo-ctl logs ended with %+v", out)
	}
}

// TestWatch: events of a life in order, metrics and log lines beside them.
func TestWatch(t *testing.T) {
	x := shared(t)
	before := "0"
	for _, m := range x.kept(&solov1.WatchRequest{}) {
		before = fmt.Sprint(m.GetSequence())
	}
	name := x.name()
	// Of all services: this one does not exist yet.
	stream, err := x.client.Solo.Watch(x.ctx(), &solov1.WatchRequest{Since: before})
	if err != nil {
		t.Fatal(err)
	}
	req := x.victim("ready , print hello , sleep 1h")
	req.Name = name
	x.deploy(req)
	pid := x.pid(name)
	var events []string
	var metric, logLine, killed bool
	for last := uint64(0); !killed || events[len(events)-1] != "deleted"; {
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("watch: %v; until then %v", err, events)
		}
		// Metrics are not kept: they have the number of what was kept last.
		if m.GetTime() == nil || m.GetSequence() < last || m.GetSequence() == last && m.GetMetric() == nil {
			t.Errorf("after %d came %v", last, m)
		}
		last = m.GetSequence()
		if m.GetService() != name {
			continue
		}
		switch item := m.GetItem().(type) {
		case *solov1.WatchResponse_Event:
			events = append(events, item.Event.GetType())
		case *solov1.WatchResponse_Metric:
			metric = metric || item.Metric.GetMemoryBytes() > 0 && item.Metric.GetProcesses() > 0
		case *solov1.WatchResponse_Log:
			logLine = logLine || string(item.Log.GetText()) == "hello"
		}
		if metric && logLine && !killed {
			killed = true
			x.killPID(pid)
			x.await(name, "a restart", func(s *solov1.ServiceStatus) bool { return s.GetState() == "ready" && s.GetRestarts() == 1 })
			if _, err := x.client.Lifecycle.Delete(x.ctx(), &solov1.DeleteRequest{Service: name}); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{"deployed", "starting", "ready", "exited", "restarting", "starting", "ready", "exited", "stopped", "deleted"}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestWatchNow: without a beginning, what was before does not come.
func TestWatchNow(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("print before , sleep 1h"))
	x.awaitLog(name, "before")
	stream, err := x.client.Solo.Watch(x.ctx(), &solov1.WatchRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	// Usage is sampled all the time: a metric says that the watch has begun.
	for m, err := stream.Recv(); ; m, err = stream.Recv() {
		if err != nil {
			t.Fatal(err)
		}
		if m.GetMetric() != nil {
			break
		}
		t.Errorf("from before came %v", m)
	}
	x.killPID(x.pid(name))
	var came []string
	for len(came) < 3 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("watch: %v; until then %v", err, came)
		}
		if e := m.GetEvent(); e != nil {
			came = append(came, e.GetType())
		}
	}
	if diff := cmp.Diff([]string{"exited", "restarting", "starting"}, came); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestWatchSince begins after a sequence number.
func TestWatchSince(t *testing.T) {
	x := shared(t)
	name := x.deploy(x.victim("print one , print two , print three , sleep 1h"))
	x.awaitLog(name, "three")
	all := x.kept(&solov1.WatchRequest{Service: name, Kinds: []string{"log"}})
	if len(all) != 3 {
		t.Fatalf("%d lines are kept", len(all))
	}
	stream, err := x.client.Solo.Watch(x.ctx(), &solov1.WatchRequest{
		Service: name, Kinds: []string{"log"}, Since: fmt.Sprint(all[0].GetSequence()), NoFollow: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil || string(m.GetLog().GetText()) != "two" {
		t.Errorf("after the first line comes %v, %v", m, err)
	}
}
