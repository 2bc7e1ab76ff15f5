package cgroups

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of one file of a hierarchy: cgroup.procs of a
// group with as many processes as pid_max allows fits.
const maxFile = 64 << 20

// WriteError says which value the kernel did not take in which file. Err is the
// errno.
type WriteError struct {
	File  string
	Value string
	Err   error
}

func (e *WriteError) Error() string {
	return fmt.Sprintf("write %q to %s: %v", e.Value, e.File, e.Err)
}

func (e *WriteError) Unwrap() error { return e.Err }

// writeFile writes value with one write(2), as control files want it.
func writeFile(file, value string) error {
	fd, err := open(file, unix.O_WRONLY)
	if err == nil {
		_, err = retry(func() (int, error) { return unix.Write(fd, []byte(value)) })
		_ = unix.Close(fd)
	}
	if err != nil {
		return &WriteError{File: file, Value: value, Err: err}
	}
	return nil
}

// readFile reads a whole file. The descriptor never meets the runtime's poller:
// cgroup files are always readable and only signal exceptional events.
func readFile(file string) (string, error) {
	fd, err := open(file, unix.O_RDONLY)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: file, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	content, err := readAll(fd)
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: file, Err: err}
	}
	return content, nil
}

// readAll reads from the start of fd with pread, so that an open file can be
// read again.
func readAll(fd int) (string, error) {
	buf := make([]byte, 4096)
	n := 0
	for {
		k, err := retry(func() (int, error) { return unix.Pread(fd, buf[n:], int64(n)) })
		switch {
		case err != nil:
			return "", err
		case k == 0:
			return string(buf[:n]), nil
		}
		n += k
		if n == len(buf) {
			if n >= maxFile {
				return "", unix.EFBIG
			}
			buf = append(buf, make([]byte, n)...)
		}
	}
}

func open(file string, flags int) (int, error) {
	return retry(func() (int, error) { return unix.Open(file, flags|unix.O_CLOEXEC, 0) })
}

// retry repeats a call that a signal interrupted; the Go runtime sends signals
// to preempt goroutines.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// gone tells that a group or the process in question does not exist any more.
// A file of a removed group that is still open answers ENODEV.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}
