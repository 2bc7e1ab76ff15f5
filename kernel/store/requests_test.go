package store

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// known are the ids of the requests in the store.
func known(t *testing.T, s *Store) []string {
	t.Helper()
	st, err := s.Load()
	check(t, err)
	return slices.Sorted(maps.Keys(st.Requests))
}

func remembering(id string, forget ...string) Change {
	return Change{
		Audit: entry("deploy"), PutService: &ServiceChange{id, record(id)},
		PutRequest: &RequestChange{id, &controlv1.RequestRecord{Digest: []byte(id)}}, DeleteRequests: forget,
	}
}

// TestRequestsAreForgotten with the change that says so, and only with it.
func TestRequestsAreForgotten(t *testing.T) {
	s := fresh(t)
	for _, id := range []string{"a", "b", "c"} {
		commit(t, s, remembering(id))
	}
	// Ids that are not known, or come twice, are no error: what is remembered in the
	// kernel and what is in the file may differ by a change that failed.
	commit(t, s, remembering("d", "a", "never", "a", ""))
	if diff := cmp.Diff([]string{"b", "c", "d"}, known(t, s)); diff != "" {
		t.Errorf("after one is forgotten (-want +got):\n%s", diff)
	}
	commit(t, s, Change{Audit: entry("forget"), DeleteRequests: []string{"b", "d"}})
	if diff := cmp.Diff([]string{"c"}, known(t, s)); diff != "" {
		t.Errorf("after a change that only forgets (-want +got):\n%s", diff)
	}
	// A change that is refused forgets nothing, like every other.
	for name, c := range map[string]Change{
		"no record": {DeleteRequests: []string{"c"}},
		"no key":    {Audit: entry("x"), DeleteRequests: []string{"c"}, PutService: &ServiceChange{"", record("x")}},
	} {
		if a := await(t, begin(s, c)); a.err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	s.limit = 0
	if a := await(t, begin(s, remembering("e", "c"))); !errors.Is(a.err, ErrOutboxFull) {
		t.Errorf("%v", a.err)
	}
	if diff := cmp.Diff([]string{"c"}, known(t, s)); diff != "" {
		t.Errorf("after refusals (-want +got):\n%s", diff)
	}
	// Services are not touched by it.
	st, err := s.Load()
	check(t, err)
	if len(st.Services) != 4 {
		t.Errorf("%d services", len(st.Services))
	}
}

// TestRequestsComeAndGo: with one forgotten for each that comes, as when their number is
// at its limit, the file has always the same.
func TestRequestsComeAndGo(t *testing.T) {
	s := fresh(t)
	const kept, more = 20, 100
	id := func(i int) string { return fmt.Sprintf("%03d", i) }
	var last <-chan answered
	for i := range kept + more {
		c := remembering(id(i))
		if i >= kept {
			c.DeleteRequests = []string{id(i - kept)}
		}
		last = begin(s, c) // they share transactions
	}
	check(t, await(t, last).err)
	var want []string
	for i := range kept {
		want = append(want, id(more+i))
	}
	if diff := cmp.Diff(want, known(t, s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The same id in one change is remembered first, then forgotten.
	commit(t, s, remembering("x", "x"))
	if slices.Contains(known(t, s), "x") {
		t.Error("an id that was forgotten in the same change is there")
	}
}
