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

// lintParsed checks what each instruction shows by itself. It is for files that could be
// parsed in part only, too.
func lintParsed(l *linter, file *instruction.File) {
	if l == nil || file == nil {
		return
	}
	for _, w := range file.Warnings { // the parser has no others
		if w.URL == noEmptyContinuation.url() && w.Location != nil {
			l.report(noEmptyContinuation, &instruction.Pos{Ranges: []parser.Range{*w.Location}})
		}
	}
	for _, a := range file.Global {
		lintDescription(l, a, "ARG", argNames(a))
	}
	for _, s := range file.Stages {
		lintFrom(l, s.From)
		for _, in := range s.Body {
			switch in := in.(type) {
			case *instruction.Maintainer:
				l.report(maintainerDeprecated, in.Pos)
			case *instruction.Arg:
				lintDescription(l, in, "ARG", argNames(in))
			}
		}
	}
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
	if first, _, _ := strings.Cut(comments[len(comments)-1], " "); slices.Contains(names, first) {
		return
	}
	example := names[0]
	if len(names) > 1 {
		example = "<arg_key>"
	}
	l.report(invalidDescription, in.At(), keyword, example)
}

func lintFrom(l *linter, f *instruction.From) {
	if f.Name == "" {
		return
	}
	lintDescription(l, f, "FROM", []string{f.Name})
	if f.Written != f.Name {
		l.report(stageNameCasing, f.Pos, f.Written)
	}
	lower, upper := strings.ToLower(f.Keyword) == f.Keyword, strings.ToUpper(f.Keyword) == f.Keyword
	if lower && strings.ToLower(f.As) != f.As || upper && strings.ToUpper(f.As) != f.As {
		l.report(fromAsCasing, f.Pos, f.As, f.Keyword)
	}
}

// lintFile checks what the instructions show together.
func (b *build) lintFile() {
	if b.lint == nil {
		return
	}
	lintParsed(b.lint, b.file)
	seen := map[string]bool{}
	for _, s := range b.file.Stages {
		f := s.From
		if f.Name == "" {
			continue
		}
		if f.Name == scratch || f.Name == contextLocal {
			b.lint.report(reservedStageName, f.Pos, f.Name)
		}
		if seen[f.Name] {
			b.lint.report(duplicateStageName, f.Pos, f.Name)
		}
		seen[f.Name] = true
	}
	b.lintCasing()
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
			b.lint.report(consistentCasing, p, p.Keyword, "lowercase")
		} else if lower <= upper && p.Keyword != strings.ToUpper(p.Keyword) {
			b.lint.report(consistentCasing, p, p.Keyword, "uppercase")
		}
	}
}

// lintBase checks the name of a base: the ARGs in it, and that it makes sense with their
// defaults, which are in plain.
func (b *build) lintBase(f *instruction.From, plain *env) {
	if b.lint == nil {
		return
	}
	if res, err := b.lex.ProcessWordWithMatches(f.Base, plain); err == nil && plain.live > 0 {
		if _, err := reference.ParseNormalizedNamed(res.Result); err != nil {
			b.lint.report(invalidDefaultInFrom, f.Pos, f.Base)
		}
	}
	known := func() []string {
		names := b.global.Keys()
		for _, a := range b.file.Global {
			names = append(names, argNames(a)...)
		}
		return names
	}
	isKnown := func(name string) bool { return slices.Contains(known(), name) }
	for _, word := range []string{f.Base, f.Platform} {
		res, err := b.lex.ProcessWordWithMatches(word, &b.global)
		if err != nil {
			continue
		}
		b.reportUnknown(undefinedArgInFrom, f.Pos, res.Unmatched, isKnown, known)
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
			b.lint.report(redundantPlatform, f.Pos, f.Platform)
		}
	}
	p, err := platforms.Parse(res.Result)
	if len(res.Matched)+len(res.Unmatched) == 0 && err == nil &&
		!strings.Contains(f.Name, p.OS) && !strings.Contains(f.Name, p.Architecture) {
		b.lint.report(constPlatform, f.Pos, res.Result)
	}
}

// maxCompared bounds the names that are compared for what else a variable may be: the file
// may have very many of both.
const maxCompared = 100_000

