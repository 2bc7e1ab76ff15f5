package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOpenDamaged changes a stored log of several files before it is opened.
func TestOpenDamaged(t *testing.T) {
	const n = 40
	records := kernelRecords(t, some(n)...)
	for _, c := range []struct {
		name string
		// damage gets the directory and the number of files.
		damage func(t *testing.T, dir string, files int)
		// want is how many records are left, or what the error says.
		want  int
		error string
	}{
		{"nothing", func(*testing.T, string, int) {}, n, ""},
		{"torn line", func(t *testing.T, dir string, files int) {
			tearFile(t, filepath.Join(dir, fileName(files)), []byte(`{"number":41,"time"`))
		}, n, ""},
		{"zeros after the end", func(t *testing.T, dir string, files int) {
			tearFile(t, filepath.Join(dir, fileName(files)), make([]byte, 512))
		}, n, ""},
		{"last byte lost", func(t *testing.T, dir string, files int) {
			rewrite(t, dir, files, func(b []byte) []byte { return b[:len(b)-1] })
		}, n - 1, ""},
		{"empty next file", func(t *testing.T, dir string, files int) {
			check(t, os.WriteFile(filepath.Join(dir, fileName(files+1)), nil, 0o640))
		}, n, ""},
		{"torn first line of the next file", func(t *testing.T, dir string, files int) {
			check(t, os.WriteFile(filepath.Join(dir, fileName(files+1)), []byte(`{"number":41`), 0o640))
		}, n, ""},
		{"other files beside", func(t *testing.T, dir string, _ int) {
			check(t, os.WriteFile(filepath.Join(dir, "audit-notes.txt"), []byte("x"), 0o640))
			check(t, os.Mkdir(filepath.Join(dir, "lost+found"), 0o700))
		}, n, ""},
		{"two files without records", func(t *testing.T, dir string, files int) {
			check(t, os.WriteFile(filepath.Join(dir, fileName(files+1)), nil, 0o640))
			check(t, os.WriteFile(filepath.Join(dir, fileName(files+2)), nil, 0o640))
		}, 0, "has no record but is not the last"},
		{"torn line before an empty file", func(t *testing.T, dir string, files int) {
			tearFile(t, filepath.Join(dir, fileName(files)), []byte(`{`))
			check(t, os.WriteFile(filepath.Join(dir, fileName(files+1)), nil, 0o640))
		}, 0, "ends in a torn line but is not the last"},
		{"edited line", func(t *testing.T, dir string, files int) {
			rewrite(t, dir, files, func(b []byte) []byte { return bytes.Replace(b, []byte("deploy"), []byte("denied"), 1) })
		}, 0, "another previous hash"},
		{"removed line", func(t *testing.T, dir string, files int) {
			rewrite(t, dir, files, func(b []byte) []byte {
				lines := bytes.SplitAfter(b, []byte("\n"))
				return bytes.Join(append(lines[:1], lines[2:]...), nil)
			})
		}, 0, "the line says number"},
		{"line of no record", func(t *testing.T, dir string, files int) {
			tearFile(t, filepath.Join(dir, fileName(files)), []byte("hello\n"))
		}, 0, "audit record 41: line is not a JSON record"},
		{"over-long line", func(t *testing.T, dir string, files int) {
			tearFile(t, filepath.Join(dir, fileName(files)), bytes.Repeat([]byte("x"), maxLine+10))
		}, 0, "a line is longer than"},
		{"garbage in an early file", func(t *testing.T, dir string, _ int) {
			rewrite(t, dir, 1, func(b []byte) []byte { return append([]byte("x"), b...) })
		}, 0, "not a JSON record"},
		{"record 0", func(t *testing.T, dir string, files int) {
			rewrite(t, dir, files, func([]byte) []byte { return append(line(0, zeros), '\n') })
		}, 0, "record 0"},
		{"emptied early file", func(t *testing.T, dir string, _ int) {
			rewrite(t, dir, 2, func([]byte) []byte { return nil })
		}, 0, "has no record but is not the last"},
		{"first file removed", func(t *testing.T, dir string, _ int) {
			check(t, os.Remove(filepath.Join(dir, fileName(1))))
		}, 0, "no such file"},
		{"middle file removed", func(t *testing.T, dir string, _ int) {
			check(t, os.Remove(filepath.Join(dir, fileName(2))))
		}, 0, "no such file"},
		{"directory gone", func(t *testing.T, dir string, _ int) {
			check(t, os.RemoveAll(dir))
		}, 0, "no such file"},
		{"file is a directory", func(t *testing.T, dir string, files int) {
			check(t, os.Mkdir(filepath.Join(dir, fileName(files+1)), 0o700))
		}, 0, "is a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "audit")
			check(t, os.Mkdir(dir, 0o700))
			l := openLog(t, dir)
			for i := 0; i < n; i += 5 {
				_, err := l.Append(records[i : i+5])
				check(t, err)
			}
			check(t, l.Close())
			c.damage(t, dir, len(files(t, dir)))
			l, err := OpenLog(dir, smallFile)
			if c.error != "" {
				if err == nil || !strings.Contains(err.Error(), c.error) {
					t.Errorf("open: %v, want … %s", err, c.error)
				}
				if err == nil {
					check(t, l.Close())
				}
				return
			}
			check(t, err)
			wantStored(t, dir, l, records[:c.want])
			_, err = l.Append(records[c.want-1:])
			check(t, err)
			wantStored(t, dir, l, records)
			check(t, l.Close())
		})
	}
}

// rewrite changes a file of the log.
func rewrite(t *testing.T, dir string, file int, change func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, fileName(file))
	data, err := os.ReadFile(path)
	check(t, err)
	check(t, os.WriteFile(path, change(data), 0o640))
}
