// Package ipc carries protobuf messages and descriptors between Solo's processes.
//
// A connection is one end of a SOCK_SEQPACKET socket pair (unix(7)): one record is
// one message of at most MaxMessage bytes, and descriptors travel with it by
// SCM_RIGHTS. It is the only place in Solo that handles SCM_RIGHTS.
//
// Trust: the peer may be hostile. Receive takes ownership of every descriptor that
// arrived before it looks at the message, closes them all when the record is not
// acceptable, and reports a ProtocolError; the caller then ends the peer.
package ipc

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const (
	// MaxMessage is the largest record, in bytes.
	MaxMessage = 64 << 10
	// MaxFiles is the largest number of descriptors with one record (SCM_MAX_FD).
	MaxFiles = 253
)

// ErrFull is returned by TrySend when the peer does not read and the socket's
// buffer is full.
var ErrFull = errors.New("peer does not read: send buffer full")

// ProtocolError says that the peer broke the protocol. Its connection is of no
// further use.
type ProtocolError struct {
	// What was wrong, in words for a log.
	What string
}

func (e *ProtocolError) Error() string { return "protocol: " + e.What }

// Files are descriptors that came with, or go with, one message.
type Files []*os.File

// Close closes all of them.
func (fs Files) Close() {
	for _, f := range fs {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Cred is what SCM_CREDENTIALS says of the sender, translated to the receiver's
// namespaces. It is zero unless PassCred was called.
type Cred struct {
	PID int32
	UID uint32
}

// Conn is one end of a connection. Send and Receive may be called from different
// goroutines; neither may be called from two at once.
type Conn struct {
	file   *os.File
	raw    syscall.RawConn
	closed atomic.Bool
	buf    []byte
	oob    []byte
}

// Pair makes a connection and returns one end as a Conn and the other as a file
// that can be sent to, or inherited by, a peer. The caller owns both.
func Pair() (*Conn, *os.File, error) {
	a, b, err := RawPair()
	if err != nil {
		return nil, nil, err
	}
	c, err := FileConn(a)
	if err != nil {
		_ = b.Close()
		return nil, nil, err
	}
	return c, b, nil
}

// RawPair makes a connection and returns both ends as files, close-on-exec.
func RawPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}

// FileConn makes a connection of a SOCK_SEQPACKET socket. It takes ownership of f,
// also when it fails.
func FileConn(f *os.File) (*Conn, error) {
	f, raw, err := socket(f, unix.SOCK_SEQPACKET, "SOCK_SEQPACKET")
	if err != nil {
		return nil, fmt.Errorf("control connection: %w", err)
	}
	return &Conn{file: f, raw: raw}, nil
}

// socket gives a Unix socket of a type to the runtime's poller. It takes ownership of f,
// also when it fails.
func socket(f *os.File, typ int, name string) (*os.File, syscall.RawConn, error) {
	domain, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN)
	got, err2 := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
	if err = cmp.Or(err, err2); err == nil && (domain != unix.AF_UNIX || got != typ) {
		err = fmt.Errorf("socket of domain %d and type %d is not AF_UNIX and %s", domain, got, name)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	if f, err = Pollable(f); err != nil {
		return nil, nil, err
	}
	raw, err := f.SyscallConn()
	return f, raw, err
}

// Pollable makes a file of a descriptor that the runtime's poller can wait for: os.NewFile
// asks whether the descriptor blocks. It takes ownership of f, also when it fails.
func Pollable(f *os.File) (*os.File, error) {
	defer func() { _ = f.Close() }()
	dup, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("dup: %w", err)
	}
	if err := unix.SetNonblock(dup, true); err != nil {
		_ = unix.Close(dup)
		return nil, fmt.Errorf("set non-blocking: %w", err)
	}
	return os.NewFile(uintptr(dup), f.Name()), nil
}

// PassCred makes the system add the sender's credentials to each received message
// (SO_PASSCRED, unix(7)).
func (c *Conn) PassCred() error { return set(c.raw, unix.SO_PASSCRED, 1) }

