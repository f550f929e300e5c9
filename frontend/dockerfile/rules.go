package dockerfile

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	spec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/patternmatcher"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// lintFile checks what can be seen in the text alone.
func (b *build) lintFile() {
	l := b.lint
	if l == nil {
		return
	}
	for _, w := range b.file.Warnings { // the parser has no others
		if w.URL == noEmptyContinuation.url() && w.Location != nil {
			l.report(noEmptyContinuation, &instruction.Pos{Ranges: []parser.Range{*w.Location}}, "%s", noEmptyContinuation.why)
		}
	}
	seen := map[string]bool{}
	for _, a := range b.file.Global {
		lintDescription(l, a, "ARG", argNames(a))
	}
	for _, s := range b.file.Stages {
		b.lintFrom(s.From, seen)
		for _, in := range s.Body {
			switch in := in.(type) {
			case *instruction.Maintainer:
				l.report(maintainerDeprecated, in.Pos, "%s", maintainerDeprecated.why)
			case *instruction.Arg:
				lintDescription(l, in, "ARG", argNames(in))
			}
		}
	}
	b.lintCasing()
}

func argNames(a *instruction.Arg) []string {
	var names []string
	for _, v := range a.Args {
		names = append(names, v.Key)
	}
	return names
}

func lintDescription(l *linter, in instruction.Instruction, keyword string, names []string) {
	comments := in.At().Comments
	if len(comments) == 0 || len(names) == 0 {
		return
	}
	if first, _, _ := strings.Cut(comments[len(comments)-1], " "); !slices.Contains(names, first) {
		l.report(invalidDescription, in.At(), "the comment of %s should be \"# %s DESCRIPTION\"", keyword, names[0])
	}
}

func (b *build) lintFrom(f *instruction.From, seen map[string]bool) {
	l := b.lint
	if f.Name == "" {
		return
	}
	lintDescription(l, f, "FROM", []string{f.Name})
	if f.Written != f.Name {
		l.report(stageNameCasing, f.Pos, "Stage name '%s' should be lowercase", f.Written)
	}
	lower, upper := strings.ToLower(f.Keyword) == f.Keyword, strings.ToUpper(f.Keyword) == f.Keyword
	if lower && strings.ToLower(f.As) != f.As || upper && strings.ToUpper(f.As) != f.As {
		l.report(fromAsCasing, f.Pos, "'%s' and '%s' are not in the same case", f.As, f.Keyword)
	}
	if f.Name == scratch || f.Name == contextLocal {
		l.report(reservedStageName, f.Pos, "%q is a reserved name", f.Name)
	}
	if seen[f.Name] {
		l.report(duplicateStageName, f.Pos, "there is another stage %q", f.Name)
	}
	seen[f.Name] = true
}

// lintCasing compares each keyword with the case of most.
func (b *build) lintCasing() {
	var all []*instruction.Pos
	lower, upper := 0, 0
	count := func(p *instruction.Pos) {
		all = append(all, p)
		switch p.Keyword {
		case strings.ToLower(p.Keyword):
			lower++
		case strings.ToUpper(p.Keyword):
			upper++
		}
	}
	for _, s := range b.file.Stages {
		count(s.From.Pos)
		for _, in := range s.Body {
			count(in.At())
		}
	}
	for _, p := range all {
		if lower > upper && p.Keyword != strings.ToLower(p.Keyword) {
			b.lint.report(consistentCasing, p, "'%s' should be in lower case, like most instructions here", p.Keyword)
		} else if lower <= upper && p.Keyword != strings.ToUpper(p.Keyword) {
			b.lint.report(consistentCasing, p, "'%s' should be in upper case, like most instructions here", p.Keyword)
		}
	}
}

// lintBase checks the name of a base: the ARGs in it, and that it makes sense with their
// defaults, which are in plain.
func (b *build) lintBase(f *instruction.From, plain *env) {
	if b.lint == nil {
		return
	}
	if res, err := b.lex.ProcessWordWithMatches(f.Base, plain); err == nil && len(plain.keys) > 0 {
		if _, err := reference.ParseNormalizedNamed(res.Result); err != nil {
			b.lint.report(invalidDefaultInFrom, f.Pos, "the defaults of the ARGs in %s make %q, which is no image name", f.Base, res.Result)
		}
	}
	names := b.global.Keys()
	for _, a := range b.file.Global {
		names = append(slices.Clip(names), argNames(a)...)
	}
	for _, word := range []string{f.Base, f.Platform} {
		res, err := b.lex.ProcessWordWithMatches(word, &b.global)
		if err != nil {
			continue
		}
		b.reportUnknown(undefinedArgInFrom, f.Pos, res.Unmatched, names, "FROM argument '%s' is not declared")
	}
	if f.Platform == "" {
		return
	}
	res, err := b.lex.ProcessWordWithMatches(f.Platform, &b.global)
	if err != nil {
		return
	}
	if _, ok := res.Matched["TARGETPLATFORM"]; ok && len(res.Matched)+len(res.Unmatched) == 1 {
		if v, _ := b.global.Get("TARGETPLATFORM"); v == res.Result {
			b.lint.report(redundantPlatform, f.Pos, "%s is the default platform of FROM", f.Platform)
		}
	}
	p, err := platforms.Parse(res.Result)
	if len(res.Matched)+len(res.Unmatched) == 0 && err == nil &&
		!strings.Contains(f.Name, p.OS) && !strings.Contains(f.Name, p.Architecture) {
		b.lint.report(constPlatform, f.Pos, "FROM --platform is the constant %q", res.Result)
	}
}

