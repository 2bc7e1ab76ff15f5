package bench

import (
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
)

const (
	// samples is how many of each a benchmark takes at a time, few how many TestSmoke.
	samples = 200
	few     = 3
	// idle is how long nothing is asked for before an operation. Tight loops lie: they
	// keep caches and CPUs warm.
	idle = 25 * time.Millisecond
)

// operation is one thing to be timed. prepare and clean, if any, are not.
type operation struct {
	prepare, do, clean func()
}

// sample does it once and says how long that took.
func (o operation) sample() float64 {
	if o.prepare != nil {
		o.prepare()
	}
	time.Sleep(idle) // a condition of the measurement: nothing is waited for
	start := time.Now()
	o.do()
	took := time.Since(start)
	if o.clean != nil {
		o.clean()
	}
	return float64(took)
}

// inTurn takes n samples of each operation, in turn and each time beginning with
// another, after one of each that does not count.
func inTurn(n int, operations ...operation) []series {
	for _, o := range operations {
		o.sample()
	}
	all := make([]series, len(operations))
	for i := range n {
		for j := range operations {
			j = (i + j) % len(operations)
			all[j] = append(all[j], operations[j].sample())
		}
	}
	return all
}

// measurement takes n samples of each row that it answers.
type measurement func(tb testing.TB, n int) []row

// bench runs a measurement as a benchmark. Its result is that of the first row; all go
// to the table. One loop is a measurement: -benchtime 3x takes three times the samples.
func bench(b *testing.B, m measurement) {
	var all table
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		all.add(m(b, samples))
	}
	runtime.ReadMemStats(&after)
	results.add(all.rows)
	first := all.rows[0]
	n := float64(len(first.own))
	p50, p99 := "ns/op", "p99-ns/op"
	if first.unit == bytesHeld {
		p50, p99 = "held-B", "p99-held-B"
		b.ReportMetric(0, "ns/op")
	}
	b.ReportMetric(first.own.p50(), p50)
	b.ReportMetric(first.own.p99(), p99)
	if v := first.ratio(); !math.IsNaN(v) {
		b.ReportMetric(v, "x-peer")
	}
	// Of this process: of a client, with everything that the measurement does.
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/n, "B/op")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/op")
}

func BenchmarkDeploy(b *testing.B)          { bench(b, deployWaiting) }
func BenchmarkDeployEmptyPool(b *testing.B) { bench(b, deployEmpty) }
func BenchmarkStatus(b *testing.B)          { bench(b, statusCalls) }
func BenchmarkCrash(b *testing.B)           { bench(b, crashes) }
func BenchmarkRun(b *testing.B)             { bench(b, runs) }
func BenchmarkRelay(b *testing.B)           { bench(b, relay) }
func BenchmarkMemory(b *testing.B)          { bench(b, memory) }

// TestSmoke takes a few samples of everything.
func TestSmoke(t *testing.T) {
	var all table
	for _, test := range []struct {
		name string
		m    measurement
	}{
		{"Deploy", deployWaiting},
		{"DeployEmptyPool", deployEmpty},
		{"Status", statusCalls},
		{"Crash", crashes},
		{"Run", runs},
		{"Relay", relay},
		{"Memory", memory},
	} {
		t.Run(test.name, func(t *testing.T) {
			rows := test.m(t, few)
			all.add(rows)
			if len(rows) == 0 {
				t.Error("no row")
			}
			for _, r := range rows {
				if len(r.own) < few || r.own.quantile(0) <= 0 {
					t.Errorf("%s: the samples are %v", r.name, r.own)
				}
				if r.peer != nil && (len(r.peer) != len(r.own) || r.peer.quantile(0) <= 0 || r.against == "") {
					t.Errorf("%s: those of the peer %q are %v", r.name, r.against, r.peer)
				}
			}
		})
	}
	var b strings.Builder
	all.print(&b)
	t.Log(b.String())
}
