package monitor

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// TestReplayAndFollow is the promise to a watcher: wherever it begins and however
// fast it reads, with writers at work and the monitor restarted before, it gets each
// record after its beginning once, in the order of the numbers.
func TestReplayAndFollow(t *testing.T) {
	rounds := 4
	if testenv.Long() {
		rounds = 100
	}
	rnd := testenv.Rand(t)
	for range rounds {
		replayAndFollow(t, rand.New(rand.NewPCG(rnd.Uint64(), 0)))
	}
}

func replayAndFollow(t *testing.T, rnd *rand.Rand) {
	dir := t.TempDir()
	services := 1 + rnd.IntN(4)
	history := 0
	if rnd.IntN(2) == 0 { // an earlier life
		k := boot(t, dir)
		history = 1 + rnd.IntN(300)
		writeLines(t, k, services, 0, history, rnd.Uint64())
		testenv.Eventually(t, limit, "the history to be stored", func() bool {
			return len(k.watch(&solov1.WatchRequest{Since: "start", NoFollow: true}, "").rest()) == services*history
		})
		k.stop()
	}
	k := boot(t, dir)
	lines := 200 + rnd.IntN(2000)
	var writers sync.WaitGroup
	seed := rnd.Uint64()
	type asked struct {
		*stream
		service string
		since   uint64
		seed    uint64
	}
	var watchers []asked
	begin := func() {
		w := asked{seed: rnd.Uint64()}
		r := &solov1.WatchRequest{Kinds: []string{"log"}, Since: "start"}
		if rnd.IntN(2) == 0 {
			w.service = fmt.Sprintf("s%d", rnd.IntN(services))
			r.Service = w.service
		}
		if rnd.IntN(3) == 0 {
			w.since = uint64(rnd.IntN(1 + services*history))
			r.Since = strconv.FormatUint(w.since, 10)
		}
		w.stream = k.watch(r, "")
		watchers = append(watchers, w)
	}
	begin()
	begin()
	writers.Go(func() { writeLines(t, k, services, history, lines, seed) })
	begin()
	begin()
	total := history + lines
	// One that begins at the start and follows, and what is stored in the end, must be
	// the same, and be what was written.
	writers.Wait()
	all := k.watch(&solov1.WatchRequest{Kinds: []string{"log"}, Since: "start"}, "")
	want := map[string][]string{}
	for range services * total {
		line, service := brief(all.next())
		want[""] = append(want[""], line)
		want[service] = append(want[service], line)
	}
	for name, lines := range want {
		var stored []string
		for _, m := range k.watch(&solov1.WatchRequest{Service: name, Since: "start", NoFollow: true}, "").rest() {
			line, _ := brief(m)
			stored = append(stored, line)
		}
		if diff := cmp.Diff(lines, stored); diff != "" {
			t.Fatal(diff)
		}
	}
	for i := range services {
		for n, line := range want[fmt.Sprintf("s%d", i)] {
			if !strings.HasSuffix(line, fmt.Sprintf(" line %d", n)) {
				t.Fatalf("s%d: line %d is %q", i, n, line)
			}
		}
	}
	for _, w := range watchers {
		expect := want[w.service]
		for len(expect) > 0 && number(expect[0]) <= w.since {
			expect = expect[1:]
		}
		var got []string
		for len(got) < len(expect) {
			m := w.next()
			if m == nil {
				t.Fatalf("the stream ends after %d of %d", len(got), len(expect))
			}
			line, _ := brief(m)
			got = append(got, line)
		}
		if diff := cmp.Diff(expect, got); diff != "" {
			t.Fatalf("service %q since %d: %s", w.service, w.since, diff)
		}
	}
	k.stop()
	for _, w := range watchers {
		if m := w.next(); m != nil {
			t.Errorf("one more: %v", m)
		}
		_ = w.conn.Close()
	}
}

// brief is a line's number, service and text, and the service.
func brief(m *solov1.WatchResponse) (line, service string) {
	return fmt.Sprintf("%d %s %s", m.GetSequence(), m.GetService(), m.GetLog().GetText()), m.GetService()
}

func number(line string) uint64 {
	n, _ := strconv.ParseUint(line[:strings.IndexByte(line, ' ')], 10, 64)
	return n
}

