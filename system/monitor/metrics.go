package monitor

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	maxConnections = 32
	maxScrapes     = 4
	maxHeaderBytes = 8 << 10
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second
	idleTimeout    = 2 * time.Minute
)

var (
	deployments = prometheus.NewDesc("solo_deployment_count", "Deployments that the kernel has made.", nil, nil)
	active      = prometheus.NewDesc("solo_active_services", "User services of which an instance lives.", nil, nil)
	waiting     = prometheus.NewDesc("solo_pool_shells_waiting", "Shells that wait for a lease.", nil, nil)
	memory      = prometheus.NewDesc("solo_service_memory_bytes", "Memory charged to the service's groups.", []string{"service"}, nil)
	processes   = prometheus.NewDesc("solo_service_processes", "Tasks in the service's groups.", []string{"service"}, nil)
	cpuSeconds  = prometheus.NewDesc("solo_service_cpu_seconds_total", "CPU time the service has used.", []string{"service"}, nil)
	restarts    = prometheus.NewDesc("solo_service_restarts_total", "Restarts of the service.", []string{"service"}, nil)
	logDropped  = prometheus.NewDesc("solo_log_bytes_dropped_total", "Bytes of logs dropped over the service's log_rate.", []string{"service"}, nil)
)

// collector makes the metrics whose series come and go with the services.
type collector struct {
	usage *usage
	stats *stats
}

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{deployments, active, waiting, memory, processes, cpuSeconds, restarts, logDropped} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, m := range c.metrics() {
		out <- m
	}
}

func (c collector) metrics() (list []prometheus.Metric) {
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		list = append(list, prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...))
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		list = append(list, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	totals := c.usage.totals()
	c.stats.mu.Lock()
	defer c.stats.mu.Unlock()
	counter(deployments, float64(c.stats.counters.GetDeployments()))
	gauge(active, float64(c.stats.counters.GetActiveServices()))
	gauge(waiting, float64(c.stats.counters.GetShellsWaiting()))
	for name, s := range c.stats.services {
		t, lives := totals[name]
		if s.over && !lives {
			continue
		}
		if lives {
			gauge(memory, float64(t.memory), name)
			gauge(processes, float64(t.processes), name)
		}
		counter(cpuSeconds, float64(s.cpuUsec+t.cpuUsec)/1e6, name)
		counter(restarts, float64(s.restarts), name)
		counter(logDropped, float64(s.dropped), name)
	}
	return list
}

// handler serves /metrics and nothing else.
func (m *monitor) handler() (http.Handler, error) {
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{collector{m.usage, m.stats}, m.stats.startup, m.stats.requests} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorHandling: promhttp.HTTPErrorOnError, DisableCompression: true, MaxRequestsInFlight: maxScrapes,
	}))
	return mux, nil
}

// serveMetrics serves on an inherited listener, which it takes over, until the
// service ends.
func (m *monitor) serveMetrics(f *os.File) error {
	l, err := net.FileListener(f) // a duplicate
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("listener %s: %w", MetricsName, err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // solod made the socket file and removes it
	}
	h, err := m.handler()
	if err != nil {
		_ = l.Close()
		return err
	}
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients do wrong is no news
	}
	stop := context.AfterFunc(m.ctx, func() { _ = srv.Close() })
	m.work.Go(func() {
		defer stop()
		// It returns when the service ends; before, only if accept fails for good.
		err := srv.Serve(limited{l, make(chan struct{}, maxConnections)})
		if m.ctx.Err() == nil {
			m.note("serve metrics: %v", err)
		}
		_ = srv.Close()
	})
	return nil
}

// limited closes connections above a number at once.
type limited struct {
	net.Listener
	slots chan struct{}
}

// Accept implements net.Listener.
func (l limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &slotConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			_ = c.Close()
		}
	}
}

type slotConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *slotConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
