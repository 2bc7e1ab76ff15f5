package ipc_test

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/test/testenv"
)

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	check(t, err)
	return data
}

// nested wraps data as a length-delimited field, the first path outermost.
func nested(data []byte, path ...protowire.Number) []byte {
	for i := len(path) - 1; i >= 0; i-- {
		data = protowire.AppendBytes(protowire.AppendTag(nil, path[i], protowire.BytesType), data)
	}
	return data
}

// TestHostileRecords sends what no peer of ours sends. Each is a protocol error, and
// no descriptor that came with it stays open.
func TestHostileRecords(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1)
	// A known number with another wire type than the field's.
	wrongType := protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 1)
	long := encode(t, sized(t, ipc.MaxMessage+1))
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"garbage", []byte("\xff\xff\xff\xff"), "record is not protobuf"},
		{"cut", encode(t, request(100))[:50], "record is not protobuf"},
		{"field number 0", []byte{0, 0}, "record is not protobuf"},
		{"end of a group", []byte{0x0c}, "record is not protobuf"},
		{"not text", nested([]byte{0xff}, 2, 2), "record is not protobuf"},
		{"one byte too long", long, "record is longer than 65536 bytes"},
		{"unknown field", unknown, "unknown field 999"},
		{"unknown beside known", append(encode(t, request(10)), unknown...), "unknown field 999"},
		{"known with another type", wrongType, "unknown field 2"},
		{"unknown in a part", nested(unknown, 4), "unknown field audit_ack.999"},
		{"unknown two levels down", nested(unknown, 2, 10), "unknown field request.deploy.999"},
	} {
		for _, n := range []int{0, 1, ipc.MaxFiles} {
			t.Run(c.name, func(t *testing.T) {
				conn, peer := hostile(t)
				oob := []byte(nil)
				if n > 0 {
					oob = rights(t, n)
				}
				before := open(t)
				check(t, unix.Sendmsg(peer, c.data, oob, nil, 0))
				files, _, err := conn.Receive(&controlv1.FromService{})
				if e := (*ipc.ProtocolError)(nil); !errors.As(err, &e) || e.What != c.want || e.Error() != "protocol: "+c.want {
					t.Errorf("%v, want protocol: %s", err, c.want)
				}
				if now := open(t); now != before || len(files) != 0 {
					t.Errorf("%d descriptors before, %d after, %d returned", before, now, len(files))
				}
			})
		}
	}
}

func TestEmptyRecords(t *testing.T) {
	conn, peer := hostile(t)
	oob := rights(t, 3)
	before := open(t)
	check(t, unix.Sendmsg(peer, nil, oob, nil, 0))
	_, _, err := conn.Receive(&controlv1.FromService{})
	if e := (*ipc.ProtocolError)(nil); !errors.As(err, &e) {
		t.Errorf("with descriptors: %v, want a protocol error", err)
	}
	if now := open(t); now != before {
		t.Errorf("%d descriptors before, %d after", before, now)
	}
	check(t, unix.Sendmsg(peer, nil, nil, nil, 0))
	if _, _, err := conn.Receive(&controlv1.FromService{}); !errors.Is(err, io.EOF) {
		t.Errorf("without: %v, want EOF", err)
	}
}

// TestClientsPartIsNotLookedInto: an unknown field inside a solo.v1 message came from a
// client of the API. It must not end the gateway that passes it on; who answers the
// request finds it with UnknownField.
func TestClientsPartIsNotLookedInto(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1)
	for _, c := range []struct {
		name  string
		data  []byte
		where string
	}{
		{"status", nested(unknown, 2, 11), "request.status.999"},
		{"deploy", nested(unknown, 2, 10, 1), "request.deploy.request.999"},
		{"file of a deploy", append(nested(nil, 2, 10, 1, 6), nested(unknown, 2, 10, 1, 6)...), "request.deploy.request.files[1].999"},
	} {
		conn, peer := hostile(t)
		check(t, unix.Sendmsg(peer, c.data, nil, nil, 0))
		var m controlv1.FromService
		if _, _, err := conn.Receive(&m); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if where, found := ipc.UnknownField(&m); !found || where != c.where {
			t.Errorf("%s: %q, %v, want %s", c.name, where, found, c.where)
		}
	}
}

