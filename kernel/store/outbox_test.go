package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// logLine is a record as any reader of the log sees it.
type logLine struct {
	Number                    uint64
	Time                      time.Time
	Op, Actor, Object, Result string
	Detail                    map[string]string
	Prev                      string
}

const zero = "0000000000000000000000000000000000000000000000000000000000000000"

// verify checks the outbox's chain from a record on, with encoding/json and nothing of
// the package's: it is what an auditor would write.
func verify(t *testing.T, s *Store, after uint64, head string) []logLine {
	t.Helper()
	records, err := s.Outbox(after, math.MaxInt)
	check(t, err)
	var lines []logLine
	for i, r := range records {
		var line logLine
		dec := json.NewDecoder(strings.NewReader(string(r.GetLine())))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&line); err != nil || dec.More() {
			t.Fatalf("record %d is not one JSON object: %v\n%s", r.GetNumber(), err, r.GetLine())
		}
		if want := after + uint64(i) + 1; line.Number != want || r.GetNumber() != want {
			t.Fatalf("record %d says %d, not %d", r.GetNumber(), line.Number, want)
		}
		if line.Prev != head {
			t.Fatalf("record %d names %s before it, not %s", line.Number, line.Prev, head)
		}
		before, err := hex.DecodeString(head)
		check(t, err)
		sum := sha256.Sum256(append(before, r.GetLine()...))
		head = hex.EncodeToString(sum[:])
		if got := hex.EncodeToString(r.GetHash()); got != head {
			t.Fatalf("record %d has hash %s, not %s", line.Number, got, head)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestRecord(t *testing.T) {
	s := fresh(t)
	commit(t, s, Change{Audit: []Entry{
		{Operation: "deploy", Actor: "0a1b", Object: "team-a/x", Result: "ok", Detail: [][2]string{{"version", "3"}, {"code", "sha256:…"}}},
		{Operation: "kill", Actor: "kernel"},
	}})
	want := []logLine{
		{Number: 1, Time: clock(), Op: "deploy", Actor: "0a1b", Object: "team-a/x", Result: "ok",
			Detail: map[string]string{"version": "3", "code": "sha256:…"}, Prev: zero},
		{Number: 2, Time: clock(), Op: "kill", Actor: "kernel"},
	}
	got := verify(t, s, 0, zero)
	want[1].Prev = got[1].Prev
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	records, err := s.Outbox(0, 0)
	check(t, err)
	const line = `{"number":1,"time":"2026-02-03T04:05:06.0000007Z","op":"deploy","actor":"0a1b","object":"team-a/x","result":"ok",` +
		`"detail":{"version":"3","code":"sha256:…"},"prev":"` + zero + `"}`
	if len(records) != 1 || string(records[0].GetLine()) != line {
		t.Errorf("the line's form: %s", records[0].GetLine())
	}
}

// TestChainGoesOn: over reopening and acknowledging alike.
func TestChainGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	head, total := zero, uint64(0)
	for range 4 {
		s, err := Open(path, clock)
		check(t, err)
		acked, err := s.Acked()
		check(t, err)
		for range 5 {
			total++
			if last := commit(t, s, Change{Audit: entry("x")}); last != total {
				t.Errorf("last is %d, not %d", last, total)
			}
		}
		records, err := s.Outbox(0, math.MaxInt)
		check(t, err)
		if got, want := len(verify(t, s, acked, head)), int(total-acked); got != want {
			t.Errorf("%d records, not %d", got, want)
		}
		// Two stay, and the next start finds them.
		s.Acknowledge(total - 2)
		settle(t, s)
		head = hex.EncodeToString(records[len(records)-3].GetHash())
		check(t, s.Close())
	}
}

func TestOutboxLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	s.limit, s.reserve = 5, 2
	add := func(want error, reserve bool, records int) {
		t.Helper()
		c := Change{Reserve: reserve}
		for range records {
			c.Audit = append(c.Audit, entry("x")...)
		}
		if a := await(t, begin(s, c)); !errors.Is(a.err, want) || (a.err == nil) != (want == nil) {
			t.Errorf("%d records: %v, not %v", records, a.err, want)
		}
	}
	add(ErrOutboxFull, false, 6) // more than fit at once
	add(nil, false, 3)
	add(ErrOutboxFull, false, 3) // one too many: none of them
	add(nil, false, 2)           // exactly full
	add(ErrOutboxFull, false, 1)
	add(ErrOutboxFull, true, 3)
	add(nil, true, 1)
	add(nil, true, 1) // the reserve is full
	add(ErrOutboxFull, true, 1)
	add(ErrOutboxFull, false, 1)
	s.Acknowledge(2) // makes room in the reserve alone
	add(ErrOutboxFull, false, 1)
	add(nil, true, 2)
	add(ErrOutboxFull, true, 1)
	s.Acknowledge(9)
	add(nil, false, 5)
	add(ErrOutboxFull, false, 1)
	verify(t, s, 9, hashOf(t, s, 9))
	check(t, s.Close())
	// What waits is counted anew.
	s = open(t, path)
	s.limit, s.reserve = 6, 0
	add(nil, false, 1)
	add(ErrOutboxFull, false, 1)
}

