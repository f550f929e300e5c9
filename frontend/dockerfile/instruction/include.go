package instruction

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Bounds of what may be included.
const (
	maxDepth     = 32
	maxFragments = 1000
	maxBytes     = 16 << 20 // of all sources, each counted as often as it is included
)

// An Opener finds a fragment that a source includes, by its path as written but with
// variables expanded. The same fragment is always the same Source.
type Opener func(from *Source, path, checksum string) (*Source, error)

// Includes is what reading a Dockerfile in several files takes.
type Includes struct {
	Open Opener
	Args map[string]string // build args, for the paths
}

// a reader reads the sources of a Dockerfile.
type reader struct {
	*File
	Includes
	stack  []*Source // being read, the Dockerfile first
	count  int       // of fragments
	bytes  int
	global known
	local  known // of the stage
}

// known are the ARGs that have a value before anything is built.
type known map[string]string

// Get implements the lexer's EnvGetter.
func (k known) Get(key string) (string, bool) { v, ok := k[key]; return v, ok }

// Keys implements the lexer's EnvGetter.
func (k known) Keys() []string { return slices.Sorted(maps.Keys(k)) }

// include reads the instructions of a fragment as if they stood here.
func (r *reader) include(src *Source, n *parser.Node) error {
	if r.Open == nil {
		return errors.New("not implemented: INCLUDE in this place")
	}
	req := newRequest(n, r.Escape, r.Dialect)
	checksum := &flag{name: "checksum"}
	if err := parseFlags(req.flags, checksum); err != nil {
		return err
	}
	word, err := req.operand()
	if err != nil {
		return err
	}
	if word == "" {
		return errors.New("INCLUDE requires exactly one argument: a path, NAME:PATH of a named context, or a URL")
	}
	path, err := r.expand(word)
	if err != nil {
		return err
	}
	sum, err := r.expand(checksum.value)
	if err != nil {
		return err
	}
	if len(r.stack) > maxDepth {
		return fmt.Errorf("INCLUDE %s: fragments include each other more than %d deep", path, maxDepth)
	}
	if r.count++; r.count > maxFragments {
		return fmt.Errorf("INCLUDE %s: this would be more than %d fragments", path, maxFragments)
	}
	part, err := r.Open(src, path, sum)
	if err != nil {
		return fmt.Errorf("INCLUDE %s: %w", path, err)
	}
	if i := slices.Index(r.stack, part); i >= 0 {
		var names []string
		for _, s := range append(slices.Clone(r.stack[i:]), part) {
			names = append(names, s.Name)
		}
		return fmt.Errorf("INCLUDE %s: it includes itself: %s", path, strings.Join(names, " -> "))
	}
	if part.by == nil {
		part.by, part.line = src, n.StartLine
		r.addSource(part)
	}
	return r.read(part)
}

// expand replaces the variables in the operand of an INCLUDE.
func (r *reader) expand(word string) (string, error) {
	all := maps.Clone(r.global)
	maps.Copy(all, r.local)
	lex := shell.NewLex(r.Escape)
	v, unknown, err := lex.ProcessWord(word, all)
	if err != nil {
		return "", fmt.Errorf("INCLUDE %s: %w", word, err)
	}
	for _, name := range slices.Sorted(maps.Keys(unknown)) {
		if strings.Contains(word, "${"+name+":-") || strings.Contains(word, "${"+name+"-") {
			continue
		}
		err := fmt.Errorf("INCLUDE %s: no ARG above this line gives $%s a value", word, name)
		if automatic(name) {
			return "", fmt.Errorf("%w: those of the platforms have none yet, because the Dockerfile is read once for all of them", err)
		}
		return "", Suggest(err, name, all.Keys())
	}
	return v, nil
}

func automatic(name string) bool {
	for _, prefix := range []string{"TARGET", "BUILD", "DOCKER"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// learn keeps the values of ARGs for the paths that follow.
func (r *reader) learn(in Instruction) {
	switch in := in.(type) {
	case *From:
		r.local = known{}
	case *Arg:
		scope := r.global
		if len(r.Stages) > 0 {
			scope = r.local
		}
		for _, a := range in.Args {
			given, isGiven := r.Args[a.Key]
			outer, isGlobal := r.global[a.Key]
			switch {
			case isGiven:
				scope[a.Key] = given
			case a.Default != nil:
				if v, err := r.expand(*a.Default); err == nil {
					scope[a.Key] = v
				} else {
					delete(scope, a.Key)
				}
			case isGlobal && len(r.Stages) > 0:
				scope[a.Key] = outer
			}
		}
	}
}

// nodes reads those of a source. A fragment has the escape character of the Dockerfile,
// and may say so, and may be empty.
func (r *reader) nodes(src *Source) (*parser.Result, error) {
	if src.by == nil {
		return parseNodes(src.Data)
	}
	if r.bytes += len(src.Data); r.bytes > maxBytes {
		return nil, fmt.Errorf("all fragments together exceed the maximum of %d bytes", maxBytes)
	}
	if _, err := DetectDialect(src.Data); err != nil {
		return nil, err
	}
	if blank(src.Data) {
		return &parser.Result{AST: &parser.Node{}}, nil
	}
	data, added := src.Data, 0
	v, _, at, ok := parser.ParseDirective("escape", data)
	switch {
	case ok && v != string(r.Escape):
		return nil, parseError(fmt.Errorf("the escape character of a fragment must be that of the Dockerfile, %c", r.Escape), at)
	case !ok && r.Escape != parser.DefaultEscapeToken:
		data, added = slices.Concat([]byte("# escape="+string(r.Escape)+"\n"), bytes.TrimPrefix(data, []byte("\uFEFF"))), 1
	}
	res, err := parseNodes(data)
	if added == 0 {
		return res, err
	}
	var bad *parser.LocationError
	if errors.As(err, &bad) {
		for _, ranges := range bad.Locations {
			for i := range ranges {
				ranges[i].Start.Line, ranges[i].End.Line = ranges[i].Start.Line-added, ranges[i].End.Line-added
			}
		}
	}
	if err != nil {
		return nil, err
	}
	for _, n := range res.AST.Children {
		n.StartLine, n.EndLine = n.StartLine-added, n.EndLine-added
	}
	for i := range res.Warnings {
		if w := res.Warnings[i].Location; w != nil {
			w.Start.Line, w.End.Line = w.Start.Line-added, w.End.Line-added
		}
	}
	return res, nil
}

// blank reports whether there is no instruction.
func blank(data []byte) bool {
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("\uFEFF"))); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}
