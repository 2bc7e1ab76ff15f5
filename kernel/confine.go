package kernel

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confine loads the kernel's own filter into all its threads, so that a hole in it
// cannot begin a program, open a connection or trace (seccomp(2),
// SECCOMP_FILTER_FLAG_TSYNC). It cannot be undone.
func confine(program []byte) error {
	if len(program) == 0 || len(program)%8 != 0 || len(program)/8 > 4096 {
		return fmt.Errorf("seccomp profile kernel: %d bytes are no program", len(program))
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	// struct sock_fprog holds a pointer to 8-byte instructions; the slice's memory is
	// aligned for them by a copy.
	insns := make([]unix.SockFilter, len(program)/8)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&insns[0])), len(program)), program)
	prog := unix.SockFprog{Len: uint16(len(insns)), Filter: &insns[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(insns)
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
