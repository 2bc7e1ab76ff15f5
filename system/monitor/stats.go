package monitor

import (
	"math"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

const (
	// other stands for a label value that is not one of the known ones.
	other = "other"
	// maxRuntimes bounds the values of the label runtime.
	maxRuntimes = 64
)

// methods are those of the public API.
var methods = []string{
	"Deploy", "Status", "List", "Kill", "Watch", "GrantCapability", "Update", "Shutdown",
	"Start", "Restart", "Delete", "Run", "Upload", "Tail", "Info",
}

// codes are gRPC's.
var codes = []string{
	"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
	"ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
	"DataLoss", "Unauthenticated",
}

// stats are the numbers behind the metrics that do not come from usage.
type stats struct {
	startup  *prometheus.HistogramVec
	requests *prometheus.HistogramVec

	mu       sync.Mutex
	counters *controlv1.Counters // nil until the kernel has sent them
	services map[string]*serviceStats
	runtimes map[string]struct{}
}

// serviceStats are those of one service until it is deleted.
type serviceStats struct {
	// over says that the service has come to its end: its series are not shown.
	over     bool
	cpuUsec  uint64 // of instances that are gone
	restarts uint64
	dropped  uint64
}

func newStats() *stats {
	return &stats{
		startup: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "solo_service_startup_ms", Help: "Milliseconds from the release of a service's program to its being ready.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000},
		}, []string{"runtime"}),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "solo_grpc_request_duration_ms", Help: "Milliseconds that calls of the API took.",
			Buckets: []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 30000},
		}, []string{"method", "code"}),
		services: make(map[string]*serviceStats),
		runtimes: make(map[string]struct{}),
	}
}

// of returns the numbers of a service; the caller holds mu.
func (s *stats) of(service string) *serviceStats {
	st := s.services[service]
	if st == nil {
		st = &serviceStats{}
		s.services[service] = st
	}
	return st
}

// see notes that something of the service lives.
func (s *stats) see(service string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(service).over = false
}

// remove forgets a service.
func (s *stats) remove(service string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.services, service)
}

// ended adds what an instance that is gone has used.
func (s *stats) ended(service string, cpuUsec uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.services[service]; st != nil {
		st.cpuUsec += cpuUsec
	}
}

func (s *stats) dropped(service string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.services[service]; st != nil {
		st.dropped += uint64(n)
	}
}

// count takes the kernel's counters.
func (s *stats) count(c *controlv1.Counters) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters = c
}

// event counts what an event tells.
func (s *stats) event(e *controlv1.ServiceEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.GetEvent().GetType() {
	case "deleted":
		return // ServiceGone forgets it
	case "restarting":
		s.of(e.GetService()).restarts++
	case "ready":
		// Solo's own services have no runtime, and start once.
		if ms := e.GetStartupMs(); measurable(ms) && isUser(e.GetTier()) {
			s.startup.WithLabelValues(s.runtime(e.GetRuntime())).Observe(ms)
		}
	}
	switch e.GetEvent().GetState() {
	case "stopped", "failed", "finished":
		s.of(e.GetService()).over = true
	default:
		s.of(e.GetService()).over = false
	}
}

// runtime is the label's value; the caller holds mu.
func (s *stats) runtime(name string) string {
	if _, known := s.runtimes[name]; known {
		return name
	}
	if name == "" || len(name) > 64 || len(s.runtimes) >= maxRuntimes {
		return other
	}
	s.runtimes[name] = struct{}{}
	return name
}

// observe counts a call of the API.
func (s *stats) observe(o *controlv1.Observation) {
	if !measurable(o.GetDurationMs()) {
		return
	}
	s.requests.WithLabelValues(oneOf(methods, o.GetMethod()), oneOf(codes, o.GetCode())).Observe(o.GetDurationMs())
}

func oneOf(known []string, value string) string {
	if slices.Contains(known, value) {
		return value
	}
	return other
}

func measurable(ms float64) bool { return ms >= 0 && !math.IsInf(ms, 1) }
