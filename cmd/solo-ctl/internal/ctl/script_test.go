package ctl_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/solo-os/solo/system/gateway"
	"github.com/solo-os/solo/system/gateway/gatewaytest"
)

// TestScripts runs testdata/*.txtar with solo-ctl as a program of its own, against a
// canned kernel.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			f := start(env.T().(testing.TB))
			env.Setenv("SOLO_ADDR", "unix://"+f.gateway.Socket)
			env.Setenv("SOLO_TOKEN", token)
			env.Values["fixture"] = f
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"asked": asks,
			"mode":  mode,
			"serve": serve,
		},
	})
}

// exits STATUS COMMAND…: the command ends with that status.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// asked TEXT…: the oldest request that has not been looked at holds each text, in
// protobuf's JSON. ! asked: there is none.
func asks(ts *testscript.TestScript, neg bool, args []string) {
	f := ts.Value("fixture").(fixture)
	if neg {
		if len(f.requests) > 0 {
			ts.Fatalf("the kernel was asked %v", <-f.requests)
		}
		return
	}
	if len(f.requests) == 0 {
		ts.Fatalf("the kernel was not asked")
	}
	got := strings.ReplaceAll(protojson.MarshalOptions{UseProtoNames: true}.Format((<-f.requests).Request), " ", "")
	for _, want := range args {
		if !strings.Contains(got, want) {
			ts.Fatalf("the kernel was asked %s, without %s", got, want)
		}
	}
}

// mode OCTAL FILE…: the files have these permissions.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	for _, name := range args[1:] {
		st, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if st.Mode().Perm() != os.FileMode(want) {
			ts.Fatalf("%s has mode %o, want %o", name, st.Mode().Perm(), want)
		}
	}
}

// serve DIR: a gateway listens on TCP with the certificates of DIR; $TCP is its address.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	config, err := gateway.LoadTLS(ts.MkAbs(args[0]))
	ts.Check(err)
	f := ts.Value("fixture").(fixture)
	g := gatewaytest.Start(f.t, f.handle, config)
	ts.Setenv("TCP", g.TCP)
	ts.Setenv("SOCKET", filepath.Clean(g.Socket))
}
