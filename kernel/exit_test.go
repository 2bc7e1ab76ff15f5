package kernel

import (
	"testing"

	"golang.org/x/sys/unix"

	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// TestReason: what the kernel did counts before what the group counted, and that
// before what solo-init reported.
func TestReason(t *testing.T) {
	exit := func(code, status int32) *controlv1.Exit { return &controlv1.Exit{SiCode: code, SiStatus: status} }
	for _, test := range []struct {
		name string
		inst instance
		oom  uint64
		pids uint64
		want string
	}{
		{"normal", instance{exit: exit(cldExited, 0)}, 0, 0, "exit:0"},
		{"code", instance{exit: exit(cldExited, 3)}, 0, 0, "exit:3"},
		{"signal", instance{exit: exit(cldKilled, 15)}, 0, 0, "signal:15"},
		{"core dump", instance{exit: exit(cldDumped, 11)}, 0, 0, "signal:11"},
		{"filter", instance{exit: exit(cldDumped, int32(unix.SIGSYS))}, 0, 0, reasonSeccomp},
		{"memory, the main process killed", instance{exit: exit(cldKilled, 9)}, 1, 0, reasonOOM},
		{"memory, the main process gave up", instance{exit: exit(cldExited, 1)}, 1, 0, reasonOOM},
		{"memory, the whole group killed", instance{}, 1, 0, reasonOOM},
		{"a fork refused, the main process gave up", instance{exit: exit(cldExited, 2)}, 0, 1, reasonProcesses},
		{"killed by request, and out of memory on the way", instance{cause: reasonKilled}, 1, 0, reasonKilled},
		{"killed by request, and exited at SIGTERM", instance{cause: reasonKilled, exit: exit(cldExited, 0)}, 0, 0, reasonKilled},
		{"sandbox", instance{failure: "sandbox step execveat: exec format error"}, 0, 0, "sandbox step execveat: exec format error"},
		{"without a word", instance{}, 0, 0, "signal:9"},
		{"handed over", instance{exit: exit(0, 0)}, 0, 0, "exit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.inst.reason(after{oom: test.oom, pids: test.pids}); got != test.want {
				t.Errorf("reason %q, want %q", got, test.want)
			}
		})
	}
}

func TestFailedNamesTheStep(t *testing.T) {
	for _, test := range []struct {
		report *controlv1.InitReport
		want   string
	}{
		{&controlv1.InitReport{Report: &controlv1.InitReport_Failed{Failed: &controlv1.Failed{Step: "move_mount /data", Errno: int32(unix.EINVAL)}}}, "sandbox step move_mount /data: invalid argument"},
		{&controlv1.InitReport{Report: &controlv1.InitReport_Refused{Refused: &controlv1.Refused{Step: "bind", Errno: int32(unix.EADDRINUSE)}}}, "sandbox step bind: address already in use"},
		{&controlv1.InitReport{Report: &controlv1.InitReport_Failed{Failed: &controlv1.Failed{Step: "order"}}}, "sandbox step order"},
		{&controlv1.InitReport{}, "sandbox step listen"},
	} {
		inst := &instance{}
		inst.failed("listen", test.report)
		if inst.failure != test.want {
			t.Errorf("failure %q, want %q", inst.failure, test.want)
		}
	}
}

func TestShellStatus(t *testing.T) {
	for _, test := range []struct {
		exit *controlv1.Exit
		want int32
	}{
		{&controlv1.Exit{SiCode: cldExited, SiStatus: 0}, 0},
		{&controlv1.Exit{SiCode: cldExited, SiStatus: 255}, 255},
		{&controlv1.Exit{SiCode: cldKilled, SiStatus: 15}, 143},
		{&controlv1.Exit{SiCode: cldDumped, SiStatus: 6}, 134},
		{&controlv1.Exit{}, 137},
		{nil, 137},
	} {
		if got := shellStatus(&instance{exit: test.exit}); got != test.want {
			t.Errorf("%v is %d to a shell, want %d", test.exit, got, test.want)
		}
	}
}
