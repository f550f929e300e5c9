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

// A rule is a build check. Its name is what users write to skip it.
type rule struct {
	name, why, page string
}

// url is the rule's page in Docker's documentation.
func (r rule) url() string {
	if r.page == "" {
		return ""
	}
	return "https://docs.docker.com/go/dockerfile/rule/" + r.page + "/"
}

var (
	stageNameCasing       = rule{"StageNameCasing", "Stage names should be in lower case", "stage-name-casing"}
	fromAsCasing          = rule{"FromAsCasing", "AS should be written in the case of FROM", "from-as-casing"}
	noEmptyContinuation   = rule{"NoEmptyContinuation", "An empty line within an instruction will become an error", "no-empty-continuation"}
	consistentCasing      = rule{"ConsistentInstructionCasing", "Instructions should all be in upper case or all in lower case", "consistent-instruction-casing"}
	duplicateStageName    = rule{"DuplicateStageName", "A stage name should be used once", "duplicate-stage-name"}
	reservedStageName     = rule{"ReservedStageName", "Words with a meaning of their own should not name stages", "reserved-stage-name"}
	jsonArgsRecommended   = rule{"JSONArgsRecommended", "In shell form the process does not get signals, the shell does", "json-args-recommended"}
	maintainerDeprecated  = rule{"MaintainerDeprecated", "MAINTAINER is deprecated, a label says the same", "maintainer-deprecated"}
	undefinedArgInFrom    = rule{"UndefinedArgInFrom", "FROM should use declared ARGs", "undefined-arg-in-from"}
	workdirRelativePath   = rule{"WorkdirRelativePath", "A relative directory depends on the base image", "workdir-relative-path"}
	undefinedVar          = rule{"UndefinedVar", "A variable should be defined before it is used", "undefined-var"}
	multipleInstructions  = rule{"MultipleInstructionsDisallowed", "Of several such instructions in a stage only the last counts", "multiple-instructions-disallowed"}
	legacyKeyValue        = rule{"LegacyKeyValueFormat", "Name and value should be joined by an equals sign", "legacy-key-value-format"}
	invalidBasePlatform   = rule{"InvalidBaseImagePlatform", "The base image is for another platform than the build", ""}
	redundantPlatform     = rule{"RedundantTargetPlatform", "The target platform is the default of FROM", "redundant-target-platform"}
	secretsInArgOrEnv     = rule{"SecretsUsedInArgOrEnv", "ARG and ENV are visible in the image: they are no place for secrets", "secrets-used-in-arg-or-env"}
	invalidDefaultInFrom  = rule{"InvalidDefaultArgInFrom", "The defaults of global ARGs should make valid image names", "invalid-default-arg-in-from"}
	constPlatform         = rule{"FromPlatformFlagConstDisallowed", "FROM --platform should not be a constant", "from-platform-flag-const-disallowed"}
	copyIgnoredFile       = rule{"CopyIgnoredFile", "The ignore file excludes what is copied", "copy-ignored-file"}
	invalidDescription    = rule{"InvalidDefinitionDescription", "A comment right above a stage or ARG should begin with its name", "invalid-definition-description"}
	exposeProtoCasing     = rule{"ExposeProtoCasing", "The protocol of a port should be in lower case", "expose-proto-casing"}
	exposeInvalidFormat   = rule{"ExposeInvalidFormat", "EXPOSE should not name addresses or ports of the host", "expose-invalid-format"}
	experimentalRuleNames = []string{invalidDescription.name}
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
func (l *linter) report(r rule, at *instruction.Pos, format string, args ...any) {
	if l == nil || !l.wants(r) {
		return
	}
	for _, comment := range at.Comments {
		if text, ok := strings.CutPrefix(strings.ReplaceAll(comment, " ", ""), "check="); ok {
			if c, err := parseChecks(text); err == nil && !c.wants(r) && !slices.Contains(experimentalRuleNames, r.name) {
				return
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found = append(l.found, finding{r, fmt.Sprintf(format, args...), at.Ranges})
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
	}{Sources: []*pb.SourceInfo{l.info}}
	lint, err := l.newLinter()
	if err != nil {
		return nil, err
	}
	file, err := instruction.Parse(l.data)
	if err == nil {
		b := newBuild(l, file, nil)
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
			res.Error.Location.Ranges = wireRanges(slices.Concat(at.Locations...))
		}
	}
	slices.SortStableFunc(lint.found, func(a, b finding) int { return a.line() - b.line() })
	for _, f := range lint.found {
		res.Warnings = append(res.Warnings, lintWarning{
			f.rule.name, f.rule.why, f.rule.url(), f.text, &pb.Location{Ranges: wireRanges(f.ranges)},
		})
	}
	out, err := answer("1.0.0", res, func(text *strings.Builder) {
		for _, w := range res.Warnings {
			fmt.Fprintf(text, "\nWARNING: %s", w.RuleName)
			if w.URL != "" {
				fmt.Fprintf(text, " - %s", w.URL)
			}
			fmt.Fprintf(text, "\n%s\n", w.Detail)
			src := errdefs.Source{Info: l.info, Ranges: w.Location.Ranges}
			_ = src.Print(text) // to memory
		}
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

// warn shows the findings.
func (l *loader) warn(ctx context.Context, lint *linter) {
	if lint == nil {
		return
	}
	vertex := digest.Digest("")
	if def := l.info.Definition.GetDef(); len(def) > 1 {
		vertex = digest.FromBytes(def[len(def)-2])
	}
	for _, f := range lint.found {
		short := f.rule.name + ": " + f.text
		if line := f.line(); line > 0 {
			short += fmt.Sprintf(" (line %d)", line)
		}
		l.bridge.Warn(ctx, frontend.Warning{
			Vertex: vertex, Level: 1, Short: short, Detail: []string{f.rule.why}, URL: f.rule.url(),
			Source: l.info, Ranges: wireRanges(f.ranges),
		})
	}
}
