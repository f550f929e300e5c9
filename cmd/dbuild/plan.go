package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/explain"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/spf13/cobra"
)

// planRequest is what the daemon is asked, and the key of its answer.
const planRequest = "dbuild.plan"

// notCached is the status of a plan of which a step is not certainly in the cache.
const notCached = 1

// planCommand returns "dbuild plan", which says what a build would do.
func (a *app) planCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "plan [flags] PATH|URL|-",
		Short: "Say which steps of a build are in the cache, without running any",
		Long: `Say which steps of a build are in the cache, and why others are not. Nothing is run; sources are
looked up, and the build context is read. Takes the flags of "dbuild build".

Exit status: 0 if everything is in the cache, 1 if a step would be run or may have to be.`,
		Args: cobra.ArbitraryArgs,
	}
	flags := buildflags.New(c.Flags())
	c.Flags().SortFlags = true
	c.Flags().StringVar(&format, "format", "tree", "tree, json, dot or mermaid")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		a.debug = flags.Debug
		print, ok := planFormats[format]
		if !ok {
			return usagef("--format=%s: there are tree, json, dot and mermaid", format)
		}
		context, err := positional(cmd, args)
		if err != nil {
			return err
		}
		a.planned = print
		if !cmd.Flags().Changed("progress") {
			flags.Progress = "quiet"
		}
		return a.build(cmd.Context(), flags, context)
	}
	completeBuild(c)
	fixed(c, "format", "dot", "json", "mermaid", "tree")
	return c
}

// plan asks what the build would do, and prints that.
func (a *app) plan(ctx context.Context, d *daemonConn, opt client.SolveOpt, p *progress) error {
	if !d.ours() {
		close(p.updates)
		p.wait()
		return fmt.Errorf("dbuild plan: this daemon (%s) makes no plans", d.info.Package)
	}
	opt.FrontendAttrs["requestid"] = planRequest
	opt.Exports, opt.CacheExports, opt.Internal = nil, nil, true
	resp, err := d.Solve(ctx, nil, opt, p.updates)
	p.wait()
	if err != nil {
		p.printTail(a.stderr)
		return err
	}
	doc, err := base64.StdEncoding.DecodeString(resp.ExporterResponse[planRequest])
	if err != nil {
		return fmt.Errorf("the daemon's plan: %w", err)
	}
	t, err := explain.Decode(doc)
	if err != nil {
		return err
	}
	list, err := records(ctx, d, &controlapi.BuildHistoryRequest{})
	if err != nil {
		return err
	}
	earlier, err := earlierTraces(ctx, d, list)
	if err != nil {
		return err
	}
	report := explain.Explain(t, earlier)
	report.Build = ""
	if err := a.planned(a.stdout, t, report); err != nil {
		return err
	}
	for _, s := range report.Steps {
		if s.State == explain.Ran || s.State == explain.Unknown {
			return statusError(notCached)
		}
	}
	return nil
}

// planFormats are how plans are printed.
var planFormats = map[string]func(io.Writer, *explain.Trace, *explain.Report) error{
	"tree":    planTree,
	"json":    func(w io.Writer, _ *explain.Trace, r *explain.Report) error { return printJSON(w, r) },
	"dot":     planDot,
	"mermaid": planMermaid,
}

// verdict is the state of a step in a word.
func verdict(s explain.State) string {
	switch s {
	case explain.Hit, explain.Covered:
		return "HIT"
	case explain.Unknown:
		return "UNKNOWN"
	}
	return "MISS"
}

func planTree(w io.Writer, _ *explain.Trace, r *explain.Report) error {
	var out strings.Builder
	count := map[string]int{}
	var took time.Duration
	for _, s := range r.Steps {
		v := verdict(s.State)
		count[v]++
		fmt.Fprintf(&out, "%-7s %s\n", v, s.Name)
		if v != "HIT" {
			fmt.Fprintf(&out, "        %s\n", sentence(s))
			if t := lastTime(s); t != "" {
				fmt.Fprintf(&out, "        %s\n", t)
			}
			took += time.Duration(s.Millis) * time.Millisecond
		}
	}
	fmt.Fprintf(&out, "%d of %d steps are in the cache", count["HIT"], len(r.Steps))
	if n := count["UNKNOWN"]; n > 0 {
		fmt.Fprintf(&out, ", %d may be", n)
	}
	if took > 0 {
		fmt.Fprintf(&out, "; the others took %s last time", duration(took))
	}
	out.WriteByte('\n')
	_, err := io.WriteString(w, out.String())
	return err
}

// lastTime says how long a step took when it last ran, if that is known.
func lastTime(s explain.StepReport) string {
	if s.Millis == 0 {
		return ""
	}
	return "it took " + duration(time.Duration(s.Millis)*time.Millisecond) + " last time"
}

// duration is for people: 0.1 s of an hour are of no account.
func duration(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", max(d, 100*time.Millisecond).Seconds())
	}
	return d.Round(time.Second).String()
}

// edges calls fn for each pair of steps of which the second reads the first, and which are
// both in the report.
func edges(t *explain.Trace, r *explain.Report, fn func(from, to int)) {
	for _, pair := range explain.Edges(t, r) {
		fn(pair[0], pair[1])
	}
}

func planDot(w io.Writer, t *explain.Trace, r *explain.Report) error {
	var out strings.Builder
	out.WriteString("digraph {\n  node [shape=box, style=filled]\n")
	colour := map[string]string{"HIT": "palegreen", "MISS": "salmon", "UNKNOWN": "khaki"}
	for i, s := range r.Steps {
		label := s.Name + "\n" + verdict(s.State)
		if len(s.Causes) > 0 {
			label += ": " + sentence(s)
		}
		if t := lastTime(s); t != "" {
			label += "\n" + t
		}
		fmt.Fprintf(&out, "  s%d [label=%q, fillcolor=%s]\n", i, label, colour[verdict(s.State)])
	}
	edges(t, r, func(from, to int) { fmt.Fprintf(&out, "  s%d -> s%d\n", from, to) })
	out.WriteString("}\n")
	_, err := io.WriteString(w, out.String())
	return err
}

func planMermaid(w io.Writer, t *explain.Trace, r *explain.Report) error {
	var out strings.Builder
	out.WriteString("flowchart TD\n")
	quote := strings.NewReplacer(`"`, "#quot;", "\n", " ")
	for i, s := range r.Steps {
		label := quote.Replace(s.Name) + "<br/>" + verdict(s.State)
		if t := lastTime(s); t != "" && verdict(s.State) != "HIT" {
			label += "<br/>" + t
		}
		fmt.Fprintf(&out, "  s%d[\"%s\"]:::%s\n", i, label, strings.ToLower(verdict(s.State)))
	}
	edges(t, r, func(from, to int) { fmt.Fprintf(&out, "  s%d --> s%d\n", from, to) })
	out.WriteString("  classDef hit fill:#cfc\n  classDef miss fill:#fcc\n  classDef unknown fill:#ffc\n")
	_, err := io.WriteString(w, out.String())
	return err
}
