package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// envelope is room for what FromService and the id add to a Request.
const envelope = 64

// link is the connection to the kernel: requests out, responses in, matched by id.
type link struct {
	conn *ipc.Conn

	sending sync.Mutex // serialises conn.Send

	mu    sync.Mutex
	last  uint64
	calls map[uint64]*call

	maxUpload atomic.Uint64
	// observer takes the connection for Observation records, and owns it.
	observer func(*ipc.Conn)
}

// call is one request that the kernel has not finished answering.
type call struct {
	id    uint64
	link  *link
	reply chan reply
	// from waits to hear that the kernel knows the caller's token; nil when nobody
	// does, or not any more. It belongs to link.mu.
	from *connection
}

// reply is one response; whoever takes it owns the files.
type reply struct {
	*controlv1.Response
	files ipc.Files
}

// maxReplies is how many responses one request has at most (a run: two).
const maxReplies = 2

func newLink(conn *ipc.Conn) *link {
	l := &link{conn: conn, calls: map[uint64]*call{}}
	l.maxUpload.Store(DefaultUploadBytes)
	return l
}

// send may be called from several goroutines at once. It waits while the kernel
// does not read.
func (l *link) send(m *controlv1.FromService, files ...*os.File) error {
	l.sending.Lock()
	defer l.sending.Unlock()
	return l.conn.Send(m, files...)
}

// begin sends a request that came on a connection, or on none, and registers for its
// responses. It gives the request its id and does not take ownership of files. The
// caller must end the call.
func (l *link) begin(from *connection, req *controlv1.Request, files ...*os.File) (*call, error) {
	c := &call{link: l, reply: make(chan reply, maxReplies)}
	l.mu.Lock()
	if l.calls == nil {
		l.mu.Unlock()
		return nil, errGone
	}
	l.last++
	c.id, req.Id = l.last, l.last
	l.calls[c.id] = c
	if from.asks() {
		c.from = from
	}
	l.mu.Unlock()
	if n := proto.Size(req); n > ipc.MaxMessage-envelope {
		c.forget()
		return nil, refuse(codes.InvalidArgument, "REQUEST_TOO_LARGE", map[string]string{"limit_bytes": fmt.Sprint(ipc.MaxMessage - envelope), "bytes": fmt.Sprint(n)},
			"the request has %d bytes besides code and file contents; the limit is %d", n, ipc.MaxMessage-envelope)
	}
	if err := l.send(&controlv1.FromService{Item: &controlv1.FromService_Request{Request: req}}, files...); err != nil {
		c.forget()
		return nil, status.Errorf(codes.Unavailable, "pass the request to the kernel: %v", err)
	}
	return c, nil
}

// next waits for the next response. An error of the kernel comes back as a gRPC
// status, the end of ctx likewise after telling the kernel. The caller owns the
// reply's files.
func (c *call) next(ctx context.Context) (reply, error) {
	select {
	case r, ok := <-c.reply:
		return c.take(r, ok)
	default:
	}
	select {
	case r, ok := <-c.reply:
		return c.take(r, ok)
	case <-ctx.Done():
		c.cancel()
		return reply{}, status.FromContextError(ctx.Err()).Err()
	}
}

func (c *call) take(r reply, ok bool) (reply, error) {
	if !ok {
		return reply{}, errGone
	}
	if r.Error != nil {
		r.files.Close()
		return reply{}, statusOf(r.Error)
	}
	return r, nil
}

// cancel tells the kernel that nobody waits any more, unless the call is over.
func (c *call) cancel() {
	if c.forget() {
		// An error means that the connection is gone, and with it the request.
		_ = c.link.send(&controlv1.FromService{Item: &controlv1.FromService_Cancel{Cancel: &controlv1.Cancel{Id: c.id}}})
	}
}

// forget ends the registration and reports whether there was one; descriptors of
// responses that nobody took are closed.
func (c *call) forget() bool {
	c.link.mu.Lock()
	_, live := c.link.calls[c.id]
	delete(c.link.calls, c.id)
	c.settle(false)
	c.link.mu.Unlock()
	for {
		select {
		case r, ok := <-c.reply:
			if !ok {
				return false
			}
			r.files.Close()
		default:
			return live
		}
	}
}

// settle tells the connection how the call ended for it; link.mu is held.
func (c *call) settle(known bool) {
	if c.from != nil {
		c.from.answered(known)
		c.from = nil
	}
}

// errGone is the answer to calls that the end of the control connection cut off.
var errGone = status.Error(codes.Unavailable, "the gateway has lost its kernel")

// receive takes messages until the connection ends, which it reports. A stop order
// is put into stop; it does not end receive, since answers may still follow.
func (l *link) receive(stop chan<- time.Duration) error {
	defer l.fail()
	for {
		var m controlv1.FromKernel
		files, _, err := l.conn.Receive(&m)
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the kernel has closed the control connection")
		case err != nil:
			return fmt.Errorf("control connection: %w", err)
		}
		if err := l.dispatch(&m, files, stop); err != nil {
			return err
		}
	}
}

// dispatch owns files.
func (l *link) dispatch(m *controlv1.FromKernel, files ipc.Files, stop chan<- time.Duration) error {
	switch item := m.Item.(type) {
	case *controlv1.FromKernel_Response:
		return l.deliver(item.Response, files)
	case *controlv1.FromKernel_OpenObserver:
		if len(files) != 1 {
			files.Close()
			return &ipc.ProtocolError{What: fmt.Sprintf("open_observer with %d descriptors", len(files))}
		}
		conn, err := ipc.FileConn(files[0])
		if err != nil {
			return fmt.Errorf("observer: %w", err)
		}
		l.observer(conn)
		return nil
	}
	if len(files) > 0 {
		files.Close()
		return &ipc.ProtocolError{What: fmt.Sprintf("%T with descriptors", m.Item)}
	}
	switch item := m.Item.(type) {
	case *controlv1.FromKernel_Welcome:
	case *controlv1.FromKernel_Stop:
		select {
		case stop <- time.Duration(item.Stop.GetGraceMs()) * time.Millisecond:
		default: // it stops already
		}
	case *controlv1.FromKernel_GatewayConfig:
		if n := item.GatewayConfig.GetMaxUploadBytes(); n > 0 {
			l.maxUpload.Store(n)
		}
	default:
		return &ipc.ProtocolError{What: fmt.Sprintf("%T is not for the gateway", m.Item)}
	}
	return nil
}

func (l *link) deliver(resp *controlv1.Response, files ipc.Files) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[resp.GetId()]
	if c == nil { // cancelled meanwhile
		files.Close()
		return nil
	}
	if !resp.GetMore() {
		delete(l.calls, c.id)
	}
	c.settle(codes.Code(resp.GetError().GetCode()) != codes.Unauthenticated)
	select {
	case c.reply <- reply{resp, files}:
		return nil
	default:
		files.Close()
		return &ipc.ProtocolError{What: "too many responses to one request"}
	}
}

// fail ends every call that waits.
func (l *link) fail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		close(c.reply)
	}
	l.calls = nil
}
