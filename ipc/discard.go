package ipc

import (
	"golang.org/x/sys/unix"
)

// Discard closes descriptors that a hostile peer has sent. The close of a TCP socket
// with SO_LINGER waits for its peer, for as long as whoever set it likes (socket(7)), so
// the option is switched off before. Somebody who holds a copy may switch it on again in
// between: Discard belongs where only the sender's own business waits.
func (fs Files) Discard() {
	for _, f := range fs {
		calm(int(f.Fd()))
	}
	fs.Close()
}

func calm(fd int) {
	// ENOTSOCK for everything that cannot linger.
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
}

// drain takes what is queued on a socket, without waiting, and discards what came with
// it: the close of the socket itself would close the queued descriptors one by one.
func drain(fd int) {
	buf := make([]byte, 1)
	oob := make([]byte, unix.CmsgSpace(MaxFiles*4)+unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		files, _, _ := own(oob[:oobn])
		files.Discard()
		if n == 0 && len(files) == 0 {
			return // the end, or nothing that matters
		}
	}
}

// Drain discards what the peer has sent and nobody will receive, and closes the
// connection. It is for peers that may be hostile and are dead.
func (c *Conn) Drain() error {
	_ = c.raw.Control(func(fd uintptr) { drain(int(fd)) })
	return c.Close()
}

// RefuseRights has the system refuse the peer's messages with descriptors
// (SO_PASSRIGHTS, Linux 6.16). It returns an error rooted in ENOPROTOOPT on older ones.
func (c *Conn) RefuseRights() error {
	const soPassRights = 83
	return set(c.raw, soPassRights, 0)
}
