package bench

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
)

// series is what was measured, one value an operation.
type series []float64

// quantile is the smallest value that the part q of all does not exceed.
func (s series) quantile(q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

func (s series) p50() float64 { return s.quantile(0.5) }
func (s series) p99() float64 { return s.quantile(0.99) }

// unit is what the values of a row are.
type unit int

const (
	nanoseconds unit = iota
	bytesHeld
)

func (u unit) format(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case u == bytesHeld:
		return fmt.Sprintf("%.0f KiB", v/1024)
	}
	return fmt.Sprintf("%.3f ms", v/1e6)
}

// row is one line of the table.
type row struct {
	name string
	unit unit
	own  series
	// peer was measured in turn with own. against names it or says why there is none.
	peer    series
	against string
	targets []target
}

// ratio of the medians.
func (r row) ratio() float64 { return r.own.p50() / r.peer.p50() }

// target is a bound on one figure of a row.
type target struct {
	figure figure
	bound  float64
}

type figure int

const (
	// medianRatio is the median by the peer's, at most.
	medianRatio figure = iota
	// median and tail are p50 and p99 in the row's unit, at most.
	median
	tail
	// added is how much the median is over the peer's, at most.
	added
	// throughput is the speed by the peer's with the same work, at least.
	throughput
)

func (t target) text(u unit) string {
	switch t.figure {
	case medianRatio:
		return fmt.Sprintf("p50 <= %g x peer", t.bound)
	case median:
		return "p50 <= " + u.format(t.bound)
	case tail:
		return "p99 <= " + u.format(t.bound)
	case added:
		return "added p50 <= " + u.format(t.bound)
	case throughput:
		return fmt.Sprintf("throughput >= %g x peer", t.bound)
	}
	panic("a target of no figure")
}

// judge says whether a target is met: "met", "missed", or "no peer".
func (r row) judge(t target) string {
	var over float64 // not met if positive
	switch t.figure {
	case medianRatio:
		over = r.ratio() - t.bound
	case median:
		over = r.own.p50() - t.bound
	case tail:
		over = r.own.p99() - t.bound
	case added:
		over = r.own.p50() - r.peer.p50() - t.bound
	case throughput:
		over = t.bound - 1/r.ratio()
	}
	switch {
	case math.IsNaN(over):
		return "no peer"
	case over > 0:
		return "missed"
	}
	return "met"
}

// results are the rows of this run, in the order they were taken.
var results table

type table struct {
	mu   sync.Mutex
	rows []row
}

// add takes rows; those that are there already get more samples.
func (t *table) add(rows []row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range rows {
		i := slices.IndexFunc(t.rows, func(have row) bool { return have.name == r.name })
		if i < 0 {
			t.rows = append(t.rows, r)
			continue
		}
		t.rows[i].own = append(t.rows[i].own, r.own...)
		t.rows[i].peer = append(t.rows[i].peer, r.peer...)
	}
}

// print writes the table, if there is one, with what the machine was doing.
func (t *table) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.rows) == 0 {
		return
	}
	load, _ := os.ReadFile("/proc/loadavg")
	version, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	_, _ = fmt.Fprintf(w, "\n%d CPUs, Linux %s, load %s; sparse: %v idle before each operation\n",
		runtime.NumCPU(), strings.TrimSpace(string(version)), strings.TrimSpace(string(load)), idle)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "what\tn\tp50\tp99\tpeer\tpeer p50\tratio\ttarget\t")
	for _, r := range t.rows {
		ratio := "-"
		if v := r.ratio(); !math.IsNaN(v) {
			ratio = fmt.Sprintf("%.2f", v)
		}
		_, _ = fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t", r.name, len(r.own),
			r.unit.format(r.own.p50()), r.unit.format(r.own.p99()), cmp.Or(r.against, "-"), r.unit.format(r.peer.p50()), ratio)
		if len(r.targets) == 0 {
			_, _ = fmt.Fprintln(tw, "-\t")
		}
		for i, goal := range r.targets {
			if i > 0 {
				_, _ = fmt.Fprint(tw, strings.Repeat("\t", 7))
			}
			_, _ = fmt.Fprintf(tw, "%s\t%s\n", goal.text(r.unit), r.judge(goal))
		}
	}
	_ = tw.Flush()
}

func TestQuantile(t *testing.T) {
	hundred := make(series, 100)
	for i := range hundred {
		hundred[i] = float64((i*37)%100 + 1) // 1 to 100, not in order
	}
	for _, test := range []struct {
		s        series
		p50, p99 float64
	}{
		{series{7}, 7, 7},
		{series{3, 1, 2}, 2, 3},
		{series{4, 1, 3, 2}, 2, 4},
		{hundred, 50, 99},
	} {
		if p50, p99 := test.s.p50(), test.s.p99(); p50 != test.p50 || p99 != test.p99 {
			t.Errorf("of %v: %v and %v, want %v and %v", test.s, p50, p99, test.p50, test.p99)
		}
	}
	if v := (series{}).p50(); !math.IsNaN(v) {
		t.Errorf("of nothing: %v", v)
	}
}

func TestJudge(t *testing.T) {
	r := row{own: series{2e6, 2e6, 9e6}, peer: series{4e6}}
	alone := row{own: r.own}
	for _, test := range []struct {
		r    row
		t    target
		want string
	}{
		{r, target{medianRatio, 0.5}, "met"},
		{r, target{medianRatio, 0.49}, "missed"},
		{alone, target{medianRatio, 0.5}, "no peer"},
		{r, target{median, 2e6}, "met"},
		{alone, target{median, 1.9e6}, "missed"},
		{alone, target{tail, 9e6}, "met"},
		{r, target{tail, 8e6}, "missed"},
		{r, target{added, 0}, "met"},
		{row{own: r.peer, peer: r.own}, target{added, 1e6}, "missed"},
		{alone, target{added, 1e6}, "no peer"},
		{r, target{throughput, 2}, "met"},
		{r, target{throughput, 2.1}, "missed"},
		{alone, target{throughput, 0.1}, "no peer"},
	} {
		if got := test.r.judge(test.t); got != test.want {
			t.Errorf("%s of %v beside %v: %s, want %s", test.t.text(nanoseconds), test.r.own, test.r.peer, got, test.want)
		}
	}
}

func TestTable(t *testing.T) {
	var tab table
	var b strings.Builder
	tab.print(&b)
	if b.Len() > 0 {
		t.Errorf("without rows it prints %q", b.String())
	}
	first := row{name: "one", own: series{1e6, 3e6}, peer: series{2e6}, against: "two", targets: []target{{medianRatio, 1}, {tail, 2e6}}}
	tab.add([]row{first, {name: "held", unit: bytesHeld, own: series{2048}}})
	tab.add([]row{{name: "one", own: series{2e6}, peer: series{4e6}}})
	tab.print(&b)
	var lines []string
	for line := range strings.Lines(b.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"what n p50 p99 peer peer p50 ratio target",
		"one 3 2.000 ms 3.000 ms two 2.000 ms 1.00 p50 <= 1 x peer met",
		"p99 <= 2.000 ms missed",
		"held 1 2 KiB 2 KiB - - - -",
	}
	if len(lines) != 6 || !slices.Equal(lines[2:], want) {
		t.Errorf("the table is\n%s", b.String())
	}
}