// set sets an option of a socket.
func set(raw syscall.RawConn, option, value int) (err error) {
	closed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, value)
	})
	return cmp.Or(closed, err)
}

// Close ends the connection; it may be called at any time. Calls that are under way
// and later ones return os.ErrClosed.
func (c *Conn) Close() error {
	c.closed.Store(true)
	return c.file.Close()
}

// local is an error of the poller: a deadline, or our own Close, for which a
// syscall.RawConn has an error of its own.
func (c *Conn) local(op string, err error) error {
	if c.closed.Load() {
		err = os.ErrClosed
	}
	return fmt.Errorf("%s: %w", op, err)
}

// SetReadDeadline bounds the next Receive calls; the zero time removes the bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.file.SetReadDeadline(t) }

// SetWriteDeadline bounds the next Send calls; the zero time removes the bound.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }

// Send writes one message and waits while the peer's buffer is full. It does not
// take ownership of files.
func (c *Conn) Send(m proto.Message, files ...*os.File) error {
	return c.send(m, files, true)
}

// TrySend is Send that returns ErrFull rather than wait.
func (c *Conn) TrySend(m proto.Message, files ...*os.File) error {
	return c.send(m, files, false)
}

// ErrTooLong is what Encode answers for a message over MaxMessage.
var ErrTooLong = errors.New("message is too long")

// Encode makes the record of a message, for SendRecord.
func Encode(m proto.Message) ([]byte, error) {
	data, err := proto.Marshal(m)
	name := m.ProtoReflect().Descriptor().Name()
	switch {
	case err != nil:
		return nil, fmt.Errorf("encode %s: %w", name, err)
	case len(data) > MaxMessage:
		return nil, fmt.Errorf("encode %s: %w: %d bytes are over the limit of %d", name, ErrTooLong, len(data), MaxMessage)
	case len(data) == 0:
		return nil, fmt.Errorf("encode %s: message is empty", name)
	}
	return data, nil
}

// SendRecord is Send of a message that Encode has encoded.
func (c *Conn) SendRecord(record []byte, files ...*os.File) error {
	return c.write(record, files, true)
}

func (c *Conn) send(m proto.Message, files []*os.File, wait bool) error {
	data, err := Encode(m)
	if err != nil {
		return err
	}
	return c.write(data, files, wait)
}