// hashOf is what the record after number says of it.
func hashOf(t *testing.T, s *Store, number uint64) string {
	t.Helper()
	records, err := s.Outbox(number, 0)
	check(t, err)
	var line logLine
	check(t, json.Unmarshal(records[0].GetLine(), &line))
	return line.Prev
}

func TestAcknowledge(t *testing.T) {
	s := fresh(t)
	for range 10 {
		commit(t, s, Change{Audit: entry("x")})
	}
	for _, c := range []struct{ ack, acked uint64 }{
		{0, 0}, {11, 0}, {math.MaxUint64, 0}, {3, 3}, {3, 3}, {2, 3}, {4, 4}, {10, 10}, {10, 10}, {11, 10},
	} {
		s.Acknowledge(c.ack)
		settle(t, s)
		acked, err := s.Acked()
		check(t, err)
		left, err := s.Outbox(0, math.MaxInt)
		check(t, err)
		if acked != c.acked || len(left) != 10-int(c.acked) || s.waiting != 10-c.acked {
			t.Errorf("after %d: %d acknowledged, %d left, %d counted", c.ack, acked, len(left), s.waiting)
		}
	}
	if last := commit(t, s, Change{Audit: entry("x")}); last != 11 {
		t.Errorf("the numbers go on with %d", last)
	}
}

func TestOutboxReads(t *testing.T) {
	s := fresh(t)
	for range 6 {
		commit(t, s, Change{Audit: []Entry{{Operation: "x", Object: strings.Repeat("o", 1000)}}})
	}
	for _, c := range []struct {
		after uint64
		bytes int
		want  int
	}{
		{0, math.MaxInt, 6}, {0, 0, 1}, {0, -1, 1}, {0, 1, 1}, {0, 3000, 2}, {2, 3000, 2}, {4, math.MaxInt, 2}, {5, 0, 1},
		{6, math.MaxInt, 0}, {7, math.MaxInt, 0}, {math.MaxUint64, math.MaxInt, 0},
	} {
		got, err := s.Outbox(c.after, c.bytes)
		check(t, err)
		if len(got) != c.want || len(got) > 0 && got[0].GetNumber() != c.after+1 {
			t.Errorf("Outbox(%d, %d): %d records", c.after, c.bytes, len(got))
		}
	}
}

