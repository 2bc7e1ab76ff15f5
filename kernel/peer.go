package kernel

import (
	"errors"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
)

// What may wait for a peer that does not read: messages, bytes, descriptors.
const (
	peerQueue = 4096
	peerBytes = 16 << 20
	peerFiles = 1024
)

var errPeerFull = errors.New("peer does not read its control connection")

// peer is one connection with a queue, so that the owner never waits for a reader.
type peer struct {
	conn *ipc.Conn

	mu     sync.Mutex
	wake   chan struct{}
	queue  []outgoing
	bytes  int
	files  int
	closed bool
}

type outgoing struct {
	record []byte
	files  ipc.Files
}

// newPeer takes the connection over.
func newPeer(conn *ipc.Conn) *peer {
	p := &peer{conn: conn, wake: make(chan struct{}, 1)}
	go p.write()
	return p
}

// send queues a message as it is now. It takes ownership of the files, whatever happens,
// and never blocks. A message that is too long is not sent (ipc.ErrTooLong); it is no
// fault of the peer's.
func (p *peer) send(m proto.Message, files ...*os.File) error {
	if p == nil {
		ipc.Files(files).Close()
		return os.ErrClosed
	}
	record, err := ipc.Encode(m)
	if err != nil {
		ipc.Files(files).Close()
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		ipc.Files(files).Close()
		return os.ErrClosed
	case len(p.queue) >= peerQueue || p.bytes+len(record) > peerBytes || p.files+len(files) > peerFiles:
		ipc.Files(files).Close()
		return errPeerFull
	}
	p.queue = append(p.queue, outgoing{record, files})
	p.bytes += len(record)
	p.files += len(files)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

func (p *peer) write() {
	for range p.wake {
		for {
			p.mu.Lock()
			if p.closed || len(p.queue) == 0 {
				p.mu.Unlock()
				break
			}
			next := p.queue[0]
			p.queue = p.queue[1:]
			p.bytes -= len(next.record)
			p.files -= len(next.files)
			p.mu.Unlock()
			err := p.conn.SendRecord(next.record, next.files...)
			next.files.Close()
			if err != nil {
				// The reader of this connection sees its end too, and reports it.
				p.close()
				return
			}
		}
	}
}

// close drops what waits and wakes the reader of the connection, which closes it: what
// a hostile peer has queued there is closed where nobody else waits. It may be called
// twice.
func (p *peer) close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	for _, o := range p.queue {
		o.files.Close()
	}
	p.queue = nil
	past := time.Unix(1, 0)
	_ = p.conn.SetReadDeadline(past)
	_ = p.conn.SetWriteDeadline(past)
	close(p.wake)
}
