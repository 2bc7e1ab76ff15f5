package audit

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/kernel/store"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) {
	if !testenv.Long() {
		// Each history is tens of syncs.
		if err := flag.Set("rapid.checks", "30"); err != nil {
			panic(err)
		}
	}
	os.Exit(testenv.CheckMain(m))
}

const patience = 30 * time.Second

// tester is what testing.TB and rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(f func())
}

func check(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kernelRecords has the kernel's own store make the chain, one record for each
// operation.
func kernelRecords(t testing.TB, entries ...store.Entry) []*controlv1.AuditRecord {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "state"), time.Now)
	check(t, err)
	defer func() { check(t, s.Close()) }()
	done := make(chan error, 1)
	for len(entries) > 0 {
		n := min(len(entries), 100)
		s.Commit(store.Change{Audit: entries[:n]}, func(_ uint64, err error) { done <- err })
		check(t, <-done)
		entries = entries[n:]
	}
	records, err := s.Outbox(0, 1<<30)
	check(t, err)
	return records
}

// some is n entries with texts of all kinds.
func some(n int) []store.Entry {
	list := make([]store.Entry, n)
	for i := range list {
		list[i] = store.Entry{Operation: "deploy", Actor: "kernel", Object: "svc-" + strings.Repeat("x", i%40), Result: "ok"}
		switch i % 7 {
		case 2:
			list[i].Object = "quotes \" and \\ and\nlines\x00\x7f"
		case 3:
			list[i].Detail = [][2]string{{"number", "7"}, {"prev", strings.Repeat("ab", 32)}}
		case 5:
			list[i].Result = "not text: \xff\xfe, ünïcödé 漢字"
		}
	}
	return list
}

// chainOf is what a log that holds exactly these records must say.
func chainOf(records []*controlv1.AuditRecord) Chain {
	var c Chain
	if n := len(records); n > 0 {
		c.Count = records[n-1].GetNumber()
		copy(c.Head[:], records[n-1].GetHash())
	}
	return c
}

// openLog opens a log with small files.
func openLog(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := OpenLog(dir, smallFile)
	check(t, err)
	return l
}

const smallFile = 2000

// files reads the log's files, in order.
func files(t testing.TB, dir string) [][]byte {
	t.Helper()
	var all [][]byte
	for i := 1; ; i++ {
		data, err := os.ReadFile(filepath.Join(dir, fileName(i)))
		if errors.Is(err, os.ErrNotExist) {
			return all
		}
		check(t, err)
		all = append(all, data)
	}
}

// wantStored checks the log's state, and that its files hold exactly the records.
func wantStored(t testing.TB, dir string, l *Log, records []*controlv1.AuditRecord) {
	t.Helper()
	if got, want := l.State(), chainOf(records); got != want {
		t.Errorf("the log stands at %d %x, want %d %x", got.Count, got.Head, want.Count, want.Head)
	}
	var want []byte
	for _, r := range records {
		want = append(append(want, r.GetLine()...), '\n')
	}
	if got := bytes.Join(files(t, dir), nil); !bytes.Equal(got, want) {
		t.Errorf("%d bytes are stored, not the %d that were acknowledged", len(got), len(want))
	}
}

// wantChainError checks that err names the record.
func wantChainError(t testing.TB, err error, number uint64, what string) {
	t.Helper()
	e := (*ChainError)(nil)
	if !errors.As(err, &e) || e.Number != number || !strings.Contains(e.What, what) {
		t.Errorf("%v, want audit record %d: … %s", err, number, what)
	}
}