func (c *Conn) write(data []byte, files []*os.File, wait bool) error {
	if len(files) > MaxFiles {
		return fmt.Errorf("send: %d descriptors are over the limit of %d", len(files), MaxFiles)
	}
	var oob []byte
	if len(files) > 0 {
		fds, release, err := hold(files)
		if err != nil {
			return err
		}
		defer release()
		oob = unix.UnixRights(fds...)
	}
	var err error
	werr := c.raw.Write(func(fd uintptr) bool {
		for {
			err = unix.Sendmsg(int(fd), data, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				break
			}
		}
		if err == unix.EAGAIN && wait {
			return false
		}
		return true
	})
	switch {
	case werr != nil:
		return c.local("send", werr)
	case err == unix.EAGAIN:
		return ErrFull
	case err != nil:
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// hold takes the numbers of the files' descriptors such that none can be closed
// before release. It leaves their blocking mode alone, which File.Fd would change.
func hold(files []*os.File) (fds []int, release func(), err error) {
	fds = make([]int, 0, len(files))
	release = func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			release()
			return nil, nil, fmt.Errorf("send descriptor: %w", err)
		}
		var dup int
		var derr error
		if err := raw.Control(func(fd uintptr) { dup, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
			derr = err
		}
		if derr != nil {
			release()
			return nil, nil, fmt.Errorf("send descriptor: %w", derr)
		}
		fds = append(fds, dup)
	}
	return fds, release, nil
}

// Receive waits for one message and decodes it into m. The caller owns the
// returned files. io.EOF says that the peer has closed its end, which an empty record
// cannot be told from; a *ProtocolError that it sent something unacceptable, whose
// descriptors are closed already.
//
// A field that m's protocol does not know is unacceptable wherever it stands. Parts of
// another protobuf package are not looked into: what the gateway passes on of a
// client's request is the client's fault, and is answered (UnknownField), not punished.
func (c *Conn) Receive(m proto.Message) (Files, Cred, error) {
	data, files, cred, err := c.read()
	if err != nil {
		return nil, cred, err
	}
	proto.Reset(m)
	if err := (proto.UnmarshalOptions{DiscardUnknown: false}).Unmarshal(data, m); err != nil {
		files.Close()
		return nil, cred, &ProtocolError{What: "record is not protobuf"}
	}
	if field, found := foreign(m.ProtoReflect()); found {
		files.Close()
		return nil, cred, &ProtocolError{What: "unknown field " + field}
	}
	return files, cred, nil
}

func (c *Conn) read() ([]byte, Files, Cred, error) {
	if c.buf == nil {
		c.buf = make([]byte, MaxMessage)
		c.oob = make([]byte, unix.CmsgSpace(MaxFiles*4)+unix.CmsgSpace(unix.SizeofUcred))
	}
	n, oobn, flags, err, rerr := recvmsg(c.raw, c.buf, c.oob)
	if rerr != nil {
		return nil, nil, Cred{}, c.local("receive", rerr)
	}
	if err != nil {
		return nil, nil, Cred{}, fmt.Errorf("receive: %w", err)
	}
	files, cred, perr := own(c.oob[:oobn])
	switch {
	case perr != nil:
	case flags&unix.MSG_CTRUNC != 0 && c.exhausted():
		files.Close()
		return nil, nil, cred, fmt.Errorf("receive descriptors: %w", unix.EMFILE)
	case flags&unix.MSG_CTRUNC != 0:
		perr = &ProtocolError{What: "control message truncated"}
	case flags&unix.MSG_TRUNC != 0:
		perr = &ProtocolError{What: fmt.Sprintf("record is longer than %d bytes", MaxMessage)}
	case n == 0 && len(files) > 0:
		perr = &ProtocolError{What: "empty record with descriptors"}
	}
	if perr != nil {
		files.Close()
		return nil, nil, cred, perr
	}
	if n == 0 {
		return nil, nil, cred, io.EOF
	}
	return c.buf[:n], files, cred, nil
}

// recvmsg waits for one message. closed is the poller's error: a deadline or a close of
// our own.
func recvmsg(raw syscall.RawConn, buf, oob []byte) (n, oobn, flags int, err, closed error) {
	closed = raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			// A peer that closes before it has read everything resets the connection:
			// the error is reported once, and what the peer had sent is behind it.
			if err != unix.EINTR && err != unix.ECONNRESET {
				return err != unix.EAGAIN
			}
		}
	})
	return n, oobn, flags, err, closed
}

// exhausted says whether this process has no descriptor left: then it was not the peer
// that cut its descriptors off (unix(7), MSG_CTRUNC).
func (c *Conn) exhausted() (none bool) {
	_ = c.raw.Control(func(fd uintptr) {
		dup, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		if none = err != nil; !none {
			_ = unix.Close(dup)
		}
	})
	return none
}

// own turns a control buffer into owned files, all of them, before anything is
// judged.
func own(oob []byte) (Files, Cred, error) {
	var files Files
	var cred Cred
	if len(oob) == 0 {
		return nil, cred, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, cred, &ProtocolError{What: "control message unreadable"}
	}
	for i := range msgs {
		switch {
		case msgs[i].Header.Level == unix.SOL_SOCKET && msgs[i].Header.Type == unix.SCM_RIGHTS:
			fds, err := unix.ParseUnixRights(&msgs[i])
			if err != nil {
				files.Close()
				return nil, cred, &ProtocolError{What: "descriptors unreadable"}
			}
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "received"))
			}
		case msgs[i].Header.Level == unix.SOL_SOCKET && msgs[i].Header.Type == unix.SCM_CREDENTIALS:
			c, err := unix.ParseUnixCredentials(&msgs[i])
			if err == nil {
				cred = Cred{PID: c.Pid, UID: c.Uid}
			}
		}
	}
	return files, cred, nil
}
