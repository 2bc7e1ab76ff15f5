package ipc_test

import (
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
)

// FuzzReceive sends a record with descriptors. Whatever it is, Receive answers with a
// message that encodes again, EOF or a ProtocolError, and no descriptor is lost.
func FuzzReceive(f *testing.F) {
	for _, m := range []proto.Message{
		request(10),
		&controlv1.FromService{Item: &controlv1.FromService_Hello{Hello: &controlv1.Hello{Protocol: 1}}},
		&controlv1.FromService{Item: &controlv1.FromService_AuditAck{AuditAck: &controlv1.AuditAck{Count: 1 << 60, Head: make([]byte, 32)}}},
		&controlv1.FromService{Item: &controlv1.FromService_PortState{PortState: &controlv1.PortState{Id: 1, Errno: -1, Message: "x"}}},
	} {
		f.Add(encode(f, m), uint8(1))
		f.Add(encode(f, m)[1:], uint8(0))
	}
	f.Add([]byte{}, uint8(0))
	f.Add([]byte{}, uint8(2))
	f.Add([]byte{0xff, 0xff, 0xff}, uint8(ipc.MaxFiles))
	f.Fuzz(func(t *testing.T, data []byte, n uint8) {
		if len(data) > ipc.MaxMessage+100 || int(n) > ipc.MaxFiles {
			return
		}
		conn, peer := hostile(t)
		var oob []byte
		if n > 0 {
			oob = rights(t, int(n))
		}
		before := open(t)
		check(t, unix.Sendmsg(peer, data, oob, nil, 0))
		m := &controlv1.FromService{}
		files, _, err := conn.Receive(m)
		protocol := (*ipc.ProtocolError)(nil)
		switch {
		case err == nil:
			if len(files) != int(n) {
				t.Errorf("%d descriptors came, %d were sent", len(files), n)
			}
			files.Close()
			if _, err := proto.Marshal(m); err != nil {
				t.Errorf("the message does not encode again: %v", err)
			}
			if len(m.ProtoReflect().GetUnknown()) > 0 {
				t.Error("an unknown field was let through")
			}
		case errors.Is(err, io.EOF) && len(data) == 0 && n == 0:
		case errors.As(err, &protocol):
		default:
			t.Errorf("unexpected error: %v", err)
		}
		if now := open(t); now != before {
			t.Errorf("%d descriptors before, %d after", before, now)
		}
	})
}

func TestUnknownFieldInMap(t *testing.T) {
	value := structpb.NewBoolValue(true)
	value.ProtoReflect().SetUnknown([]byte{0x98, 0x3f, 1}) // field 1011
	m := &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNumberValue(1), "b": value}}
	if where, found := ipc.UnknownField(m); !found || where != `fields["b"].1011` {
		t.Errorf("%q, %v", where, found)
	}
	value.ProtoReflect().SetUnknown(nil)
	if where, found := ipc.UnknownField(m); found || where != "" {
		t.Errorf("%q, %v in a message without one", where, found)
	}
}

// BenchmarkUnknownField: the check runs on every message the kernel takes.
func BenchmarkUnknownField(b *testing.B) {
	m := &controlv1.FromKernel{Item: &controlv1.FromKernel_AuditBatch{AuditBatch: &controlv1.AuditBatch{}}}
	for i := range 100 {
		m.GetAuditBatch().Records = append(m.GetAuditBatch().Records, &controlv1.AuditRecord{Number: uint64(i), Line: make([]byte, 200), Hash: make([]byte, 32)})
	}
	for _, c := range []struct {
		name string
		m    proto.Message
	}{{"request", request(60)}, {"batch", m}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, found := ipc.UnknownField(c.m); found {
					b.Fatal("found one")
				}
			}
		})
	}
}
