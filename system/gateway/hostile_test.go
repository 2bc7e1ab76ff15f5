package gateway_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
	"github.com/solo-os/solo/system/gateway"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// peer speaks HTTP/2 by hand, to do what grpc-go's client would not.
type peer struct {
	conn     net.Conn
	framer   *http2.Framer
	settings map[http2.SettingID]uint32
}

// dial connects and returns when the gateway has answered with its settings, or
// closed the connection.
func dial(g *gatewaytest.Gateway) (*peer, error) {
	conn, err := net.Dial("unix", g.Socket)
	if err != nil {
		return nil, err
	}
	p := &peer{conn: conn, framer: http2.NewFramer(conn, conn), settings: map[http2.SettingID]uint32{}}
	err = conn.SetDeadline(time.Now().Add(gatewaytest.Patience))
	if err == nil {
		_, err = io.WriteString(conn, http2.ClientPreface)
	}
	if err == nil {
		err = p.framer.WriteSettings()
	}
	var f http2.Frame
	if err == nil {
		f, err = p.framer.ReadFrame()
	}
	if err == nil {
		if s, ok := f.(*http2.SettingsFrame); ok {
			err = s.ForeachSetting(func(s http2.Setting) error { p.settings[s.ID] = s.Val; return nil })
		} else {
			err = errors.New("the first frame is no SETTINGS frame")
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return p, nil
}

func mustDial(t *testing.T, g *gatewaytest.Gateway) *peer {
	t.Helper()
	p, err := dial(g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.conn.Close() })
	return p
}

// call begins a call; the stream's number is odd.
func (p *peer) call(t *testing.T, stream uint32, method string, more ...hpack.HeaderField) {
	t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method}, {Name: ":authority", Value: "localhost"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		f.Sensitive = true // so that nothing is left out
		if err := enc.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	rest := block.Bytes()
	const most = 16 << 10
	piece := rest[:min(most, len(rest))]
	rest = rest[len(piece):]
	err := p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: piece, EndHeaders: len(rest) == 0})
	for err == nil && len(rest) > 0 {
		piece, rest = rest[:min(most, len(rest))], rest[min(most, len(rest)):]
		err = p.framer.WriteContinuation(stream, len(rest) == 0, piece)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// reset waits until a stream is reset and returns the reason.
func (p *peer) reset(t *testing.T, stream uint32) http2.ErrCode {
	t.Helper()
	for {
		f, err := p.framer.ReadFrame()
		if err != nil {
			t.Fatalf("stream %d is not reset: %v", stream, err)
		}
		if r, ok := f.(*http2.RSTStreamFrame); ok && r.StreamID == stream {
			return r.ErrCode
		}
	}
}

func TestSettings(t *testing.T) {
	p := mustDial(t, gatewaytest.Start(t, nothing(t), nil))
	got := map[http2.SettingID]uint32{}
	for _, id := range []http2.SettingID{http2.SettingMaxConcurrentStreams, http2.SettingMaxHeaderListSize} {
		got[id] = p.settings[id]
	}
	want := map[http2.SettingID]uint32{http2.SettingMaxConcurrentStreams: gateway.MaxStreams, http2.SettingMaxHeaderListSize: gateway.MaxHeaderBytes}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

// TestStreamLimit opens as many calls as are allowed on a connection, and one more.
func TestStreamLimit(t *testing.T) {
	arrived := make(chan uint64, gateway.MaxStreams+1)
	g := gatewaytest.Start(t, func(_ *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) { arrived <- req.GetId() }, nil)
	p := mustDial(t, g)
	empty := []byte{0, 0, 0, 0, 0} // an uncompressed message of no bytes
	begin := func(i int) uint32 {
		stream := uint32(2*i + 1)
		p.call(t, stream, api.SoloService_Watch_FullMethodName)
		if err := p.framer.WriteData(stream, true, empty); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	for i := range gateway.MaxStreams {
		begin(i)
	}
	for range gateway.MaxStreams {
		take(t, arrived, "the calls within the limit")
	}
	over := begin(gateway.MaxStreams)
	if code := p.reset(t, over); code != http2.ErrCodeRefusedStream {
		t.Errorf("the call over the limit is reset with %v", code)
	}
	if n := len(arrived); n != 0 {
		t.Errorf("%d calls over the limit reached the kernel", n)
	}
}

// TestHeaderLimit sends more headers than are allowed, with a client that honours
// the limit and with one that does not.
func TestHeaderLimit(t *testing.T) {
	g := gatewaytest.Start(t, nothing(t), nil)
	ctx := metadata.AppendToOutgoingContext(patient(t), "x-long", strings.Repeat("x", gateway.MaxHeaderBytes))
	if _, err := open(t, g).Kernel.Info(ctx, &solov1.InfoRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	p := mustDial(t, g)
	p.call(t, 1, api.KernelService_Info_FullMethodName, hpack.HeaderField{Name: "x-long", Value: strings.Repeat("x", gateway.MaxHeaderBytes)})
	if code := p.reset(t, 1); code != http2.ErrCodeFrameSize {
		t.Errorf("the call is reset with %v", code)
	}
}

// TestSilentConnection: whoever connects and says nothing is cut off.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	g := gatewaytest.Start(t, nothing(t), nil)
	conn, err := net.Dial("unix", g.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadDeadline(time.Now().Add(gatewaytest.Patience)); err != nil {
		t.Fatal(err)
	}
	// Its settings come at once; then it waits for the preface, and not for ever.
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection is not closed: %v", err)
	}
}

// TestNotHTTP2: what is no HTTP/2 ends the connection and nothing else.
func TestNotHTTP2(t *testing.T) {
	g := gatewaytest.Start(t, nothing(t), nil)
	conn, err := net.Dial("unix", g.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(gatewaytest.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"+strings.Repeat("x", 64<<10)); err != nil {
		t.Logf("write: %v", err) // it may have gone already
	}
	var ne net.Error
	if _, err := io.Copy(io.Discard, conn); errors.As(err, &ne) && ne.Timeout() {
		t.Errorf("the connection is not closed: %v", err)
	}
	mustDial(t, g)
}
