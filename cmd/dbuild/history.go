package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	units "github.com/docker/go-units"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
)

// historyCommand returns "dbuild history", about the builds that were.
func (a *app) historyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "history",
		Short: "List builds, and show what they did",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.historyListCommand(), a.historyLogsCommand(), a.historyInspectCommand(), a.historyRemoveCommand(),
		a.historyPinCommand("pin", "Keep the records of builds for good", true), a.historyPinCommand("unpin", "Let the records of builds go in time", false))
	return c
}

func (a *app) historyListCommand() *cobra.Command {
	var filters []string
	var format string
	c := &cobra.Command{
		Use:   "ls",
		Short: "List builds, the newest first",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "table" && format != "json" {
				return usagef("--format=%s: there are table and json", format)
			}
			return a.withDaemon(cmd, func(d *daemonConn) error {
				list, err := records(cmd.Context(), d, &controlapi.BuildHistoryRequest{Filter: filters})
				if err != nil {
					return err
				}
				slices.Reverse(list)
				if format == "json" {
					enc := json.NewEncoder(a.stdout)
					for _, r := range list {
						if err := enc.Encode(r); err != nil {
							return err
						}
					}
					return nil
				}
				return printRecords(a.stdout, list)
			})
		},
	}
	c.Flags().StringArrayVar(&filters, "filter", nil, `list what matches ("status==error", "startedAt>24h", "repository~=app")`)
	c.Flags().StringVar(&format, "format", "", "table or json")
	fixed(c, "format", "json", "table")
	return c
}

func (a *app) historyLogsCommand() *cobra.Command {
	var mode string
	c := &cobra.Command{
		Use:   "logs [REF]",
		Short: "Print what a build showed; of the last one without REF",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRecord(cmd, args, func(d *daemonConn, r *controlapi.BuildHistoryRecord) error {
				p, err := a.startProgress(mode, false)
				if err != nil {
					return err
				}
				defer p.wait()
				defer close(p.updates)
				srv, err := d.ControlClient().Status(cmd.Context(), &controlapi.StatusRequest{Ref: r.Ref})
				for err == nil {
					var msg *controlapi.StatusResponse
					if msg, err = srv.Recv(); err == nil {
						p.updates <- client.NewSolveStatus(msg)
					}
				}
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&mode, "progress", "plain", strings.Join(progressModes, ", "))
	fixed(c, "progress", progressModes...)
	return c
}

func (a *app) historyInspectCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "inspect [REF]",
		Short: "Print the record of a build; of the last one without REF",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return usagef("--format=%s: there is json", format)
			}
			return a.withRecord(cmd, args, func(_ *daemonConn, r *controlapi.BuildHistoryRecord) error {
				if format == "json" {
					enc := json.NewEncoder(a.stdout)
					enc.SetIndent("", "  ")
					return enc.Encode(r)
				}
				return describeRecord(a.stdout, r)
			})
		},
	}
	c.Flags().StringVar(&format, "format", "", "json")
	fixed(c, "format", "json")
	return c
}

func (a *app) historyRemoveCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "rm REF ... | --all",
		Short: "Remove the records of builds; --all keeps those that are pinned",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usagef("either the refs of builds or --all is needed")
			}
			return a.withDaemon(cmd, func(d *daemonConn) error {
				if all {
					list, err := records(cmd.Context(), d, &controlapi.BuildHistoryRequest{})
					if err != nil {
						return err
					}
					for _, r := range list {
						if !r.Pinned && r.CompletedAt != nil {
							args = append(args, r.Ref)
						}
					}
				}
				return a.update(cmd.Context(), d, args, &controlapi.UpdateBuildHistoryRequest{Delete: true})
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all that are not pinned")
	return c
}

func (a *app) historyPinCommand(use, short string, pinned bool) *cobra.Command {
	return &cobra.Command{
		Use:   use + " REF ...",
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("the refs of builds are needed")
			}
			return a.withDaemon(cmd, func(d *daemonConn) error {
				return a.update(cmd.Context(), d, args, &controlapi.UpdateBuildHistoryRequest{Pinned: pinned})
			})
		},
	}
}

// update changes the records of builds that users name, and prints their refs.
func (a *app) update(ctx context.Context, d *daemonConn, names []string, req *controlapi.UpdateBuildHistoryRequest) error {
	for _, name := range names {
		r, err := record(ctx, d, name)
		if err != nil {
			return err
		}
		req.Ref = r.Ref
		if _, err := d.ControlClient().UpdateBuildHistory(ctx, req); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, r.Ref)
	}
	return nil
}

func (a *app) withDaemon(cmd *cobra.Command, fn func(*daemonConn) error) error {
	d, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(d)
}

// withRecord calls fn with the build that args name, which may be none: the last.
func (a *app) withRecord(cmd *cobra.Command, args []string, fn func(*daemonConn, *controlapi.BuildHistoryRecord) error) error {
	return a.withDaemon(cmd, func(d *daemonConn) error {
		r, err := record(cmd.Context(), d, strings.Join(args, ""))
		if err != nil {
			return err
		}
		return fn(d, r)
	})
}

