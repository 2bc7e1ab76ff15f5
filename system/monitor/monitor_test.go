package monitor

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// TestLogsAndEvents follows one service from its deployment to its deletion.
func TestLogsAndEvents(t *testing.T) {
	k := boot(t, t.TempDir())
	k.event("team/web", "deployed")
	out := k.pipe(&controlv1.LogSource{Service: "team/web", Instance: "i1", Stream: "stdout", Rate: 1 << 20, Tier: "user"})
	s := k.watch(&solov1.WatchRequest{Service: "team/web", Since: "start"}, "")
	first := s.next()
	write(t, out, "hello\nwor")
	second := s.next()
	write(t, out, "ld\n\xff\x1b[31m")
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	third, fourth := s.next(), s.next()
	k.event("team/web", "deleted")
	k.serviceGone("team/web")
	fifth := s.next()
	got := []*solov1.WatchResponse{first, second, third, fourth, fifth}
	log := func(text string) *solov1.WatchResponse {
		return &solov1.WatchResponse{Service: "team/web", Instance: "i1",
			Item: &solov1.WatchResponse_Log{Log: &solov1.LogLine{Stream: "stdout", Text: []byte(text)}}}
	}
	event := func(typ string) *solov1.WatchResponse {
		return &solov1.WatchResponse{Service: "team/web", Item: &solov1.WatchResponse_Event{Event: &solov1.Event{Type: typ}}}
	}
	want := []*solov1.WatchResponse{event("deployed"), log("hello"), log("world"), log("\xff\x1b[31m"), event("deleted")}
	if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&solov1.WatchResponse{}, "sequence", "time")); diff != "" {
		t.Error(diff)
	}
	for i, m := range got {
		if m.Sequence != uint64(i+1) || m.Time == nil {
			t.Errorf("record %d has number %d, time %v", i+1, m.Sequence, m.Time)
		}
	}
	if m := s.next(); m != nil {
		t.Errorf("after the deletion: %v", m)
	}
	if all := k.stored("team/web"); !proto.Equal(all[0], fifth) || len(all) != 1 {
		t.Errorf("stored of a service that is gone: %q", texts(all))
	}
}
