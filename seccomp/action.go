package seccomp

import "fmt"

// Action is what a filter answers: a SECCOMP_RET_ value with its data in the low 16
// bits, seccomp(2).
type Action uint32

const (
	KillProcess Action = 0x80000000
	KillThread  Action = 0x00000000
	Trap        Action = 0x00030000
	errnoAction Action = 0x00050000
	Log         Action = 0x7ffc0000
	Allow       Action = 0x7fff0000
)

// Numbers of the errors that profiles and the compiler use.
const (
	EPERM        = 1
	ENOSYS       = 38
	EAFNOSUPPORT = 97
)

// Errno is the action that lets the call fail with errno n.
func Errno(n uint16) Action { return errnoAction | Action(n) }

// IsErrno tells the errno if the action is one.
func (a Action) IsErrno() (n uint16, ok bool) {
	return uint16(a), a&0xffff0000 == errnoAction
}

// actions are the OCI names of all but SCMP_ACT_ERRNO. TRACE and NOTIFY need somebody who
// answers and are refused.
var actions = map[string]Action{
	"SCMP_ACT_ALLOW":        Allow,
	"SCMP_ACT_KILL_PROCESS": KillProcess,
	"SCMP_ACT_KILL":         KillThread,
	"SCMP_ACT_KILL_THREAD":  KillThread,
	"SCMP_ACT_TRAP":         Trap,
	"SCMP_ACT_LOG":          Log,
}

// parseAction reads an action's OCI name.
func parseAction(name string, errno *uint) (Action, error) {
	action, known := actions[name]
	switch {
	case name == "SCMP_ACT_ERRNO" && errno == nil:
		return Errno(EPERM), nil
	case name == "SCMP_ACT_ERRNO" && (*errno == 0 || *errno > maxErrno):
		return 0, fmt.Errorf("errnoRet %d: 1 to %d", *errno, maxErrno)
	case name == "SCMP_ACT_ERRNO":
		return Errno(uint16(*errno)), nil
	case errno != nil:
		return 0, fmt.Errorf("errnoRet with action %q", name)
	case !known:
		return 0, fmt.Errorf("action %q is unknown or not supported", name)
	}
	return action, nil
}
