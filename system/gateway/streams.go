package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
)

type auditService struct {
	api.UnimplementedAuditServiceServer
	*server
}

// Watch implements solo.v1.SoloService.
func (s soloService) Watch(in *solov1.WatchRequest, stream grpc.ServerStreamingServer[solov1.WatchResponse]) error {
	req := s.request(stream.Context())
	req.Op = &controlv1.Request_Watch{Watch: in}
	opened := func(r *controlv1.Response) bool { return r.GetWatch() != nil }
	return relay[solov1.WatchResponse](s.server, stream, req, opened)
}

// Tail implements solo.v1.AuditService.
func (s auditService) Tail(in *solov1.TailRequest, stream grpc.ServerStreamingServer[solov1.TailResponse]) error {
	req := s.request(stream.Context())
	req.Op = &controlv1.Request_AuditTail{AuditTail: in}
	opened := func(r *controlv1.Response) bool { return r.GetAuditTail() != nil }
	return relay[solov1.TailResponse](s.server, stream, req, opened)
}

// Update implements solo.v1.SoloService. There is no result for it in the control
// protocol yet: the kernel refuses, and the refusal is passed on.
func (s soloService) Update(in *solov1.UpdateRequest, stream grpc.ServerStreamingServer[solov1.UpdateStatus]) error {
	op, files, err := packDeploy(in.GetManifest())
	if err != nil {
		return err
	}
	files.Close() // Request.update carries no contents
	if in.Manifest != nil {
		in.Manifest = op.GetRequest()
	}
	req := s.request(stream.Context())
	req.Op = &controlv1.Request_Update{Update: in}
	r, err := s.ask(stream.Context(), req, 0, nil)
	if err != nil {
		return err
	}
	return unexpected(r)
}

// relay asks for a connection that carries records of type M and streams them to
// the client until it ends or the client has gone. A client that does not read is
// felt by the writer as a full socket.
func relay[M any, P interface {
	*M
	proto.Message
}](s *server, stream grpc.ServerStreamingServer[M], req *controlv1.Request, opened func(*controlv1.Response) bool) error {
	ctx := stream.Context()
	r, err := s.ask(ctx, req, 1, nil)
	if err != nil {
		return err
	}
	if !opened(r.Response) {
		r.files.Close()
		return unexpected(r)
	}
	conn, err := ipc.FileConn(r.files[0])
	if err != nil {
		return status.Errorf(codes.Internal, "open stream: %v", err)
	}
	closeOnce := func() { _ = conn.Close() }
	defer closeOnce()
	defer context.AfterFunc(ctx, closeOnce)()
	defer context.AfterFunc(s.life, closeOnce)()
	for {
		m := P(new(M))
		files, _, err := conn.Receive(m)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return status.FromContextError(ctx.Err()).Err()
		case s.life.Err() != nil:
			return status.Error(codes.Unavailable, errStopped.Error())
		case err != nil:
			return status.Errorf(codes.Internal, "read stream: %v", err)
		}
		files.Close()
		if err := stream.Send((*M)(m)); err != nil {
			return err
		}
	}
}

type artifactService struct {
	api.UnimplementedArtifactServiceServer
	*server
}

type uploadStream = grpc.ClientStreamingServer[solov1.UploadRequest, solov1.UploadResponse]

// Upload implements solo.v1.ArtifactService. Nothing of the body is read before
// the kernel has said that the token may upload.
func (s artifactService) Upload(stream uploadStream) error {
	ctx := stream.Context()
	req := s.request(ctx)
	req.Op = &controlv1.Request_AuthorizeUpload{AuthorizeUpload: &controlv1.AuthorizeUploadOp{}}
	allowed, err := unary(ctx, s.server, req, nil, (*controlv1.Response).GetUploadAuthorized)
	if err != nil {
		return err
	}
	limit := s.link.maxUpload.Load()
	if n := allowed.GetMaxBytes(); n > 0 && n < limit {
		limit = n
	}
	select {
	case s.uploads <- struct{}{}:
		defer func() { <-s.uploads }()
	default:
		return tooManyUploads()
	}
	f, size, err := fill(stream, limit, s.uploadIdle)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	req = s.request(ctx)
	req.Op = &controlv1.Request_StoreArtifact{StoreArtifact: &controlv1.StoreArtifactOp{Size: size}}
	stored, err := unary(ctx, s.server, req, ipc.Files{f}, (*controlv1.Response).GetStored)
	if err != nil {
		return err
	}
	return stream.SendAndClose(stored)
}

// fill reads a body into a memfd and seals it; the caller owns the file. A client
// that sends nothing for as long as idle loses its place.
func fill(stream uploadStream, limit uint64, idle time.Duration) (_ *os.File, size uint64, err error) {
	f, err := ipc.NewMemfd("upload")
	if err != nil {
		return nil, 0, status.Errorf(codes.ResourceExhausted, "hold the upload: %v", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	quiet := time.NewTimer(idle)
	defer quiet.Stop()
	type outcome struct {
		size uint64
		err  error
	}
	// It may go on for a moment after an idle client was given up: until the stream
	// ends with the call.
	received := make(chan outcome, 1)
	go func() {
		n, err := receiveBody(stream, f, limit, func() { quiet.Reset(idle) })
		received <- outcome{n, err}
	}()
	select {
	case <-quiet.C:
		return nil, 0, refuse(codes.DeadlineExceeded, "UPLOAD_IDLE", map[string]string{"limit_ms": fmt.Sprint(idle.Milliseconds())},
			"the upload has brought nothing for %v", idle)
	case got := <-received:
		if got.err != nil {
			return nil, 0, got.err
		}
		size = got.size
	}
	if err := ipc.Seal(f); err != nil {
		return nil, 0, status.Errorf(codes.Internal, "%v", err)
	}
	return f, size, nil
}

// receiveBody writes the messages of an upload into f, and calls progress for each.
func receiveBody(stream uploadStream, f *os.File, limit uint64, progress func()) (size uint64, err error) {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return 0, err
		}
		if len(m.GetData()) > maxChunk {
			return 0, invalid(map[string]string{"data": "a message carries at most 1 MiB"})
		}
		size += uint64(len(m.GetData()))
		if size > limit {
			return 0, tooLarge(limit)
		}
		if _, err := f.Write(m.GetData()); err != nil {
			return 0, status.Errorf(codes.ResourceExhausted, "hold the upload: %v", err)
		}
		if len(m.GetData()) > 0 {
			progress()
		}
	}
}
