package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

func TestAppendAndReopen(t *testing.T) {
	records := kernelRecords(t, some(60)...)
	dir := t.TempDir()
	l := openLog(t, dir)
	if l.State() != (Chain{}) {
		t.Errorf("a new log stands at %+v", l.State())
	}
	for i := 0; i < len(records); i += 7 {
		batch := records[i:min(i+7, len(records))]
		got, err := l.Append(batch)
		check(t, err)
		if want := chainOf(batch); got != want {
			t.Fatalf("acknowledged %d %x, want %d %x", got.Count, got.Head, want.Count, want.Head)
		}
	}
	wantStored(t, dir, l, records)
	check(t, l.Close())
	for i, data := range files(t, dir) {
		if len(data) > smallFile || len(data) == 0 || data[len(data)-1] != '\n' {
			t.Errorf("file %d has %d bytes and does not end a line, or is over %d", i+1, len(data), smallFile)
		}
	}
	if n := len(files(t, dir)); n < 5 {
		t.Errorf("%d files only", n)
	}
	if _, err := l.Append(records); !errors.Is(err, os.ErrClosed) {
		t.Errorf("append after Close: %v", err)
	}
	check(t, l.Close())
	l = openLog(t, dir)
	wantStored(t, dir, l, records)
	// Nothing new is acknowledged as well: so the kernel learns where the log stands.
	got, err := l.Append(nil)
	check(t, err)
	if got != chainOf(records) {
		t.Errorf("an empty batch is acknowledged with %+v", got)
	}
	check(t, l.Close())
}

// TestAppendRefuses has batches for a log with ten of twenty records. Nothing of a
// refused one is stored, and the right one is taken afterwards.
func TestAppendRefuses(t *testing.T) {
	records := kernelRecords(t, some(20)...)
	other := kernelRecords(t, some(21)[1:]...)
	edit := func(r *controlv1.AuditRecord, change func(*controlv1.AuditRecord)) *controlv1.AuditRecord {
		c := proto.Clone(r).(*controlv1.AuditRecord)
		change(c)
		return c
	}
	for _, c := range []struct {
		name   string
		batch  []*controlv1.AuditRecord
		number uint64
		what   string
	}{
		{"missing first", records[11:], 11, "is missing before record 12"},
		{"missing in the middle", []*controlv1.AuditRecord{records[10], records[12]}, 12, "is missing before record 13"},
		{"out of order", []*controlv1.AuditRecord{records[11], records[10]}, 11, "is missing before record 12"},
		{"twice in the batch", []*controlv1.AuditRecord{records[10], records[10]}, 11, "is twice in the batch"},
		{"wrong hash", []*controlv1.AuditRecord{records[10], edit(records[11], func(r *controlv1.AuditRecord) { r.Hash[3] ^= 1 })}, 12, "wrong hash"},
		{"no hash", []*controlv1.AuditRecord{edit(records[10], func(r *controlv1.AuditRecord) { r.Hash = nil })}, 11, "wrong hash"},
		{"edited line", []*controlv1.AuditRecord{edit(records[10], func(r *controlv1.AuditRecord) { r.Line[20] ^= 1 })}, 11, ""},
		{"two lines in one", []*controlv1.AuditRecord{edit(records[10], func(r *controlv1.AuditRecord) {
			r.Line = append(append(r.Line, '\n'), records[11].GetLine()...)
		})}, 11, "newline"},
		{"line of another number", []*controlv1.AuditRecord{edit(records[11], func(r *controlv1.AuditRecord) { r.Number = 11 })}, 11, "the line says number 12"},
		{"another chain", other[10:], 11, "another previous hash"},
		{"number 0", []*controlv1.AuditRecord{{Number: 0, Line: records[0].GetLine()}}, 0, "no such record"},
		{"stored differently", append(records[8:9:9], other[9:]...), 10, "stored with other content"},
		{"stored with another hash", []*controlv1.AuditRecord{edit(records[4], func(r *controlv1.AuditRecord) { r.Hash[0] ^= 1 })}, 5, "stored with other content"},
		{"empty record", []*controlv1.AuditRecord{{Number: 11}}, 11, "not a JSON record"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l := openLog(t, dir)
			_, err := l.Append(records[:10])
			check(t, err)
			got, err := l.Append(c.batch)
			wantChainError(t, err, c.number, c.what)
			if got != chainOf(records[:10]) {
				t.Errorf("answered %+v", got)
			}
			wantStored(t, dir, l, records[:10])
			// The whole outbox again, as after a restart of the kernel.
			_, err = l.Append(records)
			check(t, err)
			wantStored(t, dir, l, records)
			check(t, l.Close())
		})
	}
}

// TestDuplicates sends everything again, whole and in parts, over several files.
func TestDuplicates(t *testing.T) {
	records := kernelRecords(t, some(60)...)
	dir := t.TempDir()
	l := openLog(t, dir)
	_, err := l.Append(records[:50])
	check(t, err)
	for _, batch := range [][]*controlv1.AuditRecord{
		records[:50], records[:1], records[49:50], records[20:31],
		{records[3], records[30], records[4], records[4]}, records[40:60],
	} {
		_, err := l.Append(batch)
		check(t, err)
	}
	wantStored(t, dir, l, records)
	check(t, l.Close())
}