// writeLines writes numbered lines to each service's pipe, all at once, in pieces of
// random sizes.
func writeLines(t *testing.T, k *kernel, services, from, count int, seed uint64) {
	var all sync.WaitGroup
	for i := range services {
		w := k.pipe(&controlv1.LogSource{Service: fmt.Sprintf("s%d", i), Instance: "i", Stream: "stdout", Rate: 1 << 30, Tier: "user"})
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() {
			defer func() { _ = w.Close() }()
			var buf []byte
			for n := range count {
				buf = fmt.Appendf(buf, "line %d\n", from+n)
				if rnd.IntN(20) > 0 && n < count-1 {
					continue
				}
				if _, err := w.Write(buf); err != nil {
					t.Error(err)
					return
				}
				buf = buf[:0]
			}
		})
	}
	all.Wait()
}

// TestFilters: who sees what.
func TestFilters(t *testing.T) {
	k := boot(t, t.TempDir())
	for _, s := range []struct{ name, tier string }{{"web", "user"}, {"team/db", "user"}, {"team-b/db", "user"}, {"solo-gateway", "system"}, {"solo-net", "driver"}} {
		w := k.pipe(&controlv1.LogSource{Service: s.name, Instance: "i", Stream: "stderr", Tier: s.tier})
		write(t, w, s.name+"\n")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, limit, "the line", func() bool { return len(k.stored(s.name)) == 1 })
	}
	k.event("web", "ready")
	for _, c := range []struct {
		name    string
		request *solov1.WatchRequest
		scope   string
		want    []string
	}{
		{"all are users' services", &solov1.WatchRequest{Since: "start"}, "",
			[]string{"stderr: web", "stderr: team/db", "stderr: team-b/db", "event: ready"}},
		{"scope", &solov1.WatchRequest{Since: "start"}, "team/", []string{"stderr: team/db"}},
		{"system service by name", &solov1.WatchRequest{Service: "solo-gateway", Since: "start"}, "", []string{"stderr: solo-gateway"}},
		{"driver by name", &solov1.WatchRequest{Service: "solo-net", Since: "start"}, "", []string{"stderr: solo-net"}},
		{"by name outside the scope", &solov1.WatchRequest{Service: "web", Since: "start"}, "team/", nil},
		{"system service in a scope", &solov1.WatchRequest{Service: "solo-gateway", Since: "start"}, "team/", nil},
		{"logs", &solov1.WatchRequest{Service: "web", Since: "start", Kinds: []string{"log"}}, "", []string{"stderr: web"}},
		{"events", &solov1.WatchRequest{Service: "web", Since: "start", Kinds: []string{"event"}}, "", []string{"event: ready"}},
		{"both", &solov1.WatchRequest{Service: "web", Since: "start", Kinds: []string{"event", "log", "log"}}, "", []string{"stderr: web", "event: ready"}},
		{"since a number", &solov1.WatchRequest{Since: "2"}, "", []string{"stderr: team-b/db", "event: ready"}},
		{"since a number to come", &solov1.WatchRequest{Since: "18446744073709551615"}, "", nil},
		{"now", &solov1.WatchRequest{Since: "now"}, "", nil},
		{"nothing said", &solov1.WatchRequest{}, "", nil},
		{"unknown service", &solov1.WatchRequest{Service: "nobody", Since: "start"}, "", nil},
		{"bad kind", &solov1.WatchRequest{Kinds: []string{"smell"}}, "", []string{`solo: watch: kinds: "smell" is none of log, metric, event`}},
		{"bad since", &solov1.WatchRequest{Since: "-1"}, "", []string{`solo: watch: since: "-1" is neither now, start nor a sequence number`}},
	} {
		c.request.NoFollow = true
		if diff := cmp.Diff(c.want, texts(k.watch(c.request, c.scope).rest())); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// TestSlowWatcher: one who does not read is held up alone; when it reads again it is
// told that something is missing, and gets what is still kept.
func TestSlowWatcher(t *testing.T) {
	k := boot(t, t.TempDir())
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_MonitorConfig{MonitorConfig: &controlv1.MonitorConfig{LogBytesPerService: minLimit}}})
	slow := k.watch(&solov1.WatchRequest{Service: "a"}, "")
	fast := k.watch(&solov1.WatchRequest{Service: "a"}, "")
	settled(k)
	w := k.pipe(&controlv1.LogSource{Service: "a", Instance: "i", Stream: "stdout", Rate: 1 << 30, Tier: "user"})
	const lines = 6000 // 6 MB: more than all buffers hold
	go func() {
		for i := range lines {
			if _, err := fmt.Fprintf(w, "%d %s\n", i, strings.Repeat("x", 1000)); err != nil {
				t.Error(err)
			}
		}
		_ = w.Close()
	}()
	remarks := 0
	for next := 0; next < lines; {
		m := fast.next()
		if m.GetLog().GetStream() == "solo" {
			remarks++ // it may not keep pace on a busy host; then it must know
			next = -1
			continue
		}
		n, err := strconv.Atoi(strings.Fields(string(m.GetLog().GetText()))[0])
		if err != nil || next >= 0 && n != next {
			t.Fatalf("line %d where %d belongs: %v", n, next, err)
		}
		next = n + 1
	}
	if remarks > 0 {
		t.Logf("the fast watcher fell behind %d times", remarks)
	}
	// Now the slow one: lines, a remark, lines up to the last.
	var last uint64
	before, missing := -1, false
	for before != lines-1 {
		m := slow.next()
		if m == nil {
			t.Fatal("the stream ended")
		}
		if m.GetLog().GetStream() == "solo" {
			if !strings.Contains(string(m.GetLog().GetText()), "before they could be sent") || m.Sequence < last {
				t.Errorf("remark %d after %d: %s", m.Sequence, last, m.GetLog().GetText())
			}
			missing = true
			continue
		}
		n, err := strconv.Atoi(strings.Fields(string(m.GetLog().GetText()))[0])
		if err != nil || n <= before || n != before+1 && !missing || m.Sequence <= last {
			t.Fatalf("line %d after %d, remark %v: %v", n, before, missing, err)
		}
		if n != before+1 {
			missing = false
		}
		before, last = n, m.Sequence
	}
}