// records are the builds that the daemon knows, the oldest first unless req has a limit.
func records(ctx context.Context, d *daemonConn, req *controlapi.BuildHistoryRequest) ([]*controlapi.BuildHistoryRecord, error) {
	req.EarlyExit = true
	srv, err := d.ControlClient().ListenBuildHistory(ctx, req)
	if err != nil {
		return nil, err
	}
	var out []*controlapi.BuildHistoryRecord
	for {
		ev, err := srv.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if ev.Record != nil {
			out = append(out, ev.Record)
		}
	}
}

// record is the build whose ref is name or begins with it; or the last, if name is empty.
func record(ctx context.Context, d *daemonConn, name string) (*controlapi.BuildHistoryRecord, error) {
	req := &controlapi.BuildHistoryRequest{Limit: 1}
	if name != "" {
		req.Limit, req.Filter = 2, []string{"ref~=/^" + regexp.QuoteMeta(name) + "/"}
	}
	list, err := records(ctx, d, req)
	switch {
	case err != nil:
		return nil, err
	case len(list) == 1:
		return list[0], nil
	case name == "":
		return nil, errors.New(`there are no builds in the history`)
	case len(list) == 0:
		return nil, fmt.Errorf("there is no build %s in the history; \"dbuild history ls\" lists those there are", name)
	}
	return nil, fmt.Errorf("%s is the beginning of several refs, such as %s and %s", name, list[0].Ref, list[1].Ref)
}

// statusOf is how a build ended, in a word.
func statusOf(r *controlapi.BuildHistoryRecord) string {
	switch {
	case r.CompletedAt == nil:
		return "running"
	case r.Error == nil:
		return "completed"
	case codes.Code(r.Error.Code) == codes.Canceled:
		return "canceled"
	}
	return "error"
}

// took is how long a build took, or has taken so far.
func took(r *controlapi.BuildHistoryRecord) time.Duration {
	end := time.Now()
	if r.CompletedAt != nil {
		end = r.CompletedAt.AsTime()
	}
	d := end.Sub(r.CreatedAt.AsTime())
	if d > time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

func printRecords(w io.Writer, list []*controlapi.BuildHistoryRecord) error {
	tw := tabwriter.NewWriter(w, 1, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "REF\tSTATUS\tSTARTED\tDURATION\tSTEPS\tCACHED\tPINNED")
	for _, r := range list {
		pinned := ""
		if r.Pinned {
			pinned = "*"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s ago\t%s\t%d/%d\t%d\t%s\n", r.Ref, statusOf(r), units.HumanDuration(time.Since(r.CreatedAt.AsTime())),
			took(r), r.NumCompletedSteps, r.NumTotalSteps, r.NumCachedSteps, pinned)
	}
	return tw.Flush()
}

func describeRecord(w io.Writer, r *controlapi.BuildHistoryRecord) error {
	tw := tabwriter.NewWriter(w, 1, 8, 2, ' ', 0)
	fmt.Fprintf(tw, "Ref:\t%s\nStatus:\t%s\n", r.Ref, statusOf(r))
	if r.Error != nil {
		fmt.Fprintf(tw, "Error:\t%s\n", r.Error.Message)
	}
	fmt.Fprintf(tw, "Started:\t%s\nDuration:\t%s\n", r.CreatedAt.AsTime().Local().Format(time.DateTime), took(r))
	fmt.Fprintf(tw, "Steps:\t%d of %d completed, %d cached, %d warnings\n", r.NumCompletedSteps, r.NumTotalSteps, r.NumCachedSteps, r.NumWarnings)
	if r.Frontend != "" {
		fmt.Fprintf(tw, "Frontend:\t%s\n", r.Frontend)
	}
	for _, k := range slices.Sorted(maps.Keys(r.FrontendAttrs)) {
		fmt.Fprintf(tw, "Option:\t%s=%s\n", k, r.FrontendAttrs[k])
	}
	for _, x := range r.Exporters {
		fmt.Fprintf(tw, "Exporter:\t%s\n", x.Type)
	}
	blobs := func(what, platform string, list ...*controlapi.Descriptor) {
		for _, d := range list {
			if d == nil {
				continue
			}
			name := d.MediaType
			if t := d.Annotations["in-toto.io/predicate-type"]; t != "" {
				name = t
			}
			fmt.Fprintln(tw, strings.TrimRight(fmt.Sprintf("%s:\t%s %s %s", what, d.Digest, name, platform), " "))
		}
	}
	parts := map[string]*controlapi.BuildResultInfo{"": r.Result}
	maps.Copy(parts, r.Results)
	for _, platform := range slices.Sorted(maps.Keys(parts)) {
		p := parts[platform]
		for _, i := range slices.Sorted(maps.Keys(p.GetResults())) {
			blobs("Result", platform, p.GetResults()[i])
		}
		blobs("Attestation", platform, p.GetAttestations()...)
	}
	blobs("Log", "", r.Logs)
	blobs("Trace", "", r.Trace)
	return tw.Flush()
}
