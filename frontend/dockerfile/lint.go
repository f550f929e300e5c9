package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// A finding is a rule broken at some lines.
type finding struct {
	rule   rule
	text   string
	ranges []parser.Range
}

func (f finding) line() int {
	if len(f.ranges) == 0 {
		return 0
	}
	return f.ranges[0].Start.Line
}

// A linter collects findings. A nil linter collects none.
type linter struct {
	checks

	mu    sync.Mutex
	found []finding
}

// checks is what a check directive says.
type checks struct {
	skip         []string // "all" for all
	experimental []string
	asError      bool
}

// newLinter reads the check directive, or the build arg that overrides it.
func (l *loader) newLinter() (*linter, error) {
	text, given := l.opts.buildArgs["BUILDKIT_DOCKERFILE_CHECK"]
	if !given {
		text, _, _, _ = parser.ParseDirective("check", l.data)
	}
	c, err := parseChecks(text)
	return &linter{checks: c}, err
}

// parseChecks reads "skip=A,B;error=true;experimental=C".
func parseChecks(text string) (c checks, err error) {
	if text = strings.TrimSpace(text); text == "" {
		return c, nil
	}
	for part := range strings.SplitSeq(text, ";") {
		key, value, ok := strings.Cut(part, "=")
		if !ok {
			return c, fmt.Errorf("invalid check option %q", part)
		}
		key = strings.TrimSpace(key)
		switch key {
		case "skip", "experimental":
			names := strings.Split(value, ",")
			for i, n := range names {
				names[i] = strings.TrimSpace(n)
			}
			if key == "skip" {
				c.skip = names
			} else {
				c.experimental = names
			}
		case "error":
			if c.asError, err = strconv.ParseBool(strings.TrimSpace(value)); err != nil {
				return c, fmt.Errorf("check option error wants true or false, not %q", value)
			}
		default:
			return c, instruction.Suggest(fmt.Errorf("invalid check option %q", key), key, []string{"skip", "experimental", "error"})
		}
	}
	return c, nil
}

func (c *checks) wants(r rule) bool {
	if slices.Contains(experimentalRuleNames, r.name) {
		return slices.Contains(c.experimental, r.name) || slices.Contains(c.experimental, "all")
	}
	return !slices.Contains(c.skip, r.name) && !slices.Contains(c.skip, "all")
}

// report notes that the instruction at breaks r, unless a comment above it says not to.
func (l *linter) report(r rule, at *instruction.Pos, args ...any) {
	l.reportMore(r, at, "", args...)
}

