//go:build seccomp

package launcher

/*
#include <sys/syscall.h>
#include <unistd.h>

// Before Go starts its threads: a session keyring belongs to a thread, and children
// get that of the thread that forks them (keyctl(2) KEYCTL_JOIN_SESSION_KEYRING,
// session-keyring(7)). An error means that the system has no keyrings.
__attribute__((constructor)) static void empty_session_keyring(void)
{
	syscall(SYS_keyctl, 1, 0);
}
*/
import "C"
