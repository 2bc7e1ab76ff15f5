package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	grpccodes "google.golang.org/grpc/codes"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/test/testenv"
)

func (k *kernel) client() *http.Client {
	return &http.Client{
		Timeout: testenv.Scale(limit),
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", k.socket)
		}},
	}
}

// page is what Prometheus gets.
func (k *kernel) page() string {
	k.t.Helper()
	r, err := k.client().Get("http://solo/metrics")
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		k.t.Fatalf("%s: %v", r.Status, err)
	}
	return string(b)
}

// scrape lists the series whose names begin so.
func (k *kernel) scrape(prefix string) (list []string) {
	for line := range strings.Lines(k.page()) {
		if strings.HasPrefix(line, prefix) {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

// fresh is the page of a monitor that was told nothing.
const fresh = `# HELP solo_active_services User services of which an instance lives.
# TYPE solo_active_services gauge
solo_active_services 0
# HELP solo_deployment_count Deployments that the kernel has made.
# TYPE solo_deployment_count counter
solo_deployment_count 0
# HELP solo_pool_shells_waiting Shells that wait for a lease.
# TYPE solo_pool_shells_waiting gauge
solo_pool_shells_waiting 0
`

// busy are the series that TestMetrics makes, without buckets.
const busy = `# TYPE solo_active_services gauge
solo_active_services 3
# TYPE solo_deployment_count counter
solo_deployment_count 12
# TYPE solo_grpc_request_duration_ms histogram
solo_grpc_request_duration_ms_sum{code="OK",method="Deploy"} 5
solo_grpc_request_duration_ms_count{code="OK",method="Deploy"} 2
solo_grpc_request_duration_ms_sum{code="other",method="other"} 1
solo_grpc_request_duration_ms_count{code="other",method="other"} 1
# TYPE solo_log_bytes_dropped_total counter
solo_log_bytes_dropped_total{service="a"} 0
solo_log_bytes_dropped_total{service="t/b"} 0
# TYPE solo_pool_shells_waiting gauge
solo_pool_shells_waiting 4
# TYPE solo_service_cpu_seconds_total counter
solo_service_cpu_seconds_total{service="a"} 2.469134
solo_service_cpu_seconds_total{service="t/b"} 1.5
# TYPE solo_service_memory_bytes gauge
solo_service_memory_bytes{service="a"} 8192
solo_service_memory_bytes{service="t/b"} 100
# TYPE solo_service_processes gauge
solo_service_processes{service="a"} 14
solo_service_processes{service="t/b"} 1
# TYPE solo_service_restarts_total counter
solo_service_restarts_total{service="a"} 2
solo_service_restarts_total{service="t/b"} 0
# TYPE solo_service_startup_ms histogram
solo_service_startup_ms_sum{runtime="python"} 12.5
solo_service_startup_ms_count{runtime="python"} 1
`

// TestMetrics follows the series of two services from first to last.
func TestMetrics(t *testing.T) {
	k := boot(t, t.TempDir())
	if diff := cmp.Diff(fresh, k.page()); diff != "" {
		t.Error(diff)
	}
	a, b := newGroup(t, true), newGroup(t, false)
	a.set("4096\n", cpuStat, "7\n")
	b.set("100\n", "1500000000\n", "1\n")
	k.usage("a", "i1", true, a.open())
	k.usage("a", "i2", true, a.open())
	k.usage("t/b", "i3", false, b.open())
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Counters{Counters: &controlv1.Counters{Deployments: 12, ActiveServices: 3, ShellsWaiting: 4}}})
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Event{Event: &controlv1.ServiceEvent{
		Service: "t/b", StartupMs: 12.5, Runtime: "python", Event: &solov1.Event{Type: "ready", State: "ready"}}}})
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Event{Event: &controlv1.ServiceEvent{
		Service: "a", StartupMs: 1, Tier: "system", Event: &solov1.Event{Type: "ready", State: "ready"}}}})
	k.event("a", "restarting")
	k.event("a", "restarting")
	conn, peer, err := ipc.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Observer{Observer: &controlv1.Observer{}}}, peer)
	for _, o := range []*controlv1.Observation{
		{Method: "Deploy", Code: "OK", DurationMs: 2}, {Method: "Deploy", Code: "OK", DurationMs: 3},
		{Method: "/evil", Code: "evil", DurationMs: 1}, {Method: "Deploy", Code: "OK", DurationMs: math.NaN()},
		{Method: "Deploy", Code: "OK", DurationMs: math.Inf(1)}, {Method: "Deploy", Code: "OK", DurationMs: -1},
	} {
		if err := conn.Send(o); err != nil {
			t.Fatal(err)
		}
	}
	k.sampleEvery(20)
	page := func() string {
		var list []string
		for line := range strings.Lines(k.page()) {
			if !strings.HasPrefix(line, "# HELP") && !strings.Contains(line, "_bucket{") {
				list = append(list, line)
			}
		}
		return strings.Join(list, "")
	}
	var got string
	testenv.Eventually(t, limit, "calls and samples", func() bool {
		got = page()
		return strings.Contains(got, "memory_bytes") && strings.Contains(got, `"other"} 1`)
	})
	if diff := cmp.Diff(busy, got); diff != "" {
		t.Error(diff)
	}
	if n := len(k.scrape("solo_service_startup_ms_bucket")); n != 15 {
		t.Errorf("%d buckets of startup times", n)
	}
	ofB := func() (list []string) {
		for _, line := range k.scrape("solo_") {
			if strings.Contains(line, `"t/b"`) {
				list = append(list, line)
			}
		}
		return list
	}
	// It restarts: what it used stays counted, what it uses is nothing.
	k.instanceGone("t/b", "i3")
	testenv.Eventually(t, limit, "the instance to go", func() bool { return len(ofB()) == 3 })
	if !slices.Contains(ofB(), `solo_service_cpu_seconds_total{service="t/b"} 1.5`) {
		t.Errorf("after an instance: %q", ofB())
	}
	k.usage("t/b", "i4", false, b.open())
	testenv.Eventually(t, limit, "the next instance", func() bool {
		return slices.Contains(ofB(), `solo_service_cpu_seconds_total{service="t/b"} 3`)
	})
	// It stops.
	k.instanceGone("t/b", "i4")
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Event{Event: &controlv1.ServiceEvent{
		Service: "t/b", Event: &solov1.Event{Type: "stopped", State: "stopped"}}}})
	testenv.Eventually(t, limit, "the series to go", func() bool { return len(ofB()) == 0 })
	k.serviceGone("a")
	testenv.Eventually(t, limit, "all series to go", func() bool { return !strings.Contains(k.page(), `service="`) })
}