// reportUnknown reports each variable that is none of the known ones.
func (b *build) reportUnknown(r rule, at *instruction.Pos, unknown map[string]struct{}, known []string, format string) {
	for _, name := range slices.Sorted(maps.Keys(unknown)) {
		if slices.Contains(known, name) || slices.Contains(nonEnvArgs, name) {
			continue
		}
		text := strings.ReplaceAll(format, "%s", name)
		if close := instruction.Closest(name, known); close != "" {
			text += " (did you mean " + close + "?)"
		}
		b.lint.report(r, at, "%s", text)
	}
}

// lintVars reports the variables in a word of the current instruction that a stage
// neither has nor declared.
func (b *build) lintVars(s *stage, unknown map[string]struct{}) {
	if b.lint == nil || len(unknown) == 0 || s.current == nil {
		return
	}
	known := slices.Clone(s.env.Keys())
	for _, a := range s.args {
		known = append(known, a.key)
	}
	b.reportUnknown(undefinedVar, s.current, unknown, known, "Usage of undefined variable '$%s'")
}

func (b *build) lintPlatform(s *stage, img *spec.DockerOCIImage, want ocispec.Platform) {
	if img.OS != want.OS || img.Architecture != want.Architecture {
		b.lint.report(invalidBasePlatform, &instruction.Pos{Ranges: s.at}, "%s is for %s, the build is for %s", s.base,
			platforms.FormatAll(platforms.Normalize(img.Platform)), platforms.FormatAll(platforms.Normalize(want)))
	}
}

var (
	secretName   = regexp.MustCompile(`(?i)(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)`)
	harmlessName = regexp.MustCompile(`(?i)(?:_|^)(?:public|file|version)(?:_|$)`)
)

func (b *build) lintSecret(at *instruction.Pos, keyword, name string) {
	if b.lint != nil && secretName.MatchString(name) && !harmlessName.MatchString(name) {
		b.lint.report(secretsInArgOrEnv, at, "%s %q looks like a secret", keyword, name)
	}
}

// once reports the instruction before if there was one in this stage: it has no effect.
func (b *build) once(before **instruction.Pos, at *instruction.Pos) {
	if *before != nil {
		b.lint.report(multipleInstructions, *before, "this %s has no effect, another one follows", strings.ToUpper(at.Keyword))
	}
	*before = at
}

func (b *build) lintShellForm(s *stage, at *instruction.Pos, line instruction.CommandLine) {
	if line.Shell && len(s.image.Config.Shell) == 0 {
		b.lint.report(jsonArgsRecommended, at, "%s should be in JSON form: %s", strings.ToUpper(at.Keyword), jsonArgsRecommended.why)
	}
}

func (b *build) lintPort(at *instruction.Pos, text string) {
	if _, proto, ok := strings.Cut(text, "/"); ok && proto != strings.ToLower(proto) {
		b.lint.report(exposeProtoCasing, at, "the protocol of %s should be in lower case", text)
	}
	if strings.Contains(text, ":") {
		b.lint.report(exposeInvalidFormat, at, "%s names an address or a port of the host", text)
	}
}

// lintIgnored reports a source in the context that the ignore file certainly excludes. If
// it has exceptions, that is hard to say.
func (b *build) lintIgnored(at *instruction.Pos, src string) {
	if b.lint == nil || b.loader.ignore == nil || b.loader.remote() {
		return
	}
	m, err := b.ignored()
	if err != nil || m == nil || m.Exclusions() {
		return
	}
	src = path.Clean(src)
	if src == "." || src == "/" {
		if !slices.ContainsFunc(b.loader.ignore.patterns, func(p string) bool { return p == "*" || p == "**" || p == "**/*" }) {
			return
		}
	}
	if ok, err := m.MatchesOrParentMatches(strings.TrimPrefix(src, "/")); err == nil && ok {
		b.lint.report(copyIgnoredFile, at, "%s copies %q, which %s excludes", strings.ToUpper(at.Keyword), src, b.loader.ignore.name)
	}
}

func (b *build) ignored() (*patternmatcher.PatternMatcher, error) {
	if b.matcher == nil && len(b.loader.ignore.patterns) > 0 {
		var err error
		if b.matcher, err = patternmatcher.New(b.loader.ignore.patterns); err != nil {
			return nil, err
		}
	}
	return b.matcher, nil
}