// reportUnknown reports each variable that is none of the known ones.
func (b *build) reportUnknown(r rule, at *instruction.Pos, unknown map[string]struct{}, isKnown func(string) bool, known func() []string) {
	for _, name := range slices.Sorted(maps.Keys(unknown)) {
		if isKnown(name) || slices.Contains(nonEnvArgs, name) {
			continue
		}
		guess := ""
		if b.compared < maxCompared {
			names := known()
			b.compared += len(names)
			guess = instruction.Closest(name, names)
		}
		switch {
		case guess == "":
		case r == undefinedVar:
			guess = " (did you mean $" + guess + "?)"
		default:
			guess = " (did you mean " + guess + "?)"
		}
		b.lint.reportMore(r, at, guess, name)
	}
}

// lintVars reports the variables in a word of the current instruction that a stage
// neither has nor declared.
func (b *build) lintVars(s *stage, unknown map[string]struct{}) {
	if b.lint == nil || len(unknown) == 0 || s.current == nil {
		return
	}
	isKnown := func(name string) bool {
		_, ok := s.env.Get(name)
		return ok || s.declares(name)
	}
	b.reportUnknown(undefinedVar, s.current, unknown, isKnown, func() []string {
		known := s.env.Keys()
		for _, a := range s.args {
			known = append(known, a.key)
		}
		return known
	})
}

// declares reports whether s has an argument of that name.
func (s *stage) declares(name string) bool {
	if s.declared == nil {
		s.declared = map[string]bool{}
	}
	for ; s.noted < len(s.args); s.noted++ {
		s.declared[s.args[s.noted].key] = true
	}
	return s.declared[name]
}

func (b *build) lintPlatform(s *stage, img *spec.DockerOCIImage, want ocispec.Platform) {
	if img.OS != want.OS || img.Architecture != want.Architecture {
		b.lint.report(invalidBasePlatform, &instruction.Pos{Ranges: s.at}, s.base,
			platforms.FormatAll(platforms.Normalize(img.Platform)), platforms.FormatAll(platforms.Normalize(want)))
	}
}

var (
	secretName   = regexp.MustCompile(`(?i)(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)`)
	harmlessName = regexp.MustCompile(`(?i)(?:_|^)(?:public|file|version)(?:_|$)`)
)

func (b *build) lintSecret(at *instruction.Pos, keyword, name string) {
	if b.lint != nil && secretName.MatchString(name) && !harmlessName.MatchString(name) {
		b.lint.report(secretsInArgOrEnv, at, keyword, name)
	}
}

// once reports the instruction before if there was one in this stage: it has no effect.
func (b *build) once(before **instruction.Pos, at *instruction.Pos) {
	if *before != nil {
		b.lint.report(multipleInstructions, *before, strings.ToUpper(at.Keyword))
	}
	*before = at
}

func (b *build) lintShellForm(s *stage, at *instruction.Pos, line instruction.CommandLine) {
	if line.Shell && len(s.image.Config.Shell) == 0 {
		b.lint.report(jsonArgsRecommended, at, strings.ToUpper(at.Keyword))
	}
}

func (b *build) lintPort(at *instruction.Pos, text string) {
	if _, proto, ok := strings.Cut(text, "/"); ok && proto != strings.ToLower(proto) {
		b.lint.report(exposeProtoCasing, at, text)
	}
	if strings.Contains(text, ":") {
		b.lint.report(exposeInvalidFormat, at, text)
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
		if !slices.ContainsFunc(b.loader.ignore.Patterns(), func(p string) bool { return p == "*" || p == "**" || p == "**/*" }) {
			return
		}
	}
	if ok, err := m.MatchesOrParentMatches(strings.TrimPrefix(src, "/")); err == nil && ok {
		keyword := strings.ToLower(at.Keyword)
		b.lint.report(copyIgnoredFile, at, strings.ToUpper(keyword[:1])+keyword[1:], src)
	}
}

func (b *build) ignored() (*patternmatcher.PatternMatcher, error) {
	if b.matcher == nil && len(b.loader.ignore.Patterns()) > 0 {
		var err error
		if b.matcher, err = patternmatcher.New(b.loader.ignore.Patterns()); err != nil {
			return nil, err
		}
	}
	return b.matcher, nil
}