// TestOutOfDescriptors lowers this process's limit, so that the system cuts the
// control message short. What did arrive must be closed.
func TestOutOfDescriptors(t *testing.T) {
	conn, peer := hostile(t)
	oob := rights(t, 10)
	// Receive once, so that everything it needs is there.
	check(t, unix.Sendmsg(peer, encode(t, request(1)), nil, nil, 0))
	_, _, err := conn.Receive(&controlv1.FromService{})
	check(t, err)
	before := open(t)

	var old unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	probe, err := unix.Dup(peer)
	check(t, err)
	check(t, unix.Close(probe))
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(probe) + 4, Max: old.Max}))
	serr := unix.Sendmsg(peer, encode(t, request(1)), oob, nil, 0)
	_, _, err = conn.Receive(&controlv1.FromService{})
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))

	check(t, serr)
	if e := (*ipc.ProtocolError)(nil); !errors.Is(err, unix.EMFILE) || errors.As(err, &e) {
		t.Errorf("%v, want EMFILE: it is not the peer's fault", err)
	}
	if now := open(t); now != before {
		t.Errorf("%d descriptors before, %d after", before, now)
	}
}

// TestTrySend fills the socket of a peer that does not read.
func TestTrySend(t *testing.T) {
	a, b := pair(t)
	sent := 0
	var err error
	for ; err == nil; sent++ {
		err = a.TrySend(request(1000), nulls(t, 1)...)
	}
	sent--
	if !errors.Is(err, ipc.ErrFull) || sent == 0 {
		t.Fatalf("after %d messages: %v, want ErrFull", sent, err)
	}
	check(t, a.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
	if err := a.Send(request(1000)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Send on a full socket: %v, want a deadline", err)
	}
	check(t, a.SetWriteDeadline(time.Time{}))
	// A Send waits for room and goes on.
	done := make(chan error, 1)
	go func() { done <- a.Send(request(5)) }()
	for i := range sent + 1 {
		var m controlv1.FromService
		files, _, err := b.Receive(&m)
		check(t, err)
		files.Close()
		if last := i == sent; last != (len(m.GetRequest().GetToken()) == 5) || last == (len(files) == 1) {
			t.Errorf("message %d of %d: %d bytes, %d descriptors", i, sent, len(m.GetRequest().GetToken()), len(files))
		}
	}
	check(t, <-done)
}

func TestReadDeadline(t *testing.T) {
	a, b := pair(t)
	check(t, a.SetReadDeadline(time.Now().Add(time.Millisecond)))
	if _, _, err := a.Receive(&controlv1.FromService{}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want a deadline", err)
	}
	// The connection goes on.
	check(t, a.SetReadDeadline(time.Now().Add(testenv.Scale(patience))))
	check(t, b.Send(request(1)))
	_, _, err := a.Receive(&controlv1.FromService{})
	check(t, err)
}

// TestCloseWhileBusy closes connections under a Receive and under a Send that waits.
func TestCloseWhileBusy(t *testing.T) {
	for range 50 {
		a, b := pair(t)
		for a.TrySend(request(60000)) == nil {
		}
		received, sent := make(chan error, 1), make(chan error, 1)
		go func() {
			_, _, err := a.Receive(&controlv1.FromService{})
			received <- err
		}()
		go func() { sent <- a.Send(request(60000)) }()
		check(t, a.Close())
		if err := <-received; !errors.Is(err, os.ErrClosed) {
			t.Errorf("receive: %v, want os.ErrClosed", err)
		}
		if err := <-sent; !errors.Is(err, os.ErrClosed) {
			t.Errorf("send: %v, want os.ErrClosed", err)
		}
		if err := a.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
		if _, _, err := a.Receive(&controlv1.FromService{}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("receive afterwards: %v", err)
		}
		if err := a.TrySend(request(1)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("send afterwards: %v", err)
		}
		check(t, b.Close())
	}
}

// TestSentFileMayBeClosedMeanwhile closes files while they are being sent: either the
// send fails or the peer gets what was meant, never another file of that number.
func TestSentFileMayBeClosedMeanwhile(t *testing.T) {
	a, b := pair(t)
	for range 200 {
		r, w, err := os.Pipe()
		check(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = r.Close()
			f, err := os.Open("/dev/zero") // likely takes the number
			if err == nil {
				_ = f.Close()
			}
		}()
		err = a.Send(request(1), r)
		<-done
		_ = w.Close()
		if err != nil {
			if !errors.Is(err, os.ErrClosed) && err.Error() != "send descriptor: use of closed file" {
				t.Fatal(err)
			}
			continue
		}
		files, _, err := b.Receive(&controlv1.FromService{})
		check(t, err)
		var st unix.Stat_t
		check(t, unix.Fstat(int(files[0].Fd()), &st))
		files.Close()
		if st.Mode&unix.S_IFMT != unix.S_IFIFO {
			t.Fatalf("mode %o arrived, not a pipe", st.Mode)
		}
	}
}
