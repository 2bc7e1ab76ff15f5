package main

import (
	"fmt"
	"io"
)

// File modes of an archive, as in inode(7).
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

// archive writes the "newc" format that the Linux kernel unpacks as initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst). The first error
// stays.
type archive struct {
	w     io.Writer
	n     int64
	inode int
	err   error
}

func (a *archive) write(p []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(p)
	a.n += int64(n)
	a.err = err
}

// pad fills up to the next multiple of four.
func (a *archive) pad() {
	if rest := a.n % 4; rest != 0 {
		a.write(make([]byte, 4-rest))
	}
}

// entry adds one file; major and minor are those of a device.
func (a *archive) entry(name string, mode int, data []byte, major, minor int) {
	a.inode++
	const magic, uid, gid, links, mtime, check = "070701", 0, 0, 1, 0, 0
	a.write(fmt.Appendf(nil, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		magic, a.inode, mode, uid, gid, links, mtime, len(data), 0, 0, major, minor, len(name)+1, check))
	a.write(append([]byte(name), 0))
	a.pad()
	a.write(data)
	a.pad()
}

// close ends the archive; what it was written to stays open.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil, 0, 0)
	return a.err
}