// TestAnyHistory appends random batches, some of them again, with random restarts,
// some of which tear the last write. What was acknowledged is always there.
func TestAnyHistory(t *testing.T) {
	records := kernelRecords(t, some(120)...)
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "log")
		check(t, err)
		l, err := OpenLog(dir, int64(rapid.IntRange(1, 5000).Draw(rt, "file size")))
		check(t, err)
		defer func() { check(t, l.Close()) }()
		acked := 0
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			from := acked - min(acked, rapid.IntRange(0, 10).Draw(rt, "again"))
			to := min(len(records), from+rapid.IntRange(0, 30).Draw(rt, "batch"))
			got, err := l.Append(records[from:to])
			check(t, err)
			acked = max(acked, to)
			if got != chainOf(records[:acked]) {
				rt.Fatalf("after %d: acknowledged %d", acked, got.Count)
			}
			if !rapid.Bool().Draw(rt, "restart") {
				continue
			}
			check(t, l.Close())
			stored := acked
			if stored < len(records) && rapid.Bool().Draw(rt, "tear") {
				// A write of the next records that the end came upon.
				var data []byte
				for _, r := range records[acked:min(len(records), acked+3)] {
					data = append(append(data, r.GetLine()...), '\n')
				}
				data = data[:rapid.IntRange(0, len(data)).Draw(rt, "written")]
				all := files(t, dir)
				tearFile(t, filepath.Join(dir, fileName(len(all))), data)
				for rest := data; ; stored++ {
					if stored == len(records) || len(rest) <= len(records[stored].GetLine()) {
						break
					}
					rest = rest[len(records[stored].GetLine())+1:]
				}
			}
			l, err = OpenLog(dir, int64(rapid.IntRange(1, 5000).Draw(rt, "file size")))
			check(t, err)
			if got := l.State(); got != chainOf(records[:stored]) {
				rt.Fatalf("reopened at %d, want %d", got.Count, stored)
			}
			acked = stored
		}
		wantStored(t, dir, l, records[:acked])
	})
}

// tearFile appends data to a file of the log.
func tearFile(t testing.TB, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	check(t, err)
	_, err = f.Write(data)
	check(t, errors.Join(err, f.Close()))
}

// TestNothingIsAcknowledgedUnsynced gives the log a device that takes every write but
// refuses fdatasync.
func TestNothingIsAcknowledgedUnsynced(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Symlink("/dev/null", filepath.Join(dir, fileName(1))))
	l := openLog(t, dir)
	records := kernelRecords(t, some(2)...)
	for range 2 {
		got, err := l.Append(records)
		if !errors.Is(err, unix.EINVAL) || got != (Chain{}) {
			t.Errorf("%+v, %v, want nothing and EINVAL", got, err)
		}
	}
	check(t, l.Close())
}

// TestDiskFull fills a small file system: the append that does not fit fails and
// leaves no part of itself; with room again the log goes on.
func TestDiskFull(t *testing.T) {
	testenv.RequireRoot(t)
	records := kernelRecords(t, some(400)...)
	t.Run("small batches", func(t *testing.T) { fillDisk(t, records, 13, 6000) })
	// Of a large one the system writes what fits.
	t.Run("large batches", func(t *testing.T) { fillDisk(t, records, 120, DefaultFileBytes) })
}

func fillDisk(t *testing.T, records []*controlv1.AuditRecord, step int, fileBytes int64) {
	dir := t.TempDir()
	testenv.Leaks(t, testenv.Scope{Paths: []string{dir}})
	check(t, unix.Mount("solo-test", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=32k,mode=700"))
	t.Cleanup(func() { check(t, unix.Unmount(dir, 0)) })
	l, err := OpenLog(dir, fileBytes)
	check(t, err)
	acked := 0
	for err == nil && acked+step < len(records) {
		var got Chain
		if got, err = l.Append(records[acked : acked+step]); err == nil {
			acked += step
		}
		if got != chainOf(records[:acked]) {
			t.Fatalf("answered %d, want %d", got.Count, acked)
		}
	}
	if !errors.Is(err, unix.ENOSPC) || acked == 0 {
		t.Fatalf("after %d records: %v, want ENOSPC", acked, err)
	}
	wantStored(t, dir, l, records[:acked])
	check(t, unix.Mount("solo-test", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, "size=1m"))
	// What the file holds is not known after an error, so it must be opened anew.
	if _, again := l.Append(records[acked:]); !errors.Is(again, unix.ENOSPC) {
		t.Errorf("the next append: %v, want the same error", again)
	}
	check(t, l.Close())
	l, err = OpenLog(dir, fileBytes)
	check(t, err)
	_, err = l.Append(records[acked-5:])
	check(t, err)
	wantStored(t, dir, l, records)
	check(t, l.Close())
}

// TestNoRoomForTheNextFile: the directory takes no further file.
func TestNoRoomForTheNextFile(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	records := kernelRecords(t, some(30)...)
	_, err := l.Append(records[:5])
	check(t, err)
	// The name is taken, by a directory even.
	check(t, os.Mkdir(filepath.Join(dir, fileName(2)), 0o755))
	got, err := l.Append(records[5:])
	if !errors.Is(err, os.ErrExist) || got != chainOf(records[:5]) {
		t.Errorf("%d, %v", got.Count, err)
	}
	check(t, l.Close())
	check(t, os.Remove(filepath.Join(dir, fileName(2))))
	l = openLog(t, dir)
	_, err = l.Append(records)
	check(t, err)
	wantStored(t, dir, l, records)
	check(t, l.Close())
}

func ExampleChainError() {
	fmt.Println(&ChainError{Number: 3, What: "is missing before record 4"})
	// Output: audit record 3: is missing before record 4
}
