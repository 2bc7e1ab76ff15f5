package gateway_test

import (
	"slices"
	"testing"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// TestOpenToAll: health and reflection need no token and do not reach the kernel.
func TestOpenToAll(t *testing.T) {
	g := gatewaytest.Start(t, func(_ *gatewaytest.Kernel, req *controlv1.Request, _ ipc.Files) {
		t.Errorf("the kernel got %v", req)
	}, nil)
	cc := raw(t, g)
	for _, service := range []string{"", "solo.v1.SoloService", "solo.v1.KernelService"} {
		r, err := healthpb.NewHealthClient(cc).Check(patient(t), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, r, err)
		}
	}
	v1, err := reflectionpb.NewServerReflectionClient(cc).ServerReflectionInfo(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := v1.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "solo.v1.SoloService"}}); err != nil {
		t.Fatal(err)
	}
	if r, err := v1.Recv(); err != nil || len(r.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("reflection v1: %v, %v", r, err)
	}
	if err := v1.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := v1.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range r.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	for _, want := range []string{"solo.v1.SoloService", "solo.v1.LifecycleService", "solo.v1.ArtifactService", "solo.v1.AuditService", "solo.v1.KernelService"} {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %v, without %s", names, want)
		}
	}
	// Older clients ask for v1alpha, which differs in nothing but the name.
	var alpha reflectionpb.ServerReflectionResponse
	old, err := cc.NewStream(patient(t), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
	if err != nil {
		t.Fatal(err)
	}
	if err := old.SendMsg(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if err := old.RecvMsg(&alpha); err != nil || len(alpha.GetListServicesResponse().GetService()) != len(names) {
		t.Errorf("reflection v1alpha: %v, %v", &alpha, err)
	}
}
