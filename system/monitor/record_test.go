package monitor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

var compareRecords = cmp.AllowUnexported(record{})

func drawRecord(t *rapid.T) record {
	return record{
		sequence: rapid.Uint64().Draw(t, "sequence"),
		time:     rapid.Int64().Draw(t, "time"),
		kind:     rapid.SampledFrom([]kind{kindStdout, kindStderr, kindSolo, kindEvent}).Draw(t, "kind"),
		partial:  rapid.Bool().Draw(t, "partial"),
		instance: clip(rapid.StringN(0, 300, 300).Draw(t, "instance"), maxInstance),
		text:     rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "text"),
	}
}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		b := r.encode([]byte("before"))[len("before"):]
		if len(b) != r.encodedSize() {
			t.Fatalf("%d bytes, said %d", len(b), r.encodedSize())
		}
		got, n, err := decode(append(b, "after"...))
		if err != nil || n != len(b) {
			t.Fatalf("%d, %v", n, err)
		}
		if diff := cmp.Diff(r, got, compareRecords); diff != "" {
			t.Fatal(diff)
		}
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		if _, _, err := decode(b[:cut]); !errors.Is(err, errShort) {
			t.Fatalf("%d of %d bytes: %v", cut, len(b), err)
		}
		b[rapid.IntRange(0, len(b)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if got, _, err := decode(b); err == nil {
			t.Fatalf("a damaged record reads as %+v", got)
		}
	})
}

func TestLargestRecord(t *testing.T) {
	r := record{sequence: 1, kind: kindStdout, instance: strings.Repeat("i", maxInstance), text: bytes.Repeat([]byte{0}, maxLine)}
	if n := r.encodedSize(); n != maxRecord {
		t.Errorf("%d bytes, want %d", n, maxRecord)
	}
	if _, _, err := decode(r.encode(nil)); err != nil {
		t.Error(err)
	}
	if n := maxHeader + maxRecord; n > minSegment || n > scanBytes {
		t.Errorf("%d bytes do not fit a segment of %d or a buffer of %d", n, minSegment, scanBytes)
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	for _, name := range []string{"a", "team/web", strings.Repeat("x", maxName)} {
		for _, tier := range tiers {
			b := encodeHeader(name, tier)
			gotName, gotTier, n, err := decodeHeader(append(b, "after"...))
			if gotName != name || gotTier != tier || n != len(b) || err != nil {
				t.Errorf("%s, %s: got %s, %s, %d, %v", name, tier, gotName, gotTier, n, err)
			}
			for i := range b {
				if _, _, _, err := decodeHeader(b[:i]); !errors.Is(err, errShort) {
					t.Errorf("%d of %d bytes: %v", i, len(b), err)
				}
			}
		}
	}
}

func TestEventTextIsBounded(t *testing.T) {
	huge := strings.Repeat("ü", 64<<10)
	b := eventText(&solov1.Event{Type: "limit", State: huge, Reason: huge, Detail: huge, Version: 3})
	e := &solov1.Event{}
	if err := proto.Unmarshal(b, e); err != nil || len(b) > maxEventText || e.Type != "limit" || e.Version != 3 || e.Detail == "" {
		t.Errorf("%d bytes, %v: %.100s", len(b), err, e)
	}
}

// FuzzDecode: whatever stands on disk, decode neither fails badly nor reads what
// encode would not write.
func FuzzDecode(f *testing.F) {
	r := record{sequence: 7, time: 8, kind: kindStderr, partial: true, instance: "i", text: []byte("text")}
	f.Add(r.encode(nil))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := decode(b)
		if err == nil && !bytes.Equal(r.encode(nil), b[:n]) {
			t.Errorf("%x reads as %+v", b[:n], r)
		}
	})
}

// FuzzSegment: a file with any content, given out as a segment, is read to an end,
// and check leaves a file that reads without a fault.
func FuzzSegment(f *testing.F) {
	one := record{sequence: 7, kind: kindStdout, text: []byte("one")}
	two := record{sequence: 9, kind: kindStdout, text: []byte("two")}
	whole := two.encode(one.encode(encodeHeader("svc", "user")))
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(one.encode(append([]byte(nil), whole...)))
	f.Add(append(append([]byte(nil), whole...), make([]byte, 100)...))
	f.Add([]byte(magic))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			t.Skip()
		}
		tr := track{dir: dir, prefix: logPrefix, segments: []segment{{first: 7, size: int64(len(b))}}}
		path := tr.path(tr.segments[0])
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(path) }()
		if err := tr.check(1 << 40); err != nil {
			t.Fatal(err)
		}
		if len(tr.segments) == 0 {
			if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 0 {
				t.Errorf("left: %q", files)
			}
			return
		}
		st, err := os.Stat(path)
		if err != nil || st.Size() != tr.segments[0].size {
			t.Fatalf("the file is not as the track says: %v", err)
		}
		sc := &scanner{path: path, end: st.Size(), after: 6}
		if last, _, err := sc.all(1 << 40); err != nil || last != tr.last {
			t.Errorf("after check: %d, %v", last, err)
		}
	})
}