// settled waits until the monitor has taken all that was sent to it.
func settled(k *kernel) {
	k.watch(&solov1.WatchRequest{NoFollow: true}, "").rest()
}

// TestBrokenWatchers: peers that close, write, or are no sockets harm nobody.
func TestBrokenWatchers(t *testing.T) {
	k := boot(t, t.TempDir())
	closes := k.watch(&solov1.WatchRequest{}, "")
	if err := closes.conn.Close(); err != nil {
		t.Fatal(err)
	}
	talks := k.watch(&solov1.WatchRequest{}, "")
	if err := talks.conn.Send(&solov1.WatchRequest{Service: "x"}); err != nil {
		t.Fatal(err)
	}
	if m := talks.next(); m != nil {
		t.Errorf("to a watcher that talks: %v", m)
	}
	gives := k.watch(&solov1.WatchRequest{}, "")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	err = gives.conn.Send(&solov1.WatchRequest{Service: "x"}, null)
	_ = null.Close()
	if err != nil {
		t.Fatal(err)
	}
	if m := gives.next(); m != nil {
		t.Errorf("to a watcher that talks: %v", m)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Watcher{Watcher: &controlv1.Watcher{Request: &solov1.WatchRequest{}}}}, r)
	k.event("a", "deployed")
	testenv.Eventually(t, limit, "the event", func() bool { return len(k.stored("a")) == 1 })
}

// TestTooManyWatchers: one more than allowed is told so, and others are not harmed.
func TestTooManyWatchers(t *testing.T) {
	k := boot(t, t.TempDir())
	var all []*stream
	for range maxWatchers {
		all = append(all, k.watch(&solov1.WatchRequest{}, ""))
	}
	if got := texts(k.watch(&solov1.WatchRequest{}, "").rest()); len(got) != 1 || !strings.Contains(got[0], "256 watchers already") {
		t.Errorf("one more got %q", got)
	}
	k.event("a", "deployed")
	for _, s := range all {
		if m := s.next(); m.GetEvent().GetType() != "deployed" {
			t.Fatalf("a watcher got %v", m)
		}
		_ = s.conn.Close()
	}
	testenv.Eventually(t, limit, "a free place", func() bool {
		conn, peer, err := ipc.Pair()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		k.send(&controlv1.FromKernel{Item: &controlv1.FromKernel_Watcher{Watcher: &controlv1.Watcher{
			Request: &solov1.WatchRequest{Since: "start", NoFollow: true}}}}, peer)
		m := &solov1.WatchResponse{}
		_, _, err = conn.Receive(m)
		return err == nil && m.GetEvent() != nil
	})
}
