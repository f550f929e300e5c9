package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/spf13/cobra"
)

// pruneCommand returns "dbuild prune", which removes what the cache need not keep.
func (a *app) pruneCommand() *cobra.Command {
	var (
		filters                          []string
		all, force                       bool
		keep                             string
		reserved, keepStorage, max, free string
		l                                listing
	)
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what the build cache need not keep",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := parseFilters(filters)
			if err != nil {
				return err
			}
			if keep != "" {
				if q.age, err = parseAge("--keep-duration", keep); err != nil {
					return err
				}
			}
			if reserved == "" {
				reserved = keepStorage
			}
			var sizes [3]int64
			for i, s := range []struct{ flag, text string }{
				{"--reserved-space", reserved}, {"--max-used-space", max}, {"--min-free-space", free},
			} {
				if sizes[i], err = parseSize(s.flag, s.text); err != nil {
					return err
				}
			}
			print, err := l.printer(a.stdout)
			if err != nil {
				return err
			}
			if !force && terminal(a.stdin) && !a.confirm(all) {
				return nil
			}
			opts := []client.PruneOption{client.WithFilter(q.filters), client.WithKeepOpt(q.age, sizes[0], sizes[1], sizes[2])}
			if all {
				opts = append(opts, client.PruneAll)
			}
			d, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			removed := make(chan client.UsageInfo)
			failed := make(chan error, 1)
			go func() { // ends when Prune has ended, which we wait for
				defer close(removed)
				failed <- d.Prune(cmd.Context(), removed, opts...)
			}()
			var printErr error
			for r := range removed {
				if err := print.record(&r); err != nil {
					printErr = err
				}
			}
			if err := <-failed; err != nil {
				return err
			}
			if printErr != nil {
				return printErr
			}
			return print.end()
		},
	}
	f := c.Flags()
	f.BoolVarP(&all, "all", "a", false, "remove all that can be, frontends too; steps of images that are kept run again")
	f.BoolVarP(&force, "force", "f", false, "do not ask")
	f.StringArrayVar(&filters, "filter", nil, `remove only what matches ("type=regular", "until=24h")`)
	f.StringVar(&keep, "keep-duration", "", "keep what was used during this time (48h)")
	f.StringVar(&reserved, "reserved-space", "", "keep this much (10GB)")
	f.StringVar(&keepStorage, "keep-storage", "", "older name of --reserved-space")
	f.StringVar(&max, "max-used-space", "", "remove until this much is used")
	f.StringVar(&free, "min-free-space", "", "remove until this much is free")
	_ = f.MarkHidden("keep-storage")
	l.flags(c)
	completeFilters(c)
	return c
}

// confirm asks the user, who is at a terminal.
func (a *app) confirm(all bool) bool {
	what := "all build cache that is not in use"
	if all {
		what += ", internal records included"
	}
	fmt.Fprintf(a.stderr, "This removes %s. Continue? [y/N] ", what)
	answer, err := bufio.NewReader(io.LimitReader(a.stdin, 100)).ReadString('\n')
	if err != nil {
		fmt.Fprintln(a.stderr)
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
