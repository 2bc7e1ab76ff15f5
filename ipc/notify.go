package ipc

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxNotify is the largest notification, in bytes.
const MaxNotify = 8 << 10

// Notify is the receiving end of a service's NOTIFY_SOCKET (sd_notify(3)): datagrams
// of text with the sender's credentials and, for FDSTORE=1, descriptors.
type Notify struct {
	file *os.File
	raw  syscall.RawConn
}

// Notification is one datagram. The receiver owns the files.
type Notification struct {
	Text  string
	Files Files
	Cred  Cred
}

// NotifyConn makes a receiver of a bound SOCK_DGRAM socket. It takes ownership of f,
// also when it fails.
func NotifyConn(f *os.File) (*Notify, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("dup notify socket: %w", err)
	}
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil:
	case typ != unix.SOCK_DGRAM:
		err = fmt.Errorf("socket type %d is not SOCK_DGRAM", typ)
	default:
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	nf := os.NewFile(uintptr(fd), "notify")
	raw, err := nf.SyscallConn()
	if err != nil {
		_ = nf.Close()
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	return &Notify{file: nf, raw: raw}, nil
}

// Receive waits for one notification. One that is longer than MaxNotify, or whose
// descriptors were cut off, is a *ProtocolError; the next may be received all the same.
func (n *Notify) Receive() (Notification, error) {
	buf := make([]byte, MaxNotify)
	oob := make([]byte, unix.CmsgSpace(MaxFiles*4)+unix.CmsgSpace(unix.SizeofUcred))
	var got, oobn, flags int
	var err error
	rerr := n.raw.Read(func(fd uintptr) bool {
		for {
			got, oobn, flags, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if rerr != nil {
		_ = n.raw.Control(func(fd uintptr) { drain(int(fd)) })
		_ = n.file.Close()
		return Notification{}, io.EOF
	}
	if err != nil {
		return Notification{}, fmt.Errorf("receive notification: %w", err)
	}
	files, cred, perr := own(oob[:oobn])
	if perr == nil && flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		perr = &ProtocolError{What: fmt.Sprintf("notification is longer than %d bytes or its descriptors are cut off", MaxNotify)}
	}
	if perr != nil {
		files.Close()
		return Notification{}, perr
	}
	return Notification{Text: string(buf[:got]), Files: files, Cred: cred}, nil
}

// Close ends the receiver without waiting for anything: the Receive that is under way,
// or comes next, discards what is queued, closes the socket and returns io.EOF.
func (n *Notify) Close() error { return n.file.SetReadDeadline(time.Unix(1, 0)) }
