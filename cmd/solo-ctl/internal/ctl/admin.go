package ctl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/solo-os/solo/cmd/solo-ctl/internal/certs"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
)

func (a *app) kernel() *cobra.Command {
	info := &cobra.Command{
		Use:   "info",
		Short: "Show Solo's kernel",
		Long: `Info shows the kernel's process id, version, time since its start, and generation:
how many kernels have run on this state directory.`,
		Example: "  solo-ctl kernel info -o json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.Kernel.Info(ctx, &solov1.InfoRequest{})
				if err != nil {
					return err
				}
				return a.document(r, func() string {
					var f fields
					f.add("version", "%s", r.GetVersion())
					f.add("pid", "%d", r.GetPid())
					f.add("uptime", "%s", (time.Duration(r.GetUptimeMs()) * time.Millisecond).String())
					f.add("generation", "%d", r.GetGeneration())
					f.add("services", "%d", r.GetServices())
					f.add("shells waiting", "%d", r.GetShellsWaiting())
					f.add("cgroup mode", "%s", r.GetCgroupMode())
					f.add("state dir", "%s", r.GetStateDir())
					return f.b.String()
				})
			})
		},
	}
	return group("kernel", "Look at Solo itself", "Commands about Solo's kernel, the process that supervises all services.",
		"  solo-ctl kernel info", info)
}

func (a *app) certs() *cobra.Command {
	var dir, stateDir string
	var hosts []string
	var force bool
	initCmd := &cobra.Command{
		Use:   "init",
		Short: "Make the certificates for the API over TCP",
		Long: `Init makes a certificate authority, a server certificate for localhost, 127.0.0.1,
::1 and every --host, and a client certificate, all valid for five years:

  ca.pem      ca.key       the authority; whoever has the key can admit clients
  server.pem  server.key   for solod --listen
  client.pem  client.key   for solo-ctl --ca ca.pem --cert client.pem --key client.key

Keys have mode 0600. solod reads the directory certs below its state directory when
it starts. A certificate only lets a client connect: every call needs a token too.
What exists is not overwritten without --force, which makes all of them anew and
shuts out clients with old ones.`,
		Example: "  solo-ctl certs init --host solo.example.org\n  solo-ctl certs init --dir ./certs",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				dir = filepath.Join(stateDir, "certs")
			}
			r := certs.Request{Dir: dir, Hosts: hosts, Force: force, Now: time.Now()}
			if err := r.Validate(); err != nil {
				return usagef("certs init: %v", err)
			}
			made, err := certs.Init(r)
			if errors.Is(err, certs.ErrExists) {
				return fmt.Errorf("certs init: %w", err)
			}
			if err != nil {
				return err
			}
			return a.plainDocument(made, func() string { return strings.Join(made.Files, "\n") + "\n" })
		},
	}
	f := initCmd.Flags()
	f.StringVar(&dir, "dir", "", "`DIRECTORY` (default: certs below the state directory)")
	f.StringVar(&stateDir, "state-dir", defaultStateDir, "solod's state `DIRECTORY`")
	f.StringArrayVar(&hosts, "host", nil, "further `NAME` or address of the server; may be repeated")
	f.BoolVar(&force, "force", false, "replace what exists")
	return group("certs", "Certificates for the API over TCP", "The API over TCP needs mutual TLS 1.3; these commands make what it needs.",
		"  solo-ctl certs init --host solo.example.org", initCmd)
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show solo-ctl's version",
		Long:    "Version shows the version of solo-ctl itself; kernel info shows that of Solo.",
		Example: "  solo-ctl version",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": "(devel)", "go": runtime.Version()}
			if info, ok := debug.ReadBuildInfo(); ok {
				if info.Main.Version != "" {
					v["version"] = info.Main.Version
				}
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v["revision"] = s.Value
					}
				}
			}
			return a.plainDocument(v, func() string { return "solo-ctl " + v["version"] + " " + v["go"] + "\n" })
		},
	}
}
