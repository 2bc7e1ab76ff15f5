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
	f, raw, err := socket(f, unix.SOCK_DGRAM, "SOCK_DGRAM")
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	if err := set(raw, unix.SO_PASSCRED, 1); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	return &Notify{file: f, raw: raw}, nil
}

// Receive waits for one notification. One that is longer than MaxNotify, or whose
// descriptors were cut off, is a *ProtocolError; the next may be received all the same.
func (n *Notify) Receive() (Notification, error) {
	buf := make([]byte, MaxNotify)
	oob := make([]byte, unix.CmsgSpace(MaxFiles*4)+unix.CmsgSpace(unix.SizeofUcred))
	got, oobn, flags, err, rerr := recvmsg(n.raw, buf, oob)
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
