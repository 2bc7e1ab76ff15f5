package monitor

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// TestMerge: the records of many services, more than a reader has buffers for, come
// in the order of their numbers from wherever the reader begins, without the ones it
// does not want.
func TestMerge(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		st, err := openStore(dir, time.Minute, func(format string, args ...any) { t.Fatalf(format, args...) })
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := st.close(); err != nil {
				t.Fatal(err)
			}
			_ = os.RemoveAll(dir)
		}()
		services := rapid.IntRange(1, 3*maxBuffers).Draw(t, "services")
		f := filter{kinds: rapid.SampledFrom([]wants{wantLogs, wantEvents, wantLogs | wantEvents}).Draw(t, "kinds")}
		if rapid.Bool().Draw(t, "named") {
			f.service = fmt.Sprintf("s%d", rapid.IntRange(0, services-1).Draw(t, "service"))
		}
		var all []string
		count := rapid.IntRange(0, 200).Draw(t, "records")
		pos := rapid.Uint64Range(0, uint64(count)).Draw(t, "pos")
		for n := uint64(1); n <= uint64(count); n++ {
			name := fmt.Sprintf("s%d", rapid.IntRange(0, services-1).Draw(t, "of"))
			typ := rapid.SampledFrom([]string{"", "", "", "exited", "deleted"}).Draw(t, "type")
			want := wantEvents
			if typ == "" {
				want = wantLogs
				st.append(st.open(name, "user"), []record{{kind: kindStdout, text: fmt.Appendf(nil, "%d", n)}})
			} else {
				st.event(&controlv1.ServiceEvent{Service: name, Tier: "user", Event: &solov1.Event{Type: typ, Version: n}})
			}
			if n > pos && f.kinds&want != 0 && f.match(name, "user") {
				all = append(all, fmt.Sprintf("%d %s", n, name))
			}
		}
		rd := st.read(f, pos, true)
		var got []string
		for {
			r, err := rd.next()
			if err != nil {
				break
			}
			if text := string(r.text); r.kind != kindEvent && text != fmt.Sprint(r.sequence) {
				t.Fatalf("record %d has the text %q", r.sequence, text)
			} else if r.kind == kindEvent && r.message().GetEvent().GetVersion() != r.sequence {
				t.Fatalf("record %d has the event %v", r.sequence, r.message())
			}
			got = append(got, fmt.Sprintf("%d %s", r.sequence, r.series.name))
			buffers := 0
			for _, c := range rd.cursors {
				if c.scan.buf != nil {
					buffers++
				}
			}
			if buffers > maxBuffers {
				t.Fatalf("%d buffers are in use", buffers)
			}
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Fatal(diff)
		}
		if rd.pos != uint64(count) {
			t.Fatalf("the reader came to %d of %d", rd.pos, count)
		}
	})
}

// TestRingEqualsModel: the ring has the newest records within its bounds, or says
// that it has not.
func TestRingEqualsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r ring
		first := rapid.Uint64Range(0, 1<<40).Draw(t, "first")
		r.reset(first)
		size := rapid.SampledFrom([]int{0, 10, 1000, maxLine}).Draw(t, "bytes")
		n := rapid.IntRange(0, 3*ringRecords).Draw(t, "records")
		text := make([]byte, size)
		for i := range n {
			r.push(&record{sequence: first + 1 + uint64(i), text: text})
		}
		if r.last != first+uint64(n) {
			t.Fatalf("last is %d", r.last)
		}
		one := (&record{text: text}).encodedSize()
		keeps := min(n, ringRecords, ringBytes/one)
		if r.n != keeps || r.bytes != keeps*one {
			t.Fatalf("the ring has %d records, %d bytes; want %d of %d", r.n, r.bytes, keeps, one)
		}
		pos := first + rapid.Uint64Range(0, uint64(n)).Draw(t, "pos")
		batch := rapid.IntRange(1, 100).Draw(t, "batch")
		list, ok := r.after(nil, pos, batch)
		if want := r.last-pos <= uint64(keeps); ok != want {
			t.Fatalf("after %d of %d: %v", pos, r.last, ok)
		}
		if ok && len(list) != min(batch, int(r.last-pos)) {
			t.Fatalf("after %d of %d: %d records", pos, r.last, len(list))
		}
		for i, rec := range list {
			if rec.sequence != pos+1+uint64(i) {
				t.Fatalf("number %d at %d after %d", rec.sequence, i, pos)
			}
		}
	})
}
