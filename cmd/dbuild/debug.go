package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/spf13/cobra"
)

// maxDefinition is the size in bytes of the largest definition that is printed.
const maxDefinition = 64 << 20

// debugCommand returns "dbuild debug", for looking inside.
func (a *app) debugCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "debug",
		Short: "Look inside",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.workersCommand(), a.infoCommand(), a.dumpLLBCommand(), a.dumpMetadataCommand())
	return c
}

func (a *app) workersCommand() *cobra.Command {
	var verbose bool
	var format string
	var filters []string
	c := &cobra.Command{
		Use:   "workers",
		Short: "List the daemon's workers; answers when it is ready",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			workers, err := d.ListWorkers(cmd.Context(), client.WithFilter(filters))
			if err != nil {
				return err
			}
			if format == "json" {
				return json.NewEncoder(a.stdout).Encode(workers)
			}
			if verbose {
				for _, w := range workers {
					describeWorker(a.stdout, w)
				}
				return nil
			}
			tw := tabwriter.NewWriter(a.stdout, 1, 8, 2, ' ', 0)
			fmt.Fprintln(tw, "ID\tPLATFORMS")
			for _, w := range workers {
				fmt.Fprintf(tw, "%s\t%s\n", w.ID, platformList(w))
			}
			return tw.Flush()
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "print all that is known")
	c.Flags().StringVar(&format, "format", "", "json")
	c.Flags().StringArrayVar(&filters, "filter", nil, "list what matches")
	return c
}

func platformList(w *client.WorkerInfo) string {
	var out []string
	for _, p := range w.Platforms {
		out = append(out, platforms.FormatAll(p))
	}
	return strings.Join(out, ",")
}

func describeWorker(w io.Writer, i *client.WorkerInfo) {
	tw := tabwriter.NewWriter(w, 1, 8, 1, ' ', 0)
	fmt.Fprintf(tw, "ID:\t%s\nPlatforms:\t%s\n", i.ID, platformList(i))
	fmt.Fprintf(tw, "Daemon:\t%s %s %s\n", i.BuildkitVersion.Package, i.BuildkitVersion.Version, i.BuildkitVersion.Revision)
	fmt.Fprintln(tw, "Labels:")
	for _, k := range sortedKeys(i.Labels) {
		fmt.Fprintf(tw, "\t%s:\t%s\n", k, i.Labels[k])
	}
	for n, p := range i.GCPolicy {
		fmt.Fprintf(tw, "GC policy rule#%d:\n", n)
		fmt.Fprintf(tw, "\tAll:\t%t\n\tFilters:\t%s\n\tKeep duration:\t%s\n", p.All, strings.Join(p.Filter, " "), p.KeepDuration)
		fmt.Fprintf(tw, "\tReserved space:\t%d\n\tMax used space:\t%d\n\tMin free space:\t%d\n", p.ReservedSpace, p.MaxUsedSpace, p.MinFreeSpace)
	}
	fmt.Fprintln(tw)
	_ = tw.Flush()
}

func (a *app) infoCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "info",
		Short: "Print what the daemon is",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			if format == "json" {
				return json.NewEncoder(a.stdout).Encode(client.Info{BuildkitVersion: d.info})
			}
			tw := tabwriter.NewWriter(a.stdout, 1, 8, 1, ' ', 0)
			fmt.Fprintf(tw, "Package:\t%s\nVersion:\t%s\nRevision:\t%s\nDockerfile:\t%s\nAddress:\t%s\n",
				d.info.Package, d.info.Version, d.info.Revision, d.info.DockerfileVersion, d.addr.url)
			return tw.Flush()
		},
	}
	c.Flags().StringVar(&format, "format", "", "json")
	return c
}
