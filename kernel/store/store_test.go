package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		crasher(path)
		return
	}
	os.Exit(testenv.CheckMain(m))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// clock is a fixed moment: what is stored depends on nothing else.
func clock() time.Time { return time.Date(2026, 2, 3, 4, 5, 6, 700, time.UTC) }

// open opens a file that is closed at the end of the test.
func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, clock)
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func fresh(t *testing.T) *Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "state.db"))
}

// answered is what a change's answer said.
type answered struct {
	last uint64
	err  error
}

// begin hands in a change.
func begin(s *Store, c Change) <-chan answered {
	done := make(chan answered, 1)
	s.Commit(c, func(last uint64, err error) { done <- answered{last, err} })
	return done
}

func await(t *testing.T, done <-chan answered) answered {
	t.Helper()
	select {
	case a := <-done:
		return a
	case <-time.After(testenv.Scale(30 * time.Second)):
		t.Fatal("a change got no answer")
		return answered{}
	}
}

// commit hands in a change and waits until it is on disk.
func commit(t *testing.T, s *Store, c Change) uint64 {
	t.Helper()
	a := await(t, begin(s, c))
	check(t, a.err)
	return a.last
}

// settle waits until all that was handed in is done.
func settle(t *testing.T, s *Store) {
	t.Helper()
	if a := await(t, begin(s, Change{})); !errors.Is(a.err, ErrNoRecord) {
		t.Fatalf("a change without a record: %v", a.err)
	}
}

func entry(operation string) []Entry { return []Entry{{Operation: operation, Actor: "kernel"}} }

func record(id string) *controlv1.ServiceRecord {
	return &controlv1.ServiceRecord{ServiceId: id, Version: 3, Desired: "running",
		Manifest: &solov1.DeployRequest{Name: id, Env: map[string]string{"A": "b"}}}
}

func TestReopenKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path, clock)
	check(t, err)
	first, err := s.Load()
	check(t, err)
	none := State{Services: map[string]*controlv1.ServiceRecord{}, Requests: map[string]*controlv1.RequestRecord{}, Generation: 1}
	if diff := cmp.Diff(none, first, protocmp.Transform()); diff != "" {
		t.Fatalf("a new file (-want +got):\n%s", diff)
	}
	request := &controlv1.RequestRecord{Response: &solov1.DeployResponse{ServiceId: "a", Version: 1}, Digest: []byte{1, 2}, TimeUnixNano: 5}
	tokens := []*controlv1.TokenRecord{
		{Id: "00", SecretHash: []byte{9}, Rights: []string{"kill"}},
		{Id: "ff", Scope: "team-a/", Rights: []string{"deploy", "status"}},
	}
	commit(t, s, Change{Audit: entry("deploy"), PutService: &ServiceChange{"a", record("a")}, PutRequest: &RequestChange{"r1", request}})
	commit(t, s, Change{Audit: entry("grant"), PutToken: tokens[1]})
	commit(t, s, Change{Audit: entry("grant"), PutToken: tokens[0]})
	commit(t, s, Change{Audit: entry("deploy"), PutService: &ServiceChange{"b", record("b")}})
	// One change may do several things: replace, delete, remember.
	if last := commit(t, s, Change{Audit: append(entry("delete"), entry("deploy")...), DeleteService: "b", PutService: &ServiceChange{"c", record("c")}}); last != 6 {
		t.Errorf("the last record is %d", last)
	}
	check(t, s.Close())

	s = open(t, path)
	got, err := s.Load()
	check(t, err)
	want := State{
		Services:   map[string]*controlv1.ServiceRecord{"a": record("a"), "c": record("c")},
		Requests:   map[string]*controlv1.RequestRecord{"r1": request},
		Tokens:     tokens,
		Generation: 2,
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("after reopening (-want +got):\n%s", diff)
	}
	info, err := os.Stat(path)
	check(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v", info.Mode())
	}
}

