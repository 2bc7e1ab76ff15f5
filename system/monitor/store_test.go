package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

func open(t *testing.T, dir string) *store {
	t.Helper()
	st, err := openStore(dir, time.Minute, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func shut(t *testing.T, st *store) {
	t.Helper()
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
}

// crash gives the store up as a killed process does.
func crash(st *store) { _ = st.numbers.file.Close() }

func put(st *store, service string, texts ...string) {
	var list []record
	for _, text := range texts {
		list = append(list, record{kind: kindStdout, time: 1, text: []byte(text)})
	}
	st.append(st.open(service, "user"), list)
}

func putEvent(st *store, service, typ string) {
	st.event(&controlv1.ServiceEvent{Service: service, TimeUnixNano: 1, Event: &solov1.Event{Type: typ}, Tier: "user"})
}

var everything = filter{kinds: wantLogs | wantEvents}

// drain reads all that is stored after pos as "number service text".
func drain(t *testing.T, st *store, f filter, pos uint64, complete bool) (list []string) {
	t.Helper()
	rd := st.read(f, pos, complete)
	for {
		r, err := rd.next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		text := string(r.text)
		if r.kind == kindEvent {
			text = r.message().GetEvent().GetType()
		}
		list = append(list, fmt.Sprintf("%d %s %s", r.sequence, r.series.name, text))
	}
}

// TestRestart: after a clean stop numbers go on without a gap, after a crash above
// all that were given out; what was stored is there both times.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	putEvent(st, "a", "deployed")
	put(st, "a", "one", "two")
	put(st, "b/c", "three")
	shut(t, st)

	st = open(t, dir)
	put(st, "a", "four")
	putEvent(st, "b/c", "exited")
	want := []string{"1 a deployed", "2 a one", "3 a two", "4 b/c three", "5 a four", "6 b/c exited"}
	if diff := cmp.Diff(want, drain(t, st, everything, 0, false)); diff != "" {
		t.Error(diff)
	}
	crash(st)

	st = open(t, dir)
	put(st, "a", "five")
	got := drain(t, st, everything, 4, true)
	if len(got) != 3 || !cmp.Equal(got[:2], want[4:]) || !strings.HasSuffix(got[2], " a five") {
		t.Fatalf("after a crash: %q", got)
	}
	last := st.numbers.last
	if last <= 6 {
		t.Errorf("after a crash number %d was given out", last)
	}
	// The service with the highest numbers goes, and the process with it.
	st.remove("a")
	crash(st)
	st = open(t, dir)
	defer shut(t, st)
	if st.numbers.last < last {
		t.Errorf("the numbers go back from %d to %d", last, st.numbers.last)
	}
	if diff := cmp.Diff([]string{"4 b/c three", "6 b/c exited"}, drain(t, st, everything, 0, false)); diff != "" {
		t.Error(diff)
	}
}

// TestNumbersAreFound: without its file the store finds the last number in the logs.
func TestNumbersAreFound(t *testing.T) {
	for _, content := range []string{"", "nonsense", "-1", "99999999999999999999"} {
		dir := t.TempDir()
		st := open(t, dir)
		put(st, "a", "one", "two")
		put(st, "b", "three")
		shut(t, st)
		if err := os.WriteFile(filepath.Join(dir, numbersFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		st = open(t, dir)
		put(st, "a", "four")
		want := []string{"1 a one", "2 a two", "3 b three", "4 a four"}
		if diff := cmp.Diff(want, drain(t, st, everything, 0, false)); diff != "" {
			t.Errorf("%q: %s", content, diff)
		}
		shut(t, st)
	}
}

// TestOneProcess: a second process gets the store when the first has let it go.
func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	if st, err := openStore(dir, 0, t.Logf); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("opened twice: %v, %v", st, err)
	}
	next := make(chan error, 1)
	go func() {
		st, err := openStore(dir, testenv.Scale(limit), t.Logf)
		if err == nil {
			err = st.close()
		}
		next <- err
	}()
	shut(t, st)
	if err := <-next; err != nil {
		t.Error(err)
	}
}

// TestForeignFiles: what is not the store's is left alone, what is damaged is not
// fatal.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	put(st, "good", "line")
	put(st, "moved", "line")
	put(st, "torn", "line")
	shut(t, st)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Rename(filepath.Join(dir, "moved"), filepath.Join(dir, "elsewhere")))
	must(os.Truncate(filepath.Join(dir, "torn", segmentName(logPrefix, 3)), 5))
	must(os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	must(os.MkdirAll(filepath.Join(dir, "foreign", segmentName(logPrefix, 1)), 0o700))
	must(os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	must(os.WriteFile(filepath.Join(dir, "good", "note"), nil, 0o600))
	must(os.WriteFile(filepath.Join(dir, "good", "log-0000000000000000.seg"), nil, 0o600))
	must(os.WriteFile(filepath.Join(dir, "good", "log-00000000000000000.seg"), nil, 0o600))
	st = open(t, dir)
	defer shut(t, st)
	if diff := cmp.Diff([]string{"1 good line"}, drain(t, st, everything, 0, false)); diff != "" {
		t.Error(diff)
	}
	put(st, "torn", "again")
	if diff := cmp.Diff([]string{"4 torn again"}, drain(t, st, everything, 3, true)); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"elsewhere", "foreign", "file", "good/note"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// TestDamagedSegment: the rest of a segment that was damaged on disk is left out with
// a remark; what comes after it is read.
func TestDamagedSegment(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	defer shut(t, st)
	st.setLimit(minLimit)
	line := strings.Repeat("x", 9000)
	put(st, "a", line, line, line, line) // two to a segment
	s := st.open("a", "user")
	f, err := os.OpenFile(s.logs.path(s.logs.segments[0]), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("!"), 12000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"1 a " + line, "1 a the rest of a damaged log file is left out", "3 a " + line, "4 a " + line}
	if diff := cmp.Diff(want, drain(t, st, everything, 0, false)); diff != "" {
		t.Error(diff)
	}
}

// TestEventsOutliveLines: no flood of lines drives a service's events out, and logs
// and events together keep the limit.
func TestEventsOutliveLines(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	defer shut(t, st)
	st.setLimit(1) // raised to minLimit
	putEvent(st, "a", "deployed")
	for range 100 {
		put(st, "a", strings.Repeat("x", maxLine))
	}
	for range 3000 {
		putEvent(st, "a", "exited")
	}
	if n := onDisk(t, filepath.Join(dir, "a")); n > minLimit || n < minLimit/2 {
		t.Errorf("%d bytes are kept, of %d", n, minLimit)
	}
	putEvent(st, "b", "deployed")
	for range 100 {
		put(st, "b", strings.Repeat("x", maxLine))
	}
	if got := drain(t, st, filter{service: "b", kinds: wantEvents}, 0, false); len(got) != 1 {
		t.Errorf("%d events, want the one", len(got))
	}
}

// TestRemoved: sources of a service that is gone write to nothing, and its name can
// be used anew at once.
func TestRemoved(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	defer shut(t, st)
	old := st.open("a", "user")
	st.append(old, []record{{kind: kindStdout, text: []byte("old")}})
	st.remove("a")
	st.append(old, []record{{kind: kindStdout, text: []byte("late")}})
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is there: %v", err)
	}
	put(st, "a", "new")
	st.append(old, []record{{kind: kindStdout, text: []byte("late")}})
	if diff := cmp.Diff([]string{"2 a new"}, drain(t, st, everything, 0, false)); diff != "" {
		t.Error(diff)
	}
	st.remove("never")
	for i := range maxDeleted + 10 {
		putEvent(st, fmt.Sprintf("s%d", i), "deleted")
	}
	if got := drain(t, st, everything, 2, true); len(got) != maxDeleted || got[maxDeleted-1] != fmt.Sprintf("%d s%d deleted", maxDeleted+12, maxDeleted+9) {
		t.Errorf("%d deletions, the last is %s", len(got), got[len(got)-1])
	}
}

// TestLostLines: lines that found no space are counted in the log when there is
// space again.
func TestLostLines(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	defer shut(t, st)
	// A file where the directory would be stands for a full disk: it fails for root
	// too.
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	put(st, "a", "12345", "678")
	put(st, "a", "9")
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	put(st, "a", "kept")
	want := []string{"4 a kept", "5 a 9 bytes could not be stored: not a directory"}
	if diff := cmp.Diff(want, drain(t, st, everything, 0, false)); diff != "" {
		t.Error(diff)
	}
}

func TestEscape(t *testing.T) {
	for name, want := range map[string]string{
		"web": "web", "team-a/web": "team-a+web", "..": "%2E.", ".sequence": "%2Esequence", "a+b%": "a%2Bb%25", "ü": "%C3%BC",
	} {
		if got := escape(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringN(1, -1, maxName), rapid.StringMatching(`[a-z/.+%]{1,250}`)).Draw(t, "name")
		e := escape(name)
		if len(e) > 255 || strings.ContainsAny(e, "/\x00") || strings.HasPrefix(e, ".") || e == "" {
			t.Fatalf("%q: %q is no file name of ours", name, e)
		}
		if other := rapid.StringMatching(`[a-z/.+%]{1,8}`).Draw(t, "other"); other != name && escape(other) == e {
			t.Fatalf("%q and %q both are %q", name, other, e)
		}
	})
}
