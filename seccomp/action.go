package seccomp

import (
	"fmt"
	"strings"
)

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

func (a Action) String() string {
	switch a {
	case KillProcess:
		return "KILL_PROCESS"
	case KillThread:
		return "KILL_THREAD"
	case Trap:
		return "TRAP"
	case Log:
		return "LOG"
	case Allow:
		return "ALLOW"
	default:
		if n, ok := a.IsErrno(); ok {
			return fmt.Sprintf("ERRNO(%d)", n)
		}
		return fmt.Sprintf("ACTION(%#x)", uint32(a))
	}
}

// parseAction reads an action's OCI name. TRACE and NOTIFY need somebody who answers
// and are refused.
func parseAction(name string, errno *uint) (Action, error) {
	if errno != nil && name != "SCMP_ACT_ERRNO" {
		return 0, fmt.Errorf("errnoRet with action %q", name)
	}
	switch name {
	case "SCMP_ACT_ALLOW":
		return Allow, nil
	case "SCMP_ACT_ERRNO":
		if errno == nil {
			return Errno(EPERM), nil
		}
		if *errno == 0 || *errno > maxErrno {
			return 0, fmt.Errorf("errnoRet %d: 1 to %d", *errno, maxErrno)
		}
		return Errno(uint16(*errno)), nil
	case "SCMP_ACT_KILL_PROCESS":
		return KillProcess, nil
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		return KillThread, nil
	case "SCMP_ACT_TRAP":
		return Trap, nil
	case "SCMP_ACT_LOG":
		return Log, nil
	case "":
		return 0, fmt.Errorf("action is missing")
	}
	if strings.HasPrefix(name, "SCMP_ACT_") {
		return 0, fmt.Errorf("action %q is not supported", name)
	}
	return 0, fmt.Errorf("unknown action %q", name)
}