// reportMore is report with something added to the rule's text.
func (l *linter) reportMore(r rule, at *instruction.Pos, more string, args ...any) {
	if l == nil || !l.wantsAt(r, at) {
		return
	}
	text := r.text
	if len(args) > 0 {
		text = fmt.Sprintf(text, args...)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found = append(l.found, finding{r, text + more, at.Ranges})
}

// wantsAt is wants with what the comment above an instruction says. It may go on with the
// reason, behind a space.
func (c *checks) wantsAt(r rule, at *instruction.Pos) bool {
	merged := *c
	for _, comment := range at.Comments {
		key, text, ok := strings.Cut(comment, "=")
		if !ok || strings.TrimSpace(key) != "check" {
			continue
		}
		text, _, _ = strings.Cut(strings.TrimSpace(text), " ")
		if own, err := parseChecks(text); err == nil {
			merged.skip = slices.Concat(c.skip, own.skip)
			merged.experimental = slices.Concat(c.experimental, own.experimental)
		}
		break
	}
	return merged.wants(r)
}

// err is the error of a build that is to fail on findings.
func (l *linter) err() error {
	if l == nil || !l.asError || len(l.found) == 0 {
		return nil
	}
	var names []string
	for _, f := range l.found {
		names = append(names, f.rule.name)
	}
	slices.Sort(names)
	return fmt.Errorf("lint violation found for rules: %s", strings.Join(slices.Compact(names), ", "))
}

// A lintWarning is a finding as clients read it.
type lintWarning struct {
	RuleName    string       `json:"ruleName"`
	Description string       `json:"description,omitempty"`
	URL         string       `json:"url,omitempty"`
	Detail      string       `json:"detail,omitempty"`
	Fix         string       `json:"fix,omitempty"` // what to do, which other frontends do not say
	Location    *pb.Location `json:"location,omitempty"`
}

// lintAll answers the subrequest for the findings in all stages, or in those that the
// target needs. What is wrong with the Dockerfile is part of the answer.
func (l *loader) lintAll(ctx context.Context) (*frontend.Result, error) {
	type buildError struct {
		Message  string       `json:"message"`
		Location *pb.Location `json:"location"`
	}
	res := struct {
		Warnings []lintWarning    `json:"warnings"`
		Sources  []*pb.SourceInfo `json:"sources"`
		Error    *buildError      `json:"buildError,omitempty"`
	}{}
	lint, err := l.newLinter()
	if err != nil {
		return nil, err
	}
	file, err := l.parse(ctx)
	if err != nil {
		lintParsed(lint, file)
	} else {
		b := newBuild(l, file, l.opts.firstPlatform())
		b.lint, b.all = lint, l.opts.target == ""
		_, err = b.convert(ctx)
	}
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		res.Error = &buildError{Message: err.Error(), Location: &pb.Location{}}
		var at *parser.LocationError
		if errors.As(err, &at) {
			res.Error.Location = l.location(slices.Concat(at.Locations...))
		}
	}
	res.Sources = l.infos()
	slices.SortStableFunc(lint.found, func(a, b finding) int { return a.line() - b.line() })
	for _, f := range lint.found {
		res.Warnings = append(res.Warnings, lintWarning{
			f.rule.name, f.rule.why, f.rule.url(), f.text, f.rule.fix, l.location(f.ranges),
		})
	}
	out, err := answer("1.0.0", res, func(text *strings.Builder) {
		for _, w := range res.Warnings {
			fmt.Fprintf(text, "\nWARNING: %s", w.RuleName)
			if w.URL != "" {
				fmt.Fprintf(text, " - %s", w.URL)
			}
			fmt.Fprintf(text, "\n%s\n", w.Detail)
			if w.Fix != "" {
				fmt.Fprintf(text, "Fix: %s\n", w.Fix)
			}
			src := errdefs.Source{Info: res.Sources[w.Location.SourceIndex], Ranges: w.Location.Ranges}
			_ = src.Print(text) // to memory
		}
		if e := res.Error; e != nil {
			fmt.Fprintf(text, "\nERROR: %s\n", e.Message)
			src := errdefs.Source{Info: res.Sources[e.Location.SourceIndex], Ranges: e.Location.Ranges}
			_ = src.Print(text) // to memory
		}
		text.WriteString(found(len(res.Warnings)))
	})
	if err != nil {
		return nil, err
	}
	status := "0"
	if len(res.Warnings) > 0 || res.Error != nil {
		status = "1"
	}
	out.Metadata["result.statuscode"] = []byte(status)
	return out, nil
}

// found is the last line of the answer in text.
func found(warnings int) string {
	switch warnings {
	case 0:
		return "No warnings found\n"
	case 1:
		return "\n1 warning found\n"
	}
	return fmt.Sprintf("\n%d warnings found\n", warnings)
}

// warn shows the findings.
func (l *loader) warn(ctx context.Context, lint *linter) {
	if lint == nil {
		return
	}
	for _, f := range lint.found {
		short := f.rule.name + ": " + f.text
		p := l.spot(f.ranges)
		if len(p.ranges) > 0 {
			short += " (line " + p.line() + ")"
		}
		l.bridge.Warn(ctx, frontend.Warning{
			Vertex: l.vertex(), Level: 1, Short: short, Detail: []string{f.rule.why}, URL: f.rule.url(),
			Source: p.info, Ranges: p.ranges,
		})
	}
}

// vertex is the one that reads the Dockerfile, which warnings are about.
func (l *loader) vertex() digest.Digest {
	def := l.info.Definition.GetDef()
	if len(def) < 2 {
		return ""
	}
	return digest.FromBytes(def[len(def)-2])
}
