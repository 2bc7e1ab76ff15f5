// Package launcher makes shells: containers in which solo-init waits for a lease. It
// is the only package that links libcontainer, whose API and defaults are not
// promised stable; what came out of it is checked before it is handed on. It needs
// cgo and the build tag seccomp.
//
// It runs as root in the program solo-launcher, in a mount namespace of its own. It
// takes orders from the kernel alone, on one SEQPACKET connection, and nothing that a
// service says reaches it. All it keeps on file systems lies in one tmpfs of that
// mount namespace and is gone with the process; shells live on without it.
package launcher
