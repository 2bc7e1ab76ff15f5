package ctl

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/go/client"
)

func (a *app) list() *cobra.Command {
	var filter string
	var system bool
	cmd := &cobra.Command{
		Use:   "list [PREFIX]",
		Short: "List services",
		Long: `List shows the services whose names start with PREFIX, or all. System services and
drivers are shown with --system. With -o json the document is {"services": [...]},
each as status prints it.`,
		Example: "  solo-ctl list\n  solo-ctl list team-a/ -o json",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			if len(list) == 1 {
				filter = list[0]
			}
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				all := &solov1.ListResponse{}
				req := &solov1.ListRequest{Filter: filter, System: system}
				for {
					page, err := c.Solo.List(ctx, req)
					if err != nil {
						return err
					}
					all.Services = append(all.Services, page.GetServices()...)
					if page.GetNextPageToken() == "" {
						break
					}
					if page.GetNextPageToken() == req.GetPageToken() {
						return fmt.Errorf("list: the server sent the same page twice")
					}
					req.PageToken = page.GetNextPageToken()
				}
				return a.document(all, func() string { return listText(all.GetServices()) })
			})
		},
	}
	cmd.Flags().BoolVar(&system, "system", false, "also system services and drivers")
	return cmd
}

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status NAME",
		Short: "Show one service",
		Long: `Status shows a service and its instances: state, the reason why the last instance
ended, restarts, version, memory and CPU, and each instance's process id on the
host.

States: starting, ready, stopping, stopped, backoff, failed, finished.
Reasons: exit:N, signal:N, oom, startup_timeout, killed, seccomp, protocol,
limit:NAME, restart_intensity, shutdown.`,
		Example: "  solo-ctl status web\n  solo-ctl status web -o json | jq -r .state",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.Solo.Status(ctx, &solov1.StatusRequest{Service: list[0]})
				if err != nil {
					return err
				}
				s := r.GetService()
				if s == nil {
					s = &solov1.ServiceStatus{}
				}
				return a.document(s, func() string { return statusText(s) })
			})
		},
	}
}

func (a *app) kill() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "kill NAME",
		Short: "Stop a service and keep it stopped",
		Long: `Kill stops a service: SIGTERM, and after its shutdown_timeout_ms the end of all its
processes; with --force that end at once. The service stays known, and stopped also
after a reboot, until start or delete. The answer comes when it has stopped.`,
		Example: "  solo-ctl kill web\n  solo-ctl kill --force web",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				var r *solov1.KillResponse
				err := a.progress("stopping "+list[0], func() (err error) {
					r, err = c.Solo.Kill(ctx, &solov1.KillRequest{Service: list[0], Force: force})
					return err
				})
				if err != nil {
					return err
				}
				return a.document(r, func() string { return stateLine(list[0], r.GetState(), r.GetReason()) })
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "without grace")
	return cmd
}

func (a *app) start() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:         "start NAME",
		Short:       "Start a stopped or failed service",
		Long:        "Start sets the desired state of a service to running. With --wait the answer comes\nwhen it is ready or has failed, and the exit status says which.",
		Example:     "  solo-ctl start --wait web",
		Annotations: map[string]string{exitNote: waitNote},
		Args:        args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				var r *solov1.StartResponse
				err := a.progress("starting "+list[0], func() (err error) {
					r, err = c.Lifecycle.Start(ctx, &solov1.StartRequest{Service: list[0], Wait: wait})
					return err
				})
				if err != nil {
					return err
				}
				if err := a.document(r, func() string { return stateLine(list[0], r.GetState(), r.GetReason()) }); err != nil {
					return err
				}
				return waited(wait, r.GetState())
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "until it is ready or has failed")
	return cmd
}

func (a *app) restart() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:         "restart NAME",
		Short:       "Stop a service and start it again",
		Long:        "Restart stops a service as kill does and starts it again, whatever state it was in.\nWith --wait the answer comes when it is ready or has failed, and the exit status says\nwhich.",
		Example:     "  solo-ctl restart --wait web",
		Annotations: map[string]string{exitNote: waitNote},
		Args:        args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				var r *solov1.RestartResponse
				err := a.progress("restarting "+list[0], func() (err error) {
					r, err = c.Lifecycle.Restart(ctx, &solov1.RestartRequest{Service: list[0], Wait: wait})
					return err
				})
				if err != nil {
					return err
				}
				if err := a.document(r, func() string { return stateLine(list[0], r.GetState(), r.GetReason()) }); err != nil {
					return err
				}
				return waited(wait, r.GetState())
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "until it is ready or has failed")
	return cmd
}

func (a *app) delete() *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Short:   "Stop a service and forget it",
		Long:    "Delete stops a service and frees its name. Its volumes stay; its logs go.",
		Example: "  solo-ctl delete web",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				var r *solov1.DeleteResponse
				err := a.progress("deleting "+list[0], func() (err error) {
					r, err = c.Lifecycle.Delete(ctx, &solov1.DeleteRequest{Service: list[0]})
					return err
				})
				if err != nil {
					return err
				}
				return a.document(r, func() string { return clean(list[0]) + " deleted\n" })
			})
		},
	}
}

func (a *app) shutdown() *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "shutdown",
		Short: "Stop Solo",
		Long: `Shutdown stops all services and then Solo itself, as SIGTERM to solod does. The
answer comes when it has begun. What was deployed comes back at the next start.`,
		Example: "  solo-ctl shutdown --grace 5s",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ms := grace.Milliseconds()
			if ms < 0 || ms > math.MaxUint32 {
				return usagef("--grace: %s is out of range", grace)
			}
			return a.call(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.Solo.Shutdown(ctx, &solov1.ShutdownRequest{TimeoutMs: uint32(ms)})
				if err != nil {
					return err
				}
				return a.document(r, func() string { return "shutdown has begun\n" })
			})
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", 0, "`TIME` for the services to end (default 30s)")
	return cmd
}

func stateLine(name, state, reason string) string {
	line := clean(name) + " " + clean(state)
	if reason != "" {
		line += " (" + clean(reason) + ")"
	}
	return line + "\n"
}

const waitNote = "With --wait, 1 also when the service has not become ready."

// waited makes a service that was waited for, and is not there, an error.
func waited(wait bool, state string) error {
	if !wait || state == "ready" || state == "finished" {
		return nil
	}
	return exitStatus(exitError)
}