func TestNoChangeWithoutRecord(t *testing.T) {
	s := fresh(t)
	for name, c := range map[string]Change{
		"nothing": {},
		"put":     {PutService: &ServiceChange{"a", record("a")}},
		"delete":  {DeleteService: "a"},
		"token":   {PutToken: &controlv1.TokenRecord{Id: "1"}},
		"reserve": {Reserve: true, Audit: []Entry{}},
	} {
		if a := await(t, begin(s, c)); !errors.Is(a.err, ErrNoRecord) {
			t.Errorf("%s: %v", name, a.err)
		}
	}
	st, err := s.Load()
	check(t, err)
	if len(st.Services)+len(st.Tokens) > 0 {
		t.Errorf("a refused change is stored: %v", st)
	}
}

// TestBadChangeFailsAlone: a change that cannot be written does not take along those
// that share its transaction.
func TestBadChangeFailsAlone(t *testing.T) {
	bad := map[string]Change{
		"text that is not UTF-8": {PutService: &ServiceChange{"x", &controlv1.ServiceRecord{Reason: "\xff"}}},
		"no key":                 {PutService: &ServiceChange{"", record("x")}},
		"no id":                  {PutToken: &controlv1.TokenRecord{}},
		"a long key":             {PutRequest: &RequestChange{strings.Repeat("k", maxKey+1), &controlv1.RequestRecord{}}},
	}
	for name, c := range bad {
		s := fresh(t)
		hold, release := held(s)
		c.Audit = entry("bad")
		before := begin(s, Change{Audit: entry("before"), PutService: &ServiceChange{"before", record("a")}})
		refused := begin(s, c)
		after := begin(s, Change{Audit: entry("after"), PutService: &ServiceChange{strings.Repeat("k", maxKey), record("b")}})
		release()
		await(t, hold)
		if a := await(t, refused); a.err == nil {
			t.Errorf("%s: was taken", name)
		}
		check(t, await(t, before).err)
		check(t, await(t, after).err)
		st, err := s.Load()
		check(t, err)
		if len(st.Services) != 2 {
			t.Errorf("%s: %d services", name, len(st.Services))
		}
		if got := operations(t, s); got != "hold before after" {
			t.Errorf("%s: records %q", name, got)
		}
	}
}

// held hands in a change whose answer waits for release: what is handed in meanwhile
// shares one transaction.
func held(s *Store) (<-chan answered, func()) {
	reached, released := make(chan struct{}), make(chan struct{})
	done := make(chan answered, 1)
	s.Commit(Change{Audit: entry("hold")}, func(last uint64, err error) {
		close(reached)
		<-released
		done <- answered{last, err}
	})
	<-reached
	return done, func() { close(released) }
}

// operations are the names in the outbox, in order.
func operations(t *testing.T, s *Store) string {
	t.Helper()
	var names []string
	for _, line := range verify(t, s, 0, zero) {
		names = append(names, line.Op)
	}
	return strings.Join(names, " ")
}

func TestOrderAndGroups(t *testing.T) {
	s := fresh(t)
	hold, release := held(s)
	const n = batch + 10
	var waits []<-chan answered
	var want []string
	for i := range n {
		waits = append(waits, begin(s, Change{Audit: entry(fmt.Sprint(i)), PutService: &ServiceChange{"same", record(fmt.Sprint(i))}}))
		want = append(want, fmt.Sprint(i))
	}
	release()
	if a := await(t, hold); a != (answered{last: 1}) {
		t.Errorf("the first: %+v", a)
	}
	for i, w := range waits {
		// The first batch shares one transaction, the rest the next.
		end := uint64(1 + batch)
		if i >= batch {
			end = 1 + n
		}
		if a := await(t, w); a != (answered{last: end}) {
			t.Errorf("change %d: %+v, not %d", i, a, end)
		}
	}
	if got := operations(t, s); got != "hold "+strings.Join(want, " ") {
		t.Errorf("records: %s", got)
	}
	st, err := s.Load()
	check(t, err)
	if got := st.Services["same"].GetServiceId(); got != fmt.Sprint(n-1) {
		t.Errorf("the last write does not hold: %s", got)
	}
}

// TestRecordIsTakenAtOnce: the caller may change a record after Commit.
func TestRecordIsTakenAtOnce(t *testing.T) {
	s := fresh(t)
	hold, release := held(s)
	r := record("before")
	done := begin(s, Change{Audit: entry("deploy"), PutService: &ServiceChange{"a", r}})
	r.ServiceId = "after"
	release()
	await(t, hold)
	check(t, await(t, done).err)
	st, err := s.Load()
	check(t, err)
	if got := st.Services["a"].GetServiceId(); got != "before" {
		t.Errorf("stored is %q", got)
	}
}

func TestClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path, clock)
	check(t, err)
	if _, err := Open(path, clock); !errors.Is(err, bolterrors.ErrTimeout) {
		t.Errorf("a file that is open: %v", err)
	}
	hold, release := held(s)
	var waits []<-chan answered
	for range 20 {
		waits = append(waits, begin(s, Change{Audit: entry("x")}))
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	release()
	check(t, <-closed)
	check(t, await(t, hold).err)
	for _, w := range waits {
		check(t, await(t, w).err)
	}
	if a := await(t, begin(s, Change{Audit: entry("late")})); !errors.Is(a.err, ErrClosed) {
		t.Errorf("a change after Close: %v", a.err)
	}
	s.Acknowledge(1)
	s.Commit(Change{Audit: entry("late")}, nil)
	check(t, s.Close())
	if got := operations(t, open(t, path)); got != "hold"+strings.Repeat(" x", 20) {
		t.Errorf("records: %s", got)
	}
}

// tamper changes the closed file.
func tamper(t *testing.T, path string, do func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	check(t, err)
	check(t, db.Update(do))
	check(t, db.Close())
}

func TestOpenRefuses(t *testing.T) {
	meta := func(key []byte, n uint64) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(key, encode(n)) }
	}
	for _, c := range []struct {
		name string
		do   func(*bolt.Tx) error
		want string
	}{
		{"a newer schema", meta(keySchema, schema+1), "state is of schema 2, this kernel knows 1"},
		{"more acknowledged than written", meta(keyAcked, 99), "audit record 99 is acknowledged and only 0 are written"},
	} {
		path := filepath.Join(t.TempDir(), "state.db")
		s, err := Open(path, clock)
		check(t, err)
		check(t, s.Close())
		tamper(t, path, c.do)
		for range 2 { // a refusal changes nothing
			if _, err := Open(path, clock); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "no", "state.db"), clock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	text := filepath.Join(t.TempDir(), "text")
	check(t, os.WriteFile(text, []byte(strings.Repeat("not a database\n", 2000)), 0o600))
	if _, err := Open(text, clock); !errors.Is(err, bolterrors.ErrInvalid) {
		t.Errorf("another kind of file: %v", err)
	}
}

func TestLoadNamesTheBadRecord(t *testing.T) {
	for bucket, want := range map[string]string{
		"services": `service record "bad"`, "requests": `request record "bad"`, "tokens": `token record "bad"`,
	} {
		path := filepath.Join(t.TempDir(), "state.db")
		s, err := Open(path, clock)
		check(t, err)
		check(t, s.Close())
		tamper(t, path, func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte("bad"), []byte{0xff}) })
		if _, err := open(t, path).Load(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", bucket, err)
		}
	}
}

// TestFullDisk: when nothing can be written every change of the transaction is told so,
// nothing of it stays, and the store goes on once there is room.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	commit(t, s, Change{Audit: entry("first")})
	info, err := os.Stat(path)
	check(t, err)
	var old unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	big := record("big")
	big.Reason = strings.Repeat("x", 1<<20)
	hold, release := held(s)
	check(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(info.Size()), Max: old.Max}))
	large := begin(s, Change{Audit: entry("large"), PutService: &ServiceChange{"big", big}})
	beside := begin(s, Change{Audit: entry("beside"), PutService: &ServiceChange{"small", record("small")}})
	release()
	await(t, hold)
	got := []answered{await(t, large), await(t, beside)}
	check(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &old))
	for _, a := range got {
		// bbolt keeps the error's words only.
		if a.err == nil || !strings.Contains(a.err.Error(), unix.EFBIG.Error()) || a.last != 0 {
			t.Errorf("with no room: %d, %v", a.last, a.err)
		}
	}
	commit(t, s, Change{Audit: entry("again"), PutService: &ServiceChange{"big", big}})
	if got := operations(t, s); got != "first hold again" {
		t.Errorf("records: %s", got)
	}
	if s.waiting != 3 {
		t.Errorf("%d records are counted", s.waiting)
	}
	st, err := s.Load()
	check(t, err)
	if len(st.Services) != 1 {
		t.Errorf("services: %v", st.Services)
	}
}