// TestModel: any order of commits, refusals, acknowledgements and restarts is as a list
// would have it.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(t.TempDir(), "state.db")
		s, err := Open(path, clock)
		check(t, err)
		defer func() { check(t, s.Close()) }()
		const limit, reserve = 6, 3
		s.limit, s.reserve = limit, reserve
		var written, acked uint64
		services := map[string]string{}
		for step := range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"put", "put", "delete", "ack", "reopen"}).Draw(rt, "op") {
			case "put", "delete":
				name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
				n := rapid.Uint64Range(0, 4).Draw(rt, "records")
				c := Change{Reserve: rapid.Bool().Draw(rt, "reserve")}
				for range n {
					c.Audit = append(c.Audit, entry("x")...)
				}
				id := time.Duration(step).String()
				deletes := rapid.Bool().Draw(rt, "deletes")
				if deletes {
					c.DeleteService = name
				} else {
					c.PutService = &ServiceChange{name, record(id)}
				}
				bound := uint64(limit)
				if c.Reserve {
					bound += reserve
				}
				var want error
				switch {
				case n == 0:
					want = ErrNoRecord
				case written-acked+n > bound:
					want = ErrOutboxFull
				default:
					written += n
					services[name] = id
					if deletes {
						delete(services, name)
					}
				}
				a := await(t, begin(s, c))
				if !errors.Is(a.err, want) || (want == nil) != (a.err == nil) || a.err == nil && a.last != written {
					rt.Fatalf("%+v; the model: %v, %d", a, want, written)
				}
			case "ack":
				n := rapid.Uint64Range(0, written+2).Draw(rt, "ack")
				s.Acknowledge(n)
				settle(t, s)
				if n > acked && n <= written {
					acked = n
				}
			case "reopen":
				check(t, s.Close())
				s, err = Open(path, clock)
				check(t, err)
				s.limit, s.reserve = limit, reserve
			}
		}
		st, err := s.Load()
		check(t, err)
		got := map[string]string{}
		for name, r := range st.Services {
			got[name] = r.GetServiceId()
		}
		if diff := cmp.Diff(services, got); diff != "" {
			rt.Fatalf("services (-want +got):\n%s", diff)
		}
		head := zero
		if acked > 0 && acked < written {
			head = hashOf(t, s, acked)
		}
		if n := uint64(len(verify(t, s, acked, head))); n != written-acked {
			rt.Fatalf("%d records, not %d", n, written-acked)
		}
	})
}

// FuzzLine: whatever clients put into an entry, a record is one line of JSON, and a
// JSON reader gets back what was put in.
func FuzzLine(f *testing.F) {
	f.Add("deploy", "0a1b", "team-a/x", "ok", "name", "value")
	f.Add("", "", "", "", "", "")
	f.Add("\"\\/\b\f\n\r\t\x00\x1f\x7f", "\xff\xfe", "\u2028\u2029", "\U0010ffff", "\xed\xa0\x80", "{}[],:")
	f.Add(strings.Repeat("\x01", maxValue), strings.Repeat("\x02", maxValue), "", "", "", strings.Repeat("\x00", maxValue))
	f.Add("a", strings.Repeat("ä", maxValue), strings.Repeat("€", maxValue), strings.Repeat("\x80", maxValue), "b", strings.Repeat("x", maxValue+1))
	f.Fuzz(func(t *testing.T, op, actor, object, result, name, value string) {
		e := Entry{Operation: op, Actor: actor, Object: object, Result: result, Detail: [][2]string{{name, value}}}
		prev := sha256.Sum256([]byte(op))
		line := e.line(7, clock(), prev[:])
		if strings.ContainsAny(string(line), "\n\r") || !utf8.Valid(line) || !json.Valid(line) || len(line) > maxLine {
			t.Fatalf("not a line of JSON, or a line of %d bytes: %q", len(line), line)
		}
		limit := maxValue
		if len(e.encode(7, clock(), prev[:], maxValue)) > maxLine {
			limit = maxValue / 16
		}
		text := func(s string) string { return text(s, limit) }
		var got logLine
		dec := json.NewDecoder(strings.NewReader(string(line)))
		dec.DisallowUnknownFields()
		check(t, dec.Decode(&got))
		want := logLine{Number: 7, Time: clock(), Op: text(op), Actor: text(actor), Object: text(object), Result: text(result),
			Detail: map[string]string{text(name): text(value)}, Prev: hex.EncodeToString(prev[:])}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestLineIsBounded: details that would make the line too long are left out.
func TestLineIsBounded(t *testing.T) {
	e := Entry{Operation: "deploy"}
	for range 1000 {
		e.Detail = append(e.Detail, [2]string{"name", strings.Repeat("\x01", 2*maxValue)})
	}
	if line := e.line(1, clock(), make([]byte, 32)); len(line) > maxLine || !json.Valid(line) {
		t.Errorf("a line of %d bytes, valid %v", len(line), json.Valid(line))
	}
}

// text is what a JSON reader gets of a value, said in another way than quote: whole
// characters up to limit bytes, each invalid byte as U+FFFD.
func text(s string, limit int) string {
	var out []rune
	for at, r := range s {
		_, n := utf8.DecodeRuneInString(s[at:])
		if at+n > limit {
			break
		}
		out = append(out, r)
	}
	return string(out)
}
