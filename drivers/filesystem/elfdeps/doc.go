// Package elfdeps finds, without running it, what a program needs to be executed:
// whether it is an ELF program for this machine, its interpreter, and the shared
// libraries that glibc's or musl's loader would open (ld.so(8)).
//
// Trust: runs unprivileged in solo-fs; the program is hostile. Every number from a
// file is bounded before it is used, and no file is executed or mapped. A program
// can name any file of the host as its library, so the package sees the host as an
// unprivileged user does: what is not readable by others, or lies below a directory
// not searchable by others, does not exist for it, and neither do /proc, /sys, /dev,
// /run and /tmp, which are the sandbox's own inside. What it returns are ELF files
// for this machine; the caller mounts them read-only.
//
// The search order is the loader's:
//
//	glibc: DT_RPATH of the object and of those that asked for it, unless the
//	       object has DT_RUNPATH; DT_RUNPATH of the object; /etc/ld.so.cache;
//	       the default directories
//	musl:  DT_RUNPATH or DT_RPATH of the object and of those that asked for it;
//	       /etc/ld-musl-ARCH.path, else /lib:/usr/local/lib:/usr/lib
//
// The loader inside finds the same files, since only those are mounted; where it
// needs ld.so.cache or ld-musl-ARCH.path for that, the file is part of the result.
//
// The environment (LD_LIBRARY_PATH, LD_PRELOAD) plays no part, nor do
// /etc/ld.so.preload and the variants of libraries for newer processors
// (glibc-hwcaps): the baseline library is always a valid choice. What a program
// opens by dlopen(3) cannot be known.
package elfdeps
