// Package monitor is solo-monitor: it stores what services write and what happens to
// them, samples what they use, streams all of that to watchers, and serves metrics.
//
//	pipes of services ──▶ source ──▶ store ──▶ files in /data, one directory a service
//	kernel's events ─────────────────▶ │
//	                                   └─────▶ watcher ──▶ SEQPACKET to the gateway
//	cgroup files ──▶ usage ──────────────────────▲ └──▶ Prometheus on metrics.sock
//
// Trust: runs unprivileged in a sandbox with one writable directory. What comes out of
// pipes is hostile: it is bounded, stored as it is, and never interpreted; making it
// safe for a terminal is up to who shows it. Files in the directory are read as if
// they were damaged. A watcher is trusted with nothing and holds up nobody; the HTTP
// server is bounded in connections, sizes and times.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/control"
)

// MetricsName is the name of the inherited listener for Prometheus.
const MetricsName = "metrics.sock"

const (
	defaultInterval = time.Second
	minInterval     = 10 * time.Millisecond
	// lockWait is how long the process before may take to end.
	lockWait = 10 * time.Second
	// maxObservers bounds the gateways whose calls are measured at once.
	maxObservers = 16
)

// Config says where the logs are kept.
type Config struct {
	// Dir is an existing directory.
	Dir string
}

// Serve opens the store, says that it is ready, and does its work until the kernel
// asks for a stop or ctx ends (nil), or is gone. Without an inherited listener named
// MetricsName no metrics are served.
func Serve(ctx context.Context, c *control.Conn, cfg Config) error {
	note := newNotes(os.Stderr)
	st, err := openStore(cfg.Dir, lockWait, note)
	if err != nil {
		return err
	}
	own, cancel := context.WithCancel(context.Background())
	m := &monitor{
		note: note, ctx: own, store: st, stats: newStats(),
		slots: make(chan struct{}, maxWatchers), observers: make(chan struct{}, maxObservers),
		interval: make(chan time.Duration, 1),
	}
	m.usage = newUsage(note, m.stats.ended)
	defer func() {
		cancel()
		m.work.Wait()
		m.usage.close()
		if err := st.close(); err != nil {
			note("close the log store: %v", err)
		}
	}()
	if f := c.Take(MetricsName); f != nil {
		if err := m.serveMetrics(f); err != nil {
			return err
		}
	}
	m.work.Go(m.sample)
	if err := c.Ready(); err != nil {
		return err
	}
	return c.Serve(ctx, m)
}

type monitor struct {
	note      note
	ctx       context.Context // ends with the service
	work      sync.WaitGroup
	store     *store
	usage     *usage
	stats     *stats
	slots     chan struct{}
	observers chan struct{}
	interval  chan time.Duration // the newest, for sample
}

// descriptors is how many come with a message; -1 for messages that are not ours.
func descriptors(m *controlv1.FromKernel) int {
	switch m.GetItem().(type) {
	case *controlv1.FromKernel_LogSource, *controlv1.FromKernel_Watcher, *controlv1.FromKernel_Observer:
		return 1
	case *controlv1.FromKernel_UsageSource:
		return usageFiles
	case *controlv1.FromKernel_InstanceGone, *controlv1.FromKernel_ServiceGone, *controlv1.FromKernel_Event,
		*controlv1.FromKernel_MonitorConfig, *controlv1.FromKernel_Counters:
		return 0
	default:
		return -1
	}
}

// Handle implements control.Handler.
func (m *monitor) Handle(msg *controlv1.FromKernel, files ipc.Files) error {
	n := descriptors(msg)
	if n < 0 {
		files.Close()
		return control.Unexpected(msg)
	}
	if err := control.Count(files, n); err != nil {
		return err
	}
	switch item := msg.GetItem().(type) {
	case *controlv1.FromKernel_LogSource:
		m.follow(item.LogSource, files[0])
	case *controlv1.FromKernel_UsageSource:
		m.stats.see(item.UsageSource.GetService())
		m.usage.add(item.UsageSource, files)
	case *controlv1.FromKernel_InstanceGone:
		m.usage.gone(item.InstanceGone.GetService(), item.InstanceGone.GetInstance())
	case *controlv1.FromKernel_ServiceGone:
		name := item.ServiceGone.GetService()
		m.usage.serviceGone(name)
		m.stats.remove(name)
		m.store.remove(name)
	case *controlv1.FromKernel_Event:
		m.stats.event(item.Event)
		m.store.event(item.Event)
	case *controlv1.FromKernel_Watcher:
		m.watch(item.Watcher, files[0])
	case *controlv1.FromKernel_Observer:
		m.observe(files[0])
	case *controlv1.FromKernel_MonitorConfig:
		m.configure(item.MonitorConfig)
	case *controlv1.FromKernel_Counters:
		m.stats.count(item.Counters)
	}
	return nil
}

// follow starts to read a log pipe, which it takes over.
func (m *monitor) follow(l *controlv1.LogSource, f *os.File) {
	service := l.GetService()
	m.stats.see(service)
	s, err := newSource(m.store, l, f, func(n int) { m.stats.dropped(service, n) })
	if err != nil {
		m.note("%v", err)
		return
	}
	m.work.Go(func() { s.run(m.ctx) })
}

func (m *monitor) configure(c *controlv1.MonitorConfig) {
	m.store.setLimit(c.GetLogBytesPerService())
	d := time.Duration(c.GetUsageIntervalMs()) * time.Millisecond
	if d == 0 {
		d = defaultInterval
	}
	select {
	case <-m.interval:
	default:
	}
	m.interval <- max(d, minInterval)
}

// sample samples usage at every interval.
func (m *monitor) sample() {
	tick := time.NewTicker(defaultInterval)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			m.usage.sampleAll(now)
		case d := <-m.interval:
			tick.Reset(d)
		case <-m.ctx.Done():
			return
		}
	}
}

// observe counts the calls that a gateway reports. It takes the descriptor over.
func (m *monitor) observe(f *os.File) {
	conn, err := ipc.FileConn(f)
	if err != nil {
		m.note("observer: %v", err)
		return
	}
	select {
	case m.observers <- struct{}{}:
	default:
		m.note("observer: there are %d already", maxObservers)
		_ = conn.Close()
		return
	}
	m.work.Go(func() {
		defer func() { <-m.observers }()
		stop := context.AfterFunc(m.ctx, func() { _ = conn.Close() })
		defer func() { stop(); _ = conn.Close() }()
		for {
			o := &controlv1.Observation{}
			files, _, err := conn.Receive(o)
			files.Close()
			if err == nil && len(files) > 0 {
				err = &ipc.ProtocolError{What: "an observation with descriptors"}
			}
			var broken *ipc.ProtocolError
			if errors.As(err, &broken) {
				m.note("observer: %v", err)
			}
			if err != nil {
				return
			}
			m.stats.observe(o)
		}
	})
}

// note is for the operator: one line on standard error. The monitor reads that line
// itself, so notes are few: at most one a second.
type note func(format string, args ...any)

func newNotes(f *os.File) note {
	var mu sync.Mutex
	var last time.Time
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(last) >= time.Second {
			last = now
			_, _ = fmt.Fprintln(f, clip("solo-monitor: "+fmt.Sprintf(format, args...), 500))
		}
	}
}
