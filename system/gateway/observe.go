package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// observer writes an Observation for each finished call to whoever the kernel has
// connected, and drops it when nobody reads: measuring never delays a call.
type observer struct {
	mu   sync.Mutex
	conn *ipc.Conn
}

// use replaces the connection and takes ownership of it; nil ends observing.
func (o *observer) use(conn *ipc.Conn) {
	o.mu.Lock()
	old := o.conn
	o.conn = conn
	o.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

func (o *observer) finished(method string, err error, took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn == nil {
		return
	}
	err = o.conn.TrySend(&controlv1.Observation{
		Method: method, Code: status.Code(err).String(), DurationMs: float64(took) / float64(time.Millisecond)})
	if err != nil && !errors.Is(err, ipc.ErrFull) {
		_ = o.conn.Close() // the reader is gone; the kernel sends another
		o.conn = nil
	}
}

// observed registers a service with each method counted, timed, and with errors
// about the body put right. It wraps the method descriptors rather than using
// interceptors, since those do not see a call whose body cannot be decoded.
// What grpc-go refuses on its own (too long a message, more than one) is counted too.
type observed struct{ s *server }

// RegisterService implements grpc.ServiceRegistrar.
func (o observed) RegisterService(desc *grpc.ServiceDesc, impl any) {
	d := *desc
	d.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		d.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: o.unary(m)}
	}
	d.Streams = make([]grpc.StreamDesc, len(desc.Streams))
	for i, st := range desc.Streams {
		d.Streams[i] = st
		d.Streams[i].Handler = o.stream(st)
	}
	o.s.grpc.RegisterService(&d, impl)
}

func (o observed) unary(m grpc.MethodDesc) grpc.MethodHandler {
	return func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (out any, err error) {
		done := o.s.started(m.MethodName)
		defer func() { done(err) }()
		return m.Handler(srv, ctx, func(v any) error { return receive(dec, v) }, nil)
	}
}

func (o observed) stream(st grpc.StreamDesc) grpc.StreamHandler {
	return func(srv any, stream grpc.ServerStream) (err error) {
		done := o.s.started(st.StreamName)
		defer func() { done(err) }()
		return st.Handler(srv, bodyStream{stream})
	}
}

// started counts a call in; the returned function counts it out.
func (g *gateway) started(method string) func(error) {
	g.calls.add()
	begin := time.Now()
	return func(err error) {
		g.seen.finished(method, err, time.Since(begin))
		g.calls.done()
	}
}

// inflight counts calls. A sync.WaitGroup does not fit: calls begin while drain
// already waits.
type inflight struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n becomes 0; nil until somebody waits
}

func (f *inflight) add() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
}

func (f *inflight) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.n == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// none returns a channel that is closed when no call is in flight.
func (f *inflight) none() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n == 0 {
		c := make(chan struct{})
		close(c)
		return c
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	return f.idle
}
