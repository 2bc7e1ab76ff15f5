package kernel

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// notifier is a started instance of a service that says itself when it is ready.
func notifier(t *testing.T) (*Kernel, *instance) {
	t.Helper()
	k := quiet()
	k.events = newQueue()
	k.ports = newPorts(k)
	k.system = &systemServices{k: k}
	s := &service{k: k, rec: &controlv1.ServiceRecord{Desired: desiredRunning, Manifest: &solov1.DeployRequest{
		Ready: &solov1.Ready{Probe: &solov1.Ready_Notify{Notify: true}},
	}}}
	inst := &instance{svc: s, extendable: time.Hour, phase: phaseStarted, asked: map[uint64]func(*controlv1.InitReport, ipc.Files){}}
	s.slots = []*slot{{inst: inst}}
	t.Cleanup(func() {
		for _, f := range s.kept {
			_ = f.file.Close()
		}
	})
	return k, inst
}

func TestNotifications(t *testing.T) {
	for _, test := range []struct {
		name, text string
		ready      bool
		status     string
	}{
		{"ready", "READY=1", true, ""},
		{"ready among others", "STATUS=listening\nREADY=1\nMONOTONIC_USEC=12\n", true, "listening"},
		{"not ready", "READY=0", false, ""},
		{"status", "STATUS=loading 10%", false, "loading 10%"},
		{"watchdog", "WATCHDOG=1", false, ""},
		{"nothing", "", false, ""},
		{"not an assignment", "READY", false, ""},
		{"status too long", "STATUS=" + strings.Repeat("x", 2*maxStatus), false, strings.Repeat("x", maxStatus)},
		{"status not UTF-8", "STATUS=a\xffb", false, "a?b"},
		{"main process out of range", "MAINPID=99999999999999\nMAINPID=1", false, ""},
		{"extension out of range", "EXTEND_TIMEOUT_USEC=-1", false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			k, inst := notifier(t)
			k.notified(inst, assignments(test.text), nil)
			if got := inst.phase == phaseReady; got != test.ready {
				t.Errorf("ready %v, want %v", got, test.ready)
			}
			if inst.svc.text != test.status {
				t.Errorf("status %q, want %q", inst.svc.text, test.status)
			}
		})
	}
}

// TestReadyBeforeStarted: the program's word may come before solo-init's of its start.
func TestReadyBeforeStarted(t *testing.T) {
	k, inst := notifier(t)
	inst.phase = phaseReleased
	k.notified(inst, assignments("READY=1"), nil)
	if inst.phase != phaseReleased {
		t.Fatalf("phase %d before Started", inst.phase)
	}
	k.started(inst)
	if inst.phase != phaseReady {
		t.Errorf("phase %d after Started, want ready", inst.phase)
	}
}

// TestReadyAfterEnd: who is being ended does not become ready any more.
func TestReadyAfterEnd(t *testing.T) {
	k, inst := notifier(t)
	inst.cause = reasonStartup
	k.notified(inst, assignments("READY=1"), nil)
	if inst.phase == phaseReady {
		t.Error("an instance that is being ended became ready")
	}
}

func TestStoredDescriptors(t *testing.T) {
	k, inst := notifier(t)
	k.services = map[string]*service{"s": inst.svc}
	open := func(path string) *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	pipe := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		return r
	}
	memfd := func(size int, sealed bool) *os.File {
		f, err := ipc.NewMemfd("kept")
		if err == nil {
			err = f.Truncate(int64(size))
		}
		if err == nil && sealed {
			err = ipc.Seal(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	store := func(text string, files ...*os.File) {
		k.notified(inst, assignments(text), files).Discard()
	}
	closed := func(f *os.File) bool { return f.Close() != nil }

	for name, f := range map[string]*os.File{
		"a directory": open("/"), "a device": open("/dev/null"), "a file": open("/etc/passwd"),
		"a memfd that may grow": memfd(1, false), "a long memfd": memfd(maxKeptBytes+1, true),
	} {
		store("FDSTORE=1", f)
		if !closed(f) {
			t.Errorf("%s was kept", name)
		}
	}
	unasked := pipe()
	store("READY=1", unasked)
	if !closed(unasked) {
		t.Error("a descriptor without FDSTORE=1 was kept open")
	}
	first := pipe()
	store("FDSTORE=1\nFDNAME=a", first)
	store("FDSTORE=1\nFDNAME=b:c", memfd(maxKeptBytes, true))
	for range maxKept {
		store("FDSTORE=1", pipe())
	}
	if n := len(inst.svc.kept); n != maxKept {
		t.Errorf("%d descriptors are kept, want %d", n, maxKept)
	}
	if a, b := inst.svc.kept[0].name, inst.svc.kept[1].name; a != "a" || b != "stored" {
		t.Errorf("names %q and %q, want a and stored", a, b)
	}
	store("FDSTOREREMOVE=1\nFDNAME=a")
	if n := len(inst.svc.kept); n != maxKept-1 || !closed(first) {
		t.Errorf("%d descriptors after the removal of one", n)
	}
	inst.svc.rec.Desired = desiredStopped
	inst.slot, inst.svc.slots[0].inst = nil, nil
	inst.svc.changed()
	if n := len(inst.svc.kept); n != 0 {
		t.Errorf("%d descriptors outlive the service's stop", n)
	}
}

// TestExtend moves the limit of a start, and never beyond maxExtend.
func TestExtend(t *testing.T) {
	k, inst := notifier(t)
	fired := make(chan struct{})
	inst.arm(k, time.Hour, func() { close(fired) })
	first := inst.timer
	k.notified(inst, assignments("EXTEND_TIMEOUT_USEC=1000000"), nil)
	if inst.timer == first || inst.timer == nil {
		t.Error("the timer was not replaced")
	}
	inst.disarm()
	k.notified(inst, assignments("EXTEND_TIMEOUT_USEC=1000000"), nil)
	if inst.timer != nil {
		t.Error("an extension started a timer where there was none")
	}
	select {
	case <-fired:
		t.Error("the replaced timer fired")
	default:
	}
}
