package ctl_test

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/ipc"
	controlv1 "github.com/solo-os/solo/proto/solo/control/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// run plays a program that copies its input to its output, says "errors" on the
// other one, and ends as its environment says: STATUS and REASON.
func (c *canned) run(k *gatewaytest.Kernel, req *controlv1.Request) error {
	if e := refusal(req.GetRun().GetDeploy().GetRequest().GetEnv()["REFUSE"]); e != nil {
		return k.Fail(req, e)
	}
	var files []*os.File // stdin read end, write end, stdout read end, …
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		files = append(files, r, w)
	}
	err := k.Respond(req, &controlv1.Response{More: true, Result: &controlv1.Response_RunStarted{RunStarted: &controlv1.RunStarted{ServiceId: "run-1"}}},
		files[1], files[2], files[4])
	for _, i := range []int{1, 2, 4} {
		_ = files[i].Close()
	}
	if err != nil {
		return err
	}
	env := req.GetRun().GetDeploy().GetRequest().GetEnv()
	_, _ = io.WriteString(files[5], env["ERRORS"])
	_, _ = io.WriteString(files[3], env["OUTPUT"])
	_, _ = io.Copy(files[3], files[0])
	_ = files[3].Close()
	_ = files[5].Close()
	status, _ := strconv.Atoi(env["STATUS"])
	reason := env["REASON"]
	if reason == "" {
		reason = "exit:" + strconv.Itoa(status)
	}
	return k.Respond(req, &controlv1.Response{Result: &controlv1.Response_RunExit{RunExit: &solov1.RunExit{
		ExitStatus: int32(status), Reason: reason, CpuUsec: 1500, WallMs: 2.5}}})
}

// stream sends what a stream has stored and, if it is followed, keeps it open until
// the reader goes.
func (c *canned) stream(k *gatewaytest.Kernel, req *controlv1.Request) error {
	if e := refusal(subject(req)); e != nil {
		return k.Fail(req, e)
	}
	conn, other, err := ipc.Pair()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	opened := &controlv1.Response{Result: &controlv1.Response_Watch{Watch: &controlv1.WatchOpened{}}}
	var records []proto.Message
	follow := !req.GetWatch().GetNoFollow()
	if req.GetWatch() != nil {
		for _, r := range stored {
			records = append(records, r)
		}
	} else {
		opened = &controlv1.Response{Result: &controlv1.Response_AuditTail{AuditTail: &controlv1.TailOpened{}}}
		records = []proto.Message{&solov1.TailResponse{Record: `{"number":1,"what":"deploy"}`}, &solov1.TailResponse{Record: `{"number":2,"what":"kill"}`}}
		follow = req.GetAuditTail().GetFollow()
	}
	err = k.Respond(req, opened, other)
	_ = other.Close()
	for _, r := range records {
		err = errors.Join(err, conn.Send(r))
	}
	if follow {
		_, _, _ = conn.Receive(&solov1.WatchRequest{})
	}
	return err
}

// stored is what a watch shows, with what a hostile service would write.
var stored = []*solov1.WatchResponse{
	{Sequence: 1, Service: "web", Item: &solov1.WatchResponse_Log{Log: &solov1.LogLine{Stream: "stdout", Text: []byte("hello \x1b[31mred\x9b")}}},
	{Sequence: 2, Service: "web", Item: &solov1.WatchResponse_Log{Log: &solov1.LogLine{Stream: "stderr", Text: []byte(strings.Repeat("x", 20)), Partial: true}}},
	{Sequence: 3, Service: "web", Item: &solov1.WatchResponse_Log{Log: &solov1.LogLine{Stream: "stderr", Text: []byte("yy")}}},
	{Sequence: 4, Service: "web", Item: &solov1.WatchResponse_Log{Log: &solov1.LogLine{Stream: "solo", Text: []byte("3 lines dropped")}}},
	{Sequence: 5, Service: "web", Item: &solov1.WatchResponse_Metric{Metric: &solov1.Metric{MemoryBytes: 1 << 20, CpuUsec: 2000, Processes: 3}}},
	{Sequence: 6, Service: "web", Item: &solov1.WatchResponse_Event{Event: &solov1.Event{Type: "exited", State: "backoff", Reason: "signal:9", Detail: "at\x1b[2J once"}}},
}
