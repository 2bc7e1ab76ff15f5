package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/testenv"
)

// record is an audit record as the log's lines have it.
type record struct {
	Number               uint64
	Time                 string
	Op, Actor            string
	Object, Result, Prev string
	Detail               map[string]string
}

// auditLog reads the files and checks the chain, by its definition and with nothing
// of Solo's: a record's hash is SHA-256 over the hash before it and its line.
func (x *tester) auditLog() []record {
	x.Helper()
	files, err := filepath.Glob(filepath.Join(x.state, "audit", "audit-*.jsonl"))
	if err != nil || len(files) == 0 {
		x.Fatalf("no audit log in %s: %v", x.state, err)
	}
	slices.Sort(files)
	var all []record
	prev := make([]byte, sha256.Size)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			x.Fatal(err)
		}
		// The last line may be in the making.
		data = data[:bytes.LastIndexByte(data, '\n')+1]
		for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
			var r record
			if err := json.Unmarshal(s.Bytes(), &r); err != nil {
				x.Fatalf("%s: line %q: %v", file, s.Text(), err)
			}
			if r.Number != uint64(len(all)+1) || r.Prev != hex.EncodeToString(prev) {
				x.Fatalf("%s: record %d stands after %d, or not on its hash:\n%s", file, r.Number, len(all), s.Text())
			}
			h := sha256.New()
			h.Write(prev)
			h.Write(s.Bytes())
			prev = h.Sum(nil)
			all = append(all, r)
		}
	}
	return all
}

// awaitRecord waits for a record after number after.
func (x *tester) awaitRecord(after int, what string, ok func(record) bool) {
	x.Helper()
	testenv.Eventually(x.T, patience, "the audit record of "+what, func() bool {
		return slices.ContainsFunc(x.auditLog()[after:], ok)
	})
}

// TestAudit: every operation that changes state has its record.
func TestAudit(t *testing.T) {
	x := shared(t)
	ctx := x.ctx()
	x.victim("") // is uploaded by now
	before := len(x.auditLog())
	digest := x.upload([]byte("audited " + x.name()))
	name := x.deploy(x.victim("sleep 1h"))
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(x.client.Solo.Kill(ctx, &solov1.KillRequest{Service: name}))
	must(x.client.Lifecycle.Start(ctx, &solov1.StartRequest{Service: name, Wait: true}))
	must(x.client.Lifecycle.Restart(ctx, &solov1.RestartRequest{Service: name, Wait: true}))
	must(x.client.Lifecycle.Delete(ctx, &solov1.DeleteRequest{Service: name}))
	must(x.once(ctx, x.unnamed(x.victim("exit 0")), ""))
	for _, op := range []string{"deploy", "kill", "start", "restart", "delete"} {
		x.awaitRecord(before, op, func(r record) bool { return r.Op == op && r.Object == name && r.Result == "ok" && r.Actor != "" })
	}
	x.awaitRecord(before, "upload", func(r record) bool {
		return r.Op == "upload" && (r.Object == digest || strings.Contains(fmt.Sprint(r.Detail), digest))
	})
	x.awaitRecord(before, "run", func(r record) bool { return r.Op == "run" })

	// A refusal and a denial too.
	_, err := x.client.Solo.Kill(ctx, &solov1.KillRequest{Service: "solo-none"})
	if err == nil {
		t.Fatal("a service that is not there was killed")
	}
	forged := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer solo_forged")
	if _, err = x.client.Kernel.Info(forged, &solov1.InfoRequest{}); err == nil {
		t.Fatal("a forged token was taken")
	}
	x.awaitRecord(before, "denial", func(r record) bool { return r.Op == "denied" || r.Result == "UNAUTHENTICATED" })

	// An end that nobody asked for.
	other := x.deploy(x.victim("sleep 1h"))
	x.killPID(x.pid(other))
	x.awaitRecord(before, "end", func(r record) bool { return r.Object == other && r.Op == "exit" && r.Result == "signal:9" })

	for _, r := range x.auditLog() {
		if strings.Contains(fmt.Sprint(r), "solo_") && strings.Contains(fmt.Sprint(r), x.secret()) {
			t.Errorf("a record holds the token: %v", r)
		}
	}
}

// secret is root's token.
func (x *tester) secret() string {
	x.Helper()
	token, err := os.ReadFile(x.tokenFile())
	if err != nil {
		x.Fatal(err)
	}
	return strings.TrimSpace(string(token))
}

// TestAuditTail: what the API sends is what the files hold.
func TestAuditTail(t *testing.T) {
	x := shared(t)
	x.deploy(x.victim("sleep 1h"))
	stream, err := x.client.Audit.Tail(x.ctx(), &solov1.TailRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var sent []record
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var r record
		if err := json.Unmarshal([]byte(m.GetRecord()), &r); err != nil {
			t.Fatalf("record %q: %v", m.GetRecord(), err)
		}
		sent = append(sent, r)
	}
	stored := x.auditLog()
	if len(sent) < 3 || len(sent) > len(stored) {
		t.Fatalf("%d records came of %d", len(sent), len(stored))
	}
	for i, r := range sent {
		if r.Number != stored[i].Number || r.Prev != stored[i].Prev || r.Op != stored[i].Op {
			t.Fatalf("record %d was sent as %v, is %v", i, r, stored[i])
		}
	}
	after := fmt.Sprint(len(sent) - 1)
	if out := x.ctl("audit", "tail", "--after", after); out.status != 0 || !strings.HasPrefix(out.stdout, `{"number":`+fmt.Sprint(len(sent))+`,`) {
		t.Errorf("solo-ctl audit tail --after %s: %+v", after, out)
	}

	// Following shows what comes.
	follow, err := x.client.Audit.Tail(x.ctx(), &solov1.TailRequest{After: uint64(len(stored)), Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	name := x.deploy(x.victim("sleep 1h"))
	for {
		m, err := follow.Recv()
		if err != nil {
			t.Fatalf("follow: %v", err)
		}
		if strings.Contains(m.GetRecord(), name) {
			break
		}
	}
}
