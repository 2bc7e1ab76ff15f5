package e2e

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// metrics reads what Prometheus would.
func (x *tester) metrics() map[string]*dto.MetricFamily {
	x.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", x.run+"/metrics.sock")
		},
	}, Timeout: testenv.Scale(patience)}
	r, err := client.Get("http://solo/metrics")
	if err != nil {
		x.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		x.Fatalf("metrics: %s, %v", r.Status, err)
	}
	return families
}

// value is a metric's value: of all series, or of those with a label's value.
func value(f *dto.MetricFamily, label string) float64 {
	sum := 0.0
	for _, m := range f.GetMetric() {
		matches := label == ""
		for _, l := range m.GetLabel() {
			matches = matches || l.GetValue() == label
		}
		if matches {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue() +
				float64(m.GetHistogram().GetSampleCount()) + float64(m.GetSummary().GetSampleCount())
		}
	}
	return sum
}

// TestMetrics: the five names, and what they count.
func TestMetrics(t *testing.T) {
	x := shared(t)
	x.deploy(x.victim("sleep 1h"))
	before := x.metrics()
	name := x.deploy(x.victim("memory 20000000 , sleep 1h"))
	check := func(what string, ok func(map[string]*dto.MetricFamily) bool) {
		t.Helper()
		testenv.Eventually(t, patience, what, func() bool { return ok(x.metrics()) })
	}
	// Counters come to the monitor now and then: other tests' may still be on the way.
	check("the deployments that the audit log has", func(m map[string]*dto.MetricFamily) bool {
		n := 0
		for _, r := range x.auditLog() {
			switch {
			case r.Op == "boot":
				n = 0
			case r.Op == "deploy" && r.Result == "ok":
				n++
			}
		}
		return n >= 2 && value(m["solo_deployment_count"], "") == float64(n)
	})
	check("the services that run", func(m map[string]*dto.MetricFamily) bool {
		n := 0
		for _, s := range x.list("") {
			if len(s.GetInstances()) > 0 {
				n++
			}
		}
		return n >= 2 && value(m["solo_active_services"], "") == float64(n)
	})
	check("the service's memory", func(m map[string]*dto.MetricFamily) bool {
		return value(m["solo_service_memory_bytes"], name) >= 20_000_000
	})
	check("its start-up time", func(m map[string]*dto.MetricFamily) bool {
		return value(m["solo_service_startup_ms"], "") > value(before["solo_service_startup_ms"], "")
	})
	check("the calls' durations", func(m map[string]*dto.MetricFamily) bool {
		return value(m["solo_grpc_request_duration_ms"], "") > value(before["solo_grpc_request_duration_ms"], "")
	})

	// The series of a deleted service go.
	if _, err := x.client.Lifecycle.Delete(x.ctx(), &solov1.DeleteRequest{Service: name}); err != nil {
		t.Fatal(err)
	}
	check("the end of its series", func(m map[string]*dto.MetricFamily) bool {
		for _, f := range m {
			for _, s := range f.GetMetric() {
				for _, l := range s.GetLabel() {
					if strings.Contains(l.GetValue(), name) {
						return false
					}
				}
			}
		}
		return true
	})
}
