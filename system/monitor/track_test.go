package monitor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/solo-os/solo/test/testenv"
)

func newTrack(dir string) *track {
	return &track{dir: dir, prefix: logPrefix, header: encodeHeader("svc", "user"), checked: true}
}

// lines makes records with numbers from first on, of n bytes each.
func lines(first uint64, count, n int) (list []record) {
	for i := range count {
		text := fmt.Appendf(nil, "%d ", first+uint64(i))
		list = append(list, record{sequence: first + uint64(i), kind: kindStdout,
			text: append(text, bytes.Repeat([]byte{'.'}, max(0, n-len(text)))...)})
	}
	return list
}

// numbersIn reads all that a track has.
func numbersIn(t interface{ Fatal(...any) }, tr *track) (list []uint64) {
	for _, s := range tr.segments {
		sc := &scanner{path: tr.path(s), end: s.size, after: s.first - 1}
		for {
			r, err := sc.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, r.sequence)
		}
	}
	return list
}

// onDisk is the size of a directory's files.
func onDisk(t interface{ Fatal(...any) }, dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

// TestRotation: whatever the limit and the lines, the files never exceed the limit,
// and what they hold is the newest, without a gap.
func TestRotation(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		limit := rapid.Int64Range(2*minSegment, 12*minSegment).Draw(t, "limit")
		tr := newTrack(filepath.Join(dir, "svc"))
		next := uint64(1)
		for range rapid.IntRange(1, 12).Draw(t, "batches") {
			batch := lines(next, rapid.IntRange(1, 60).Draw(t, "lines"),
				rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, maxLine)).Draw(t, "bytes"))
			if n, err := tr.append(batch, limit); err != nil || n != len(batch) {
				t.Fatalf("stored %d of %d: %v", n, len(batch), err)
			}
			next += uint64(len(batch))
			if n := onDisk(t, tr.dir); n > limit || n != tr.size() {
				t.Fatalf("%d bytes on disk, %d counted, %d allowed", n, tr.size(), limit)
			}
		}
		got := numbersIn(t, tr)
		if len(got) == 0 || got[len(got)-1] != next-1 {
			t.Fatalf("the last of %d lines is missing", next-1)
		}
		for i, n := range got {
			if n != got[0]+uint64(i) {
				t.Fatalf("number %d after %d", n, got[i-1])
			}
		}
		if tr.removed != got[0]-1 || tr.last != next-1 {
			t.Fatalf("removed up to %d of %d, and %d is the first", tr.removed, tr.last, got[0])
		}
	})
}

// TestRotationEdges: a record that just fits stays in the segment, one byte more
// begins the next.
func TestRotationEdges(t *testing.T) {
	const limit = 8 * minSegment // segments of minSegment
	header := int64(len(encodeHeader("svc", "user")))
	for _, c := range []struct{ over, segments int }{{0, 1}, {1, 2}} {
		tr := newTrack(filepath.Join(t.TempDir(), "svc"))
		first := lines(1, 1, 10000)
		rest := minSegment - int(header) - first[0].encodedSize() - frameBytes - fixedBytes
		for _, batch := range [][]record{first, lines(2, 1, rest+c.over)} {
			if _, err := tr.append(batch, limit); err != nil {
				t.Fatal(err)
			}
		}
		if len(tr.segments) != c.segments {
			t.Errorf("%d bytes over: %d segments, want %d", c.over, len(tr.segments), c.segments)
		}
	}
}

// TestTornTail cuts the last segment after every byte and adds what a crash may leave.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	tr := newTrack(dir)
	if _, err := tr.append(lines(5, 4, 20), 1<<20); err != nil {
		t.Fatal(err)
	}
	path := tr.path(tr.segments[0])
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	one := lines(5, 1, 20)
	size := one[0].encodedSize()
	header := len(tr.header)
	stale := lines(3, 1, 20)
	for cut := 0; cut <= len(whole); cut++ {
		for name, junk := range map[string][]byte{
			"": nil, "zeros": make([]byte, 64), "older record": stale[0].encode(nil), "junk": bytes.Repeat([]byte{0xa5}, 30),
		} {
			if cut < len(whole) && name != "" && (cut-header)%size != 0 {
				continue // junk after a torn record: the record is torn all the same
			}
			if err := os.WriteFile(path, append(bytes.Clone(whole[:cut]), junk...), 0o600); err != nil {
				t.Fatal(err)
			}
			again := &track{dir: dir, prefix: logPrefix, header: tr.header, segments: []segment{{first: 5, size: int64(cut + len(junk))}}}
			if err := again.check(100); err != nil {
				t.Fatalf("cut at %d, %s: %v", cut, name, err)
			}
			want := max(0, cut-header) / size
			if got := numbersIn(t, again); len(got) != want || want > 0 && again.last != uint64(4+want) {
				t.Fatalf("cut at %d, %s: %d left, last %d; want %d", cut, name, got, again.last, want)
			}
			// It goes on as if nothing had been.
			if _, err := again.append(lines(50, 2, 20), 1<<20); err != nil {
				t.Fatal(err)
			}
			if got := numbersIn(t, again); len(got) != want+2 {
				t.Fatalf("cut at %d, %s: then %d", cut, name, got)
			}
			for _, s := range again.segments {
				if err := os.Remove(again.path(s)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestCheckCutsNumbersBeyondUse: what bears a number that was never given out is not
// a record of ours.
func TestCheckCutsNumbersBeyondUse(t *testing.T) {
	tr := newTrack(t.TempDir())
	if _, err := tr.append(lines(1, 10, 20), 1<<20); err != nil {
		t.Fatal(err)
	}
	tr.checked = false
	if err := tr.check(6); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint64{1, 2, 3, 4, 5, 6}, numbersIn(t, tr)); diff != "" || tr.last != 6 {
		t.Errorf("last %d: %s", tr.last, diff)
	}
}

// TestDiskFull fills a real file system: the newest lines win over old ones, and a
// track that cannot store stays good.
func TestDiskFull(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := t.TempDir()
	testenv.Leaks(t, testenv.Scope{Paths: []string{dir}})
	if err := unix.Mount("solo-test", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	tr := newTrack(filepath.Join(dir, "svc"))
	for i := range 40 { // 400 KiB
		batch := lines(uint64(1+10*i), 10, 1000)
		if n, err := tr.append(batch, 16*minSegment); err != nil || n != 10 {
			t.Fatalf("batch %d: stored %d: %v", i, n, err)
		}
	}
	got := numbersIn(t, tr)
	if got[len(got)-1] != 400 || len(got) < 50 {
		t.Errorf("%d lines, the last is %d", len(got), got[len(got)-1])
	}
	// Another takes the space, and the track has nothing left to give.
	for len(tr.segments) > 1 {
		if err := tr.drop(); err != nil {
			t.Fatal(err)
		}
	}
	hog := filepath.Join(dir, "hog")
	fill(t, hog)
	before := numbersIn(t, tr)
	n, err := tr.append(lines(401, 10, 1000), 16*minSegment)
	for err == nil { // the page that is not full yet
		before = numbersIn(t, tr)
		n, err = tr.append(lines(tr.last+1, 10, 1000), 16*minSegment)
	}
	if !errors.Is(err, unix.ENOSPC) || n != 0 {
		t.Errorf("stored %d on a full disk: %v", n, err)
	}
	if diff := cmp.Diff(before, numbersIn(t, tr)); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	if n, err := tr.append(lines(1000, 10, 1000), 16*minSegment); err != nil || n != 10 {
		t.Errorf("after space came back: %d, %v", n, err)
	}
}

// fill writes a file until there is no space.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