// TestLabelsAreBounded: no peer can make series without end.
func TestLabelsAreBounded(t *testing.T) {
	s := newStats()
	seen := map[string]bool{}
	for i := range 1000 {
		seen[s.runtime(fmt.Sprint("r", i))] = true
	}
	if len(seen) != maxRuntimes+1 || !seen[other] || s.runtime("r0") != "r0" || s.runtime("") != other {
		t.Errorf("%d runtimes", len(seen))
	}
}

// TestKnownLabels: the methods are those of the API, the codes those of gRPC.
func TestKnownLabels(t *testing.T) {
	var all []string
	services := api.File_solo_v1_api_service_proto.Services()
	for i := range services.Len() {
		list := services.Get(i).Methods()
		for j := range list.Len() {
			all = append(all, string(list.Get(j).Name()))
		}
	}
	slices.Sort(all)
	known := slices.Sorted(slices.Values(methods))
	if diff := cmp.Diff(all, known); diff != "" {
		t.Error(diff)
	}
	all = nil
	for c := grpccodes.OK; c <= grpccodes.Unauthenticated; c++ {
		all = append(all, c.String())
	}
	if diff := cmp.Diff(all, codes); diff != "" {
		t.Error(diff)
	}
}

// TestServerIsBounded: requests that are none, large or many harm nobody.
func TestServerIsBounded(t *testing.T) {
	k := boot(t, t.TempDir())
	for path, want := range map[string]int{"/metrics": 200, "/": 404, "/debug/pprof/": 404, "/metrics/x": 404} {
		r, err := k.client().Get("http://solo" + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("GET %s: %s", path, r.Status)
		}
	}
	for request, want := range map[string]string{
		"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n": "405",
		"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n":  "431",
		"nonsense\r\n\r\n": "400",
	} {
		if got := k.raw(request); !strings.HasPrefix(got, "HTTP/1.1 "+want) {
			t.Errorf("%.20q: %.60q", request, got)
		}
	}
	// Idle connections take the places; one more is closed, not queued.
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			_ = c.Close()
		}
	}()
	for range maxConnections + 5 {
		c, err := net.Dial("unix", k.socket)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	last := idle[len(idle)-1]
	_ = last.SetReadDeadline(time.Now().Add(testenv.Scale(limit)))
	if n, err := last.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one connection more reads %d, %v", n, err)
	}
	for _, c := range idle {
		_ = c.Close()
	}
	testenv.Eventually(t, limit, "a free place", func() bool {
		r, err := k.client().Get("http://solo/metrics")
		if err == nil {
			_ = r.Body.Close()
		}
		return err == nil
	})
}

// raw sends bytes and reads the answer.
func (k *kernel) raw(request string) string {
	k.t.Helper()
	c, err := net.Dial("unix", k.socket)
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(testenv.Scale(limit)))
	_, _ = io.WriteString(c, request) // it may be refused half-way
	b, _ := io.ReadAll(c)
	return string(b)
}
