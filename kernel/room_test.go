package kernel

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/solo-os/solo/kernel/control"
	"github.com/solo-os/solo/kernel/manifest"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// asking is a manifest with replicas behind ports.
func asking(name string, replicas uint32, ports int) *solov1.DeployRequest {
	m := &solov1.DeployRequest{Name: name, Replicas: replicas}
	for range ports {
		m.Uses = append(m.Uses, &solov1.Use{Use: &solov1.Use_Port{Port: &solov1.PortUse{}}})
	}
	return m
}

// TestRoom takes what just fits, and names what does not.
func TestRoom(t *testing.T) {
	const services, ranges, pool, system = 5, 200, 10, 3
	const ids = ranges - reservedRanges
	user := func(m *solov1.DeployRequest) *service {
		return &service{tier: tierUser, name: m.GetName(), rec: &controlv1.ServiceRecord{Manifest: m}}
	}
	for _, test := range []struct {
		name     string
		have     []*solov1.DeployRequest
		reserved []string
		ask      *solov1.DeployRequest
		want     string
	}{
		{"first", nil, nil, asking("x", 1, 0), ""},
		{"name in use", []*solov1.DeployRequest{asking("x", 1, 0)}, nil, asking("x", 1, 0), "NAME_TAKEN"},
		{"name being deployed", nil, []string{"x"}, asking("x", 1, 0), "NAME_TAKEN"},
		{"name of a system service", nil, nil, asking("solo-audit", 1, 0), "NAME_TAKEN"},
		{"last service", []*solov1.DeployRequest{asking("a", 1, 0), asking("b", 1, 0)}, []string{"c", "d"}, asking("x", 1, 0), ""},
		{"one service too many", []*solov1.DeployRequest{asking("a", 1, 0), asking("b", 1, 0), asking("c", 1, 0)}, []string{"d", "e"}, asking("x", 1, 0), "services"},
		{"all ids", nil, nil, asking("x", ids, 0), ""},
		{"one id too many", nil, nil, asking("x", ids+1, 0), "ids"},
		{"the rest of the ids", []*solov1.DeployRequest{asking("a", 100, 0)}, nil, asking("x", ids-100, 0), ""},
		{"one id beyond the rest", []*solov1.DeployRequest{asking("a", 100, 0)}, nil, asking("x", ids-99, 0), "ids"},
		{"all backends", []*solov1.DeployRequest{asking("a", 5, 100)}, nil, asking("x", 5, 100), ""},
		{"one backend too many", []*solov1.DeployRequest{asking("a", 5, 100)}, nil, asking("x", 3, 167), "backends"},
		{"no replicas said is one", []*solov1.DeployRequest{asking("a", 0, 100)}, nil, asking("x", 1, 901), "backends"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := quiet()
			k.boot = &controlv1.Boot{IdRanges: ranges, Config: &controlv1.Config{MaxServices: services}}
			k.shells = &shells{target: pool}
			k.services, k.reserved = map[string]*service{}, map[string]bool{}
			k.system = &systemServices{k: k}
			for i := range system {
				s := &service{tier: tierSystem, name: []string{"solo-audit", "solo-net", "solo-fs"}[i], rec: &controlv1.ServiceRecord{}}
				k.system.list = append(k.system.list, s)
				k.services[s.name] = s
			}
			for _, m := range test.have {
				k.services[m.GetName()] = user(m)
			}
			for _, name := range test.reserved {
				k.reserved[name] = true
			}
			err := k.room(test.ask)
			if test.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			e := control.As(err)
			if got := e.Reason; test.want == "NAME_TAKEN" {
				if got != test.want || e.Code != control.AlreadyExists {
					t.Errorf("%+v", e)
				}
				return
			}
			if e.Code != control.ResourceExhausted || e.Meta["resource"] != test.want || e.Meta["limit"] == "" {
				t.Errorf("%+v, want %s", e, test.want)
			}
		})
	}
	if manifest.MaxBackends > maxBackends {
		t.Errorf("a manifest within its limit of %d backends can never be deployed", manifest.MaxBackends)
	}
}

// TestForgotten: request ids go when they are old or too many, the oldest first.
func TestForgotten(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	known := func(n int, age func(i int) time.Duration) *api {
		a := newAPI(quiet())
		all := map[string]*controlv1.RequestRecord{}
		for i := range n {
			all[strconv.Itoa(i)] = &controlv1.RequestRecord{TimeUnixNano: now.Add(-age(i)).UnixNano()}
		}
		a.remember(all)
		return a
	}
	young := func(int) time.Duration { return time.Second }
	for _, test := range []struct {
		name string
		n    int
		age  func(i int) time.Duration
		want []string
	}{
		{"none", 0, young, nil},
		{"young", 3, young, nil},
		{"one old", 3, func(i int) time.Duration { return time.Duration(i) * keepRequests / 2 }, []string{"2"}},
		{"just not old", 1, func(int) time.Duration { return keepRequests - 1 }, nil},
		{"all old, the oldest first", 3, func(i int) time.Duration { return keepRequests + time.Duration(i)*time.Hour }, []string{"2", "1", "0"}},
		{"one below the number", maxRequests - 1, young, nil},
		{"the number, with the one to come", maxRequests, func(i int) time.Duration { return time.Duration(i) }, []string{fmt.Sprint(maxRequests - 1)}},
		{"from the future", 1, func(int) time.Duration { return -time.Hour }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := known(test.n, test.age)
			got := a.forgotten(now)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("forgotten (-want +got):\n%s", diff)
			}
			if len(a.order) != test.n-len(got) || len(a.answered) != test.n-len(got) {
				t.Errorf("%d ids in order, %d with answers, of %d", len(a.order), len(a.answered), test.n)
			}
			for _, id := range got {
				if a.answered[id] != nil {
					t.Errorf("%s is still known", id)
				}
			}
			if again := a.forgotten(now); len(again) != 0 {
				t.Errorf("forgotten again: %v", again)
			}
		})
	}
}
