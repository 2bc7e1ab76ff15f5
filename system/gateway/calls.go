package gateway

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/solo/v1/api"
)

type soloService struct {
	api.UnimplementedSoloServiceServer
	*server
}

type lifecycleService struct {
	api.UnimplementedLifecycleServiceServer
	*server
}

type kernelService struct {
	api.UnimplementedKernelServiceServer
	*server
}

// request starts a request with what the call says of its sender. A call without
// a token is passed on with an empty one: the refusal is the kernel's.
func (s *server) request(ctx context.Context) *controlv1.Request {
	return &controlv1.Request{Token: tokenOf(ctx), Transport: s.transport}
}

// tokenOf returns the bearer token, or "" unless there is exactly one.
func tokenOf(ctx context.Context) string {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return ""
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "bearer") || len(token) > maxTokenLength {
		return ""
	}
	return token
}

// ask sends a request and waits for its only response, which must carry
// wantFiles descriptors; the caller owns them. It does not take ownership of files.
func (s *server) ask(ctx context.Context, req *controlv1.Request, wantFiles int, files ipc.Files) (reply, error) {
	c, err := s.link.begin(connectionOf(ctx), req, files...)
	if err != nil {
		return reply{}, err
	}
	defer c.forget()
	r, err := c.next(ctx)
	if err != nil {
		return reply{}, err
	}
	if len(r.files) != wantFiles {
		r.files.Close()
		return reply{}, status.Errorf(codes.Internal, "the kernel answered with %d descriptors, not %d", len(r.files), wantFiles)
	}
	return r, nil
}

// unary asks and picks the expected result out of the response.
func unary[T any](ctx context.Context, s *server, req *controlv1.Request, files ipc.Files, pick func(*controlv1.Response) *T) (*T, error) {
	r, err := s.ask(ctx, req, 0, files)
	if err != nil {
		return nil, err
	}
	if out := pick(r.Response); out != nil {
		return out, nil
	}
	return nil, unexpected(r)
}

func unexpected(r reply) error {
	return status.Errorf(codes.Internal, "the kernel answered with %s", strings.TrimPrefix(fmt.Sprintf("%T", r.Result), "*controlv1.Response_"))
}

// Deploy implements solo.v1.SoloService.
func (s soloService) Deploy(ctx context.Context, in *solov1.DeployRequest) (*solov1.DeployResponse, error) {
	op, files, err := packDeploy(in)
	if err != nil {
		return nil, err
	}
	defer files.Close()
	req := s.request(ctx)
	req.Op = &controlv1.Request_Deploy{Deploy: op}
	return unary(ctx, s.server, req, files, (*controlv1.Response).GetDeploy)
}

// Status implements solo.v1.SoloService.
func (s soloService) Status(ctx context.Context, in *solov1.StatusRequest) (*solov1.StatusResponse, error) {
	req := s.request(ctx)
	req.Op = &controlv1.Request_Status{Status: in}
	return unary(ctx, s.server, req, nil, (*controlv1.Response).GetStatus)
}

// List implements solo.v1.SoloService.
func (s soloService) List(ctx context.Context, in *solov1.ListRequest) (*solov1.ListResponse, error) {
	req := s.request(ctx)
	req.Op = &controlv1.Request_List{List: in}
	return unary(ctx, s.server, req, nil, (*controlv1.Response).GetList)
}

// Kill implements solo.v1.SoloService.
func (s soloService) Kill(ctx context.Context, in *solov1.KillRequest) (*solov1.KillResponse, error) {
	req := s.request(ctx)
	req.Op = &controlv1.Request_Kill{Kill: in}
	return unary(ctx, s.server, req, nil, (*controlv1.Response).GetKill)
}

// Shutdown implements solo.v1.SoloService.
func (s soloService) Shutdown(ctx context.Context, in *solov1.ShutdownRequest) (*solov1.ShutdownResponse, error) {
	req := s.request(ctx)
	req.Op = &controlv1.Request_Shutdown{Shutdown: in}
	return unary(ctx, s.server, req, nil, (*controlv1.Response).GetShutdown)
}

// GrantCapability implements solo.v1.SoloService. There is no result for it in the
// control protocol yet: the kernel refuses, and the refusal is passed on.
func (s soloService) GrantCapability(ctx context.Context, in *solov1.GrantCapabilityRequest) (*solov1.GrantCapabilityResponse, error) {
	req := s.request(ctx)
	req.Op = &controlv1.Request_Grant{Grant: in}
	return unary(ctx, s.server, req, nil, func(*controlv1.Response) *solov1.GrantCapabilityResponse { return nil })
}

// Start implements solo.v1.LifecycleService.
func (s lifecycleService) Start(ctx context.Context, in *solov1.StartRequest) (*solov1.StartResponse, error) {
	req := s.request(ctx)
	req.Op = &controlv1.Request_Start{Start: in}
	return unary(ctx, s.server, req, nil, (*controlv1.Response).GetStart)
}

// Restart implements solo.v1.LifecycleService.
func (s lifecycleService) Restart(ctx context.Context, in *solov1.RestartRequest) (*solov1.RestartResponse, error) {
	req := s.request(ctx)
	req.Op = &controlv1.Request_Restart{Restart: in}
	return unary(ctx, s.server, req, nil, (*controlv1.Response).GetRestart)
}

// Delete implements solo.v1.LifecycleService.
func (s lifecycleService) Delete(ctx context.Context, in *solov1.DeleteRequest) (*solov1.DeleteResponse, error) {
	req := s.request(ctx)
	req.Op = &controlv1.Request_Delete{Delete: in}
	return unary(ctx, s.server, req, nil, (*controlv1.Response).GetDelete)
}

// Info implements solo.v1.KernelService.
func (s kernelService) Info(ctx context.Context, in *solov1.InfoRequest) (*solov1.InfoResponse, error) {
	req := s.request(ctx)
	req.Op = &controlv1.Request_Info{Info: in}
	return unary(ctx, s.server, req, nil, (*controlv1.Response).GetInfo)
}
