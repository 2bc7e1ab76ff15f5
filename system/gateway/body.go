package gateway

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto" // registers the codec
	"google.golang.org/grpc/mem"
)

// body decodes a message without failing: grpc-go answers a body that it cannot
// decode by itself, as Internal, before any handler or interceptor sees it. So the
// codec keeps the error, and whoever asked for the body makes the answer of it.
type body struct {
	message any
	bad     error
}

// bodyCodec is grpc-go's protobuf codec, and knows body.
type bodyCodec struct{ encoding.CodecV2 }

func newBodyCodec() bodyCodec { return bodyCodec{encoding.GetCodecV2(encodingproto.Name)} }

func (c bodyCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*body)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if err := c.CodecV2.Unmarshal(data, b.message); err != nil {
		b.bad = err
	}
	return nil
}

// receive decodes into message with a function that decodes into any.
func receive(into func(any) error, message any) error {
	b := body{message: message}
	if err := into(&b); err != nil {
		return err
	}
	if b.bad != nil {
		return malformed(b.bad)
	}
	return nil
}

// bodyStream is a stream whose malformed messages are the client's mistake.
type bodyStream struct{ grpc.ServerStream }

func (b bodyStream) RecvMsg(m any) error { return receive(b.ServerStream.RecvMsg, m) }
