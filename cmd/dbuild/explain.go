package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/dbuild/dbuild/explain"
	units "github.com/docker/go-units"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/spf13/cobra"
)

// maxEarlier is how many earlier builds one is compared with, at most.
const maxEarlier = 30

// explainCommand returns "dbuild explain", which says why steps were not cached.
func (a *app) explainCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "explain [BUILD [STEP]]",
		Short: "Say why steps of a build were not found in the cache; of the last one without BUILD",
		Args:  cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && format != "text" && format != "json" {
				return usagef("--format=%s: there are text and json", format)
			}
			return a.withRecord(cmd, args[:min(len(args), 1)], func(d *daemonConn, r *controlapi.BuildHistoryRecord) error {
				report, err := explainBuild(cmd.Context(), d, r.Ref)
				if err != nil {
					return err
				}
				if len(args) > 1 {
					if err := pickStep(report, args[1]); err != nil {
						return err
					}
				}
				if format == "json" {
					return printJSON(a.stdout, report)
				}
				return printReport(a.stdout, report)
			})
		},
	}
	c.Flags().StringVar(&format, "format", "", "text or json")
	fixed(c, "format", "json", "text")
	return c
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// explainBuild compares a build that has ended with those before it.
func explainBuild(ctx context.Context, d *daemonConn, ref string) (*explain.Report, error) {
	if _, err := d.ControlClient().UpdateBuildHistory(ctx, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Finalize: true}); err != nil {
		return nil, err
	}
	list, err := records(ctx, d, &controlapi.BuildHistoryRequest{})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(r *controlapi.BuildHistoryRecord) bool { return r.Ref == ref })
	if i < 0 {
		return nil, fmt.Errorf("there is no record of the build %s: does the daemon keep a history?", ref)
	}
	t, err := traceOf(ctx, d, list[i])
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, fmt.Errorf("the record of the build %s does not say what its steps were made from", ref)
	}
	earlier, err := earlierTraces(ctx, d, list[:i])
	if err != nil {
		return nil, err
	}
	return explain.Explain(t, earlier), nil
}

// earlierTraces are those of builds that have ended, the newest first. list has the oldest
// first.
func earlierTraces(ctx context.Context, d *daemonConn, list []*controlapi.BuildHistoryRecord) (out []*explain.Trace, err error) {
	for _, r := range slices.Backward(list) {
		if len(out) == maxEarlier {
			break
		}
		t, err := traceOf(ctx, d, r)
		if err != nil {
			return nil, err
		}
		if t != nil {
			out = append(out, t)
		}
	}
	return out, nil
}

// traceOf reads the trace of a build, or nil if there is none.
func traceOf(ctx context.Context, d *daemonConn, r *controlapi.BuildHistoryRecord) (*explain.Trace, error) {
	for _, att := range r.GetResult().GetAttestations() {
		if att.MediaType != explain.MediaType {
			continue
		}
		b, err := readContent(ctx, d, att.Digest)
		if err != nil {
			return nil, fmt.Errorf("trace of the build %s: %w", r.Ref, err)
		}
		return explain.Decode(b)
	}
	return nil, nil
}

// readContent reads a small blob.
func readContent(ctx context.Context, d *daemonConn, digest string) ([]byte, error) {
	srv, err := d.ContentClient().Read(ctx, &contentapi.ReadContentRequest{Digest: digest})
	if err != nil {
		return nil, err
	}
	var out []byte
	for {
		msg, err := srv.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, msg.Data...)
	}
}

// pickStep leaves one step in a report: that with the number that it has there, at that line,
// or whose name has the word.
func pickStep(r *explain.Report, name string) error {
	n, _ := strconv.Atoi(strings.TrimPrefix(name, "#"))
	var found []explain.StepReport
	for i, s := range r.Steps {
		if i+1 == n || strings.Contains(strings.ToLower(s.Name), strings.ToLower(name)) || fmt.Sprintf("%s:%d", s.File, s.Line) == name || strings.HasPrefix(s.Digest, strings.TrimPrefix(name, "sha256:")) {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("no step of the build is %q; \"dbuild explain %s\" lists them", name, r.Build)
	}
	r.Steps = found
	return nil
}

// printReport prints a sentence for each step that was not cached.
func printReport(w io.Writer, r *explain.Report) error {
	var out strings.Builder
	if r.Nearest != "" {
		fmt.Fprintf(&out, "compared with the build %s of %s ago\n", r.Nearest, units.HumanDuration(time.Since(r.Started)))
	}
	cached := 0
	for i, s := range r.Steps {
		if s.State == explain.Hit || s.State == explain.Covered {
			cached++
			if len(r.Steps) == 1 {
				fmt.Fprintf(&out, "%d. %s: cached\n", i+1, s.Name)
			}
			continue
		}
		fmt.Fprintf(&out, "%d. %s: %s\n", i+1, s.Name, sentence(s))
	}
	fmt.Fprintf(&out, "%d of %d steps were cached\n", cached, len(r.Steps))
	_, err := io.WriteString(w, out.String())
	return err
}

// sentence is why a step was not cached.
func sentence(s explain.StepReport) string {
	var causes []string
	for _, c := range s.Causes {
		causes = append(causes, c.Text)
	}
	return strings.Join(causes, "; ")
}

// printExplanation prints to standard error why steps of a build were not cached. That it
// cannot is no failure of the build.
func (a *app) printExplanation(ctx context.Context, d *daemonConn, ref string) {
	r, err := explainBuild(ctx, d, ref)
	if err != nil {
		a.warn("--explain: %v", err)
		return
	}
	fmt.Fprintln(a.stderr)
	_ = printReport(a.stderr, r)
}
