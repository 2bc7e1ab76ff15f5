package monitor

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// piece is what a splitter handed on.
type piece struct {
	Text    string
	Partial bool
}

// model splits the whole stream at once.
func model(data string) (list []piece) {
	for line := range strings.Lines(data) {
		text, ended := strings.CutSuffix(line, "\n")
		for len(text) > maxLine {
			list = append(list, piece{text[:maxLine], true})
			text = text[maxLine:]
		}
		if ended || text != "" {
			list = append(list, piece{text, false})
		}
	}
	return list
}

func TestSplitterEqualsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lengths := rapid.SliceOfN(rapid.OneOf(
			rapid.IntRange(0, 40), rapid.IntRange(maxLine-2, maxLine+2), rapid.IntRange(2*maxLine-2, 2*maxLine+2)), 0, 8).Draw(t, "lines")
		var data []byte
		for i, n := range lengths {
			data = append(append(data, bytes.Repeat([]byte{'a' + byte(i)}, n)...), '\n')
		}
		if len(data) > 0 && rapid.Bool().Draw(t, "unfinished") {
			data = data[:len(data)-1]
		}
		var got []piece
		out := func(text []byte, partial bool) { got = append(got, piece{string(text), partial}) }
		var s splitter
		for rest := data; len(rest) > 0; {
			n := min(len(rest), rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, readBytes)).Draw(t, "chunk"))
			s.write(rest[:n:n], out)
			rest = rest[n:]
			if len(s.rest) > maxLine || cap(s.rest) > 2*maxLine {
				t.Fatalf("the splitter holds %d bytes in %d", len(s.rest), cap(s.rest))
			}
		}
		s.flush(false, out)
		if diff := cmp.Diff(model(string(data)), got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestSplitterEdges(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		name string
		data []string
		want []piece
	}{
		{"empty lines", []string{"\n\n", "\n"}, []piece{{"", false}, {"", false}, {"", false}}},
		{"longest line", []string{long, "\n"}, []piece{{long, false}}},
		{"longest line at once", []string{long + "\n"}, []piece{{long, false}}},
		{"one byte more", []string{long, "y\n"}, []piece{{long, true}, {"y", false}}},
		{"newline apart", []string{long + "y", "\nz"}, []piece{{long, true}, {"y", false}, {"z", false}}},
		{"NUL and CR", []string{"\x00\r\n"}, []piece{{"\x00\r", false}}},
	} {
		var got []piece
		out := func(text []byte, partial bool) { got = append(got, piece{string(text), partial}) }
		var s splitter
		for _, d := range c.data {
			s.write([]byte(d), out)
		}
		s.flush(false, out)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %d pieces, want %d", c.name, len(got), len(c.want))
		}
	}
}

// TestBucketBounds: over any time at most burst + rate × time passes, and a writer
// under the rate loses nothing.
func TestBucketBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Uint64Range(1, 10<<20).Draw(t, "rate")
		now := time.Unix(1000, 0)
		begin := now
		b := newBucket(rate, now)
		passed := 0.0
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "wait")))
			b.fill(now)
			if n := rapid.IntRange(1, 4<<20).Draw(t, "bytes"); b.take(n) {
				passed += float64(n)
			}
			if most := b.burst() + float64(rate)*now.Sub(begin).Seconds(); passed > most+1 {
				t.Fatalf("%.0f bytes passed, at most %.0f may", passed, most)
			}
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Uint64Range(1, 10<<20).Draw(t, "rate")
		now := time.Unix(1000, 0)
		b := newBucket(rate, now)
		// A line comes when the writer's own budget, which has no burst, allows it.
		for range rapid.IntRange(1, 200).Draw(t, "lines") {
			n := rapid.IntRange(1, maxLine).Draw(t, "bytes")
			now = now.Add(time.Duration(float64(n)/float64(rate)*1e9) + 2)
			if rapid.Bool().Draw(t, "busy") {
				b.grace(now) // the monitor was at work meanwhile
			} else {
				b.fill(now)
			}
			if !b.take(n) {
				t.Fatalf("a line of %d bytes under the rate of %d was dropped", n, rate)
			}
		}
	})
}

// TestBucketGrace: what a writer could not write because it waited for the monitor
// does not count against it, however long that was.
func TestBucketGrace(t *testing.T) {
	now := time.Unix(1000, 0)
	b := newBucket(1<<20, now)
	now = now.Add(10 * time.Second)
	b.grace(now)
	b.fill(now.Add(time.Millisecond))
	if !b.take(10 << 20) {
		t.Error("10 s of waiting do not allow 10 s worth of lines")
	}
	b.grace(now.Add(time.Hour))
	if b.take(maxGrace<<20 + 1) {
		t.Error("an hour of waiting is not bounded")
	}
}
