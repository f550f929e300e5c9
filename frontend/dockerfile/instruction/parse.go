package instruction

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Parse reads a Dockerfile that includes nothing. The error of a bad one is a
// *parser.LocationError; its text begins "dockerfile parse error on line N:". With it comes
// what could be read before, if anything.
func Parse(data []byte) (*File, error) { return ParseFiles(&Source{Data: data}, Includes{}) }

// ParseFiles reads a Dockerfile and what it includes. The error of a bad one is like that of
// Parse; about a fragment it begins with the name of that.
func ParseFiles(main *Source, in Includes) (*File, error) {
	if len(main.Data) == 0 {
		return nil, errors.New("the Dockerfile cannot be empty")
	}
	r := &reader{File: &File{}, Includes: in, global: known{}, local: known{}}
	r.addSource(main)
	if err := r.read(main); err != nil {
		return r.File, err
	}
	if len(r.Stages) == 0 {
		at := []parser.Range{}
		if len(r.Global) > 0 {
			at = r.Global[len(r.Global)-1].Ranges
		}
		return r.File, parser.WithLocation(errors.New("dockerfile contains no stages to build"), at)
	}
	return r.File, nil
}

// read adds the instructions of a source to the file.
func (r *reader) read(src *Source) error {
	res, err := r.nodes(src)
	if err != nil {
		return src.located(syntaxError(src.Data, err))
	}
	if src.by == nil {
		r.Escape = res.EscapeToken
		if r.Dialect, err = DetectDialect(src.Data); err != nil {
			return err
		}
	}
	for _, w := range res.Warnings {
		if w.Location != nil {
			w.Location = &src.shift([]parser.Range{*w.Location})[0]
		}
		r.Warnings = append(r.Warnings, w)
	}
	r.stack = append(r.stack, src)
	defer func() { r.stack = r.stack[:len(r.stack)-1] }()
	for _, n := range res.AST.Children {
		if r.Dialect != Plain && strings.EqualFold(n.Value, "include") {
			before := len(r.stack)
			if err := r.include(src, n); err != nil {
				var at *parser.LocationError
				if errors.As(err, &at) || before != len(r.stack) {
					return err // it is about a line of the fragment
				}
				return src.located(parseError(err, n.Location()))
			}
			continue
		}
		in, err := fromNode(n, r.Escape, r.Dialect)
		if err == nil {
			in.At().Ranges = src.shift(in.At().Ranges)
			err = r.add(in)
		}
		if err != nil {
			return src.located(parseError(err, n.Location()))
		}
	}
	return nil
}

// add puts an instruction where it belongs.
func (r *reader) add(in Instruction) error {
	if r.Open != nil && r.Dialect != Plain {
		defer r.learn(in)
	}
	switch in := in.(type) {
	case *From:
		r.Stages = append(r.Stages, &Stage{From: in})
		return nil
	case *Arg:
		if len(r.Stages) == 0 {
			r.Global = append(r.Global, in)
			return nil
		}
	}
	if len(r.Stages) == 0 {
		return fmt.Errorf("%s must come after FROM: only ARG may stand before the first FROM", strings.ToUpper(in.At().Keyword))
	}
	last := r.Stages[len(r.Stages)-1]
	last.Body = append(last.Body, in)
	return nil
}

// ParseTrigger reads the text of an ONBUILD. The instruction is placed at ranges, the
// FROM that brought it in.
func ParseTrigger(text string, ranges []parser.Range) (Instruction, error) {
	res, err := parseNodes([]byte(text))
	if err != nil {
		return nil, parser.SetLocation(fmt.Errorf("onbuild trigger %q: %w", text, err), ranges)
	}
	if len(res.AST.Children) != 1 {
		return nil, parser.WithLocation(fmt.Errorf("onbuild trigger %q must be one instruction", text), ranges)
	}
	n := res.AST.Children[0]
	switch strings.ToLower(n.Value) {
	case "from", "onbuild", "maintainer":
		return nil, parser.WithLocation(fmt.Errorf("%s is not allowed as an ONBUILD trigger", strings.ToUpper(n.Value)), ranges)
	}
	parse, err := parserOf(n.Value, Plain)
	if err != nil {
		return nil, parser.SetLocation(fmt.Errorf("onbuild trigger %q: %w", text, err), ranges)
	}
	r := newRequest(n, res.EscapeToken, Plain)
	r.stored = true
	in, err := parse(r)
	if err != nil {
		return nil, parser.SetLocation(fmt.Errorf("onbuild trigger %q: %w", text, err), ranges)
	}
	in.At().Ranges = ranges
	return in, nil
}

// parseError names the line in the text and the ranges in the chain.
func parseError(err error, ranges []parser.Range) error {
	line := 0
	if len(ranges) > 0 {
		line = ranges[0].Start.Line
	}
	return parser.SetLocation(fmt.Errorf("dockerfile parse error on line %d: %w", line, err), ranges)
}

// A request is a node taken apart.
type request struct {
	*Pos
	name     string // the keyword in upper case
	args     []string
	flags    []string
	json     bool
	heredocs []parser.Heredoc
	escape   rune
	dialect  Dialect
	stored   bool // its text goes into the image
}

func fromNode(n *parser.Node, escape rune, dialect Dialect) (Instruction, error) {
	parse, err := parserOf(n.Value, dialect)
	if err != nil {
		return nil, err
	}
	return parse(newRequest(n, escape, dialect))
}

// parserOf finds what makes the instruction of a keyword.
func parserOf(keyword string, dialect Dialect) (func(*request) (Instruction, error), error) {
	parse, ok := parsers[strings.ToLower(keyword)]
	switch {
	case ok:
		return parse, nil
	case strings.EqualFold(keyword, "include") && dialect == Plain:
		return nil, fmt.Errorf("unknown instruction: %s: %s", keyword, needDialect)
	}
	return nil, Suggest(fmt.Errorf("unknown instruction: %s", keyword), keyword, keywords(keyword))
}

func newRequest(n *parser.Node, escape rune, dialect Dialect) *request {
	return &request{
		Pos: &Pos{
			Keyword:  n.Value,
			Source:   strings.TrimSpace(n.Original),
			Ranges:   n.Location(),
			Comments: n.PrevComment,
		},
		name:     strings.ToUpper(n.Value),
		args:     operands(n),
		flags:    n.Flags,
		json:     n.Attributes["json"],
		heredocs: n.Heredocs,
		escape:   escape,
		dialect:  dialect,
	}
}

// operands flattens the list behind a node; the operand of ONBUILD is a node of its own.
func operands(n *parser.Node) []string {
	args := []string{}
	for a := n.Next; a != nil; a = a.Next {
		if len(a.Children) == 1 {
			args = append(args, a.Children[0].Value)
			args = append(args, operands(a.Children[0])...)
		} else if len(a.Children) == 0 {
			args = append(args, a.Value)
		}
	}
	return args
}

// keywords lists the instructions in the case in which like is written.
func keywords(like string) []string {
	names := make([]string, 0, len(parsers))
	for name := range parsers {
		if like != strings.ToLower(like) {
			name = strings.ToUpper(name)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (r *request) one() (string, error) {
	if len(r.args) != 1 || r.args[0] == "" {
		return "", fmt.Errorf("%s requires exactly one argument", r.name)
	}
	return r.args[0], nil
}

func (r *request) some() error {
	if len(r.args) == 0 {
		return fmt.Errorf("%s requires at least one argument", r.name)
	}
	return nil
}

// noFlags is for instructions that have none.
func (r *request) noFlags() error { return parseFlags(r.flags) }

// commandLine is the operand in exec form if it was valid JSON, in shell form otherwise.
func (r *request) commandLine() CommandLine {
	if r.json {
		return CommandLine{Args: r.args}
	}
	if len(r.args) == 0 {
		return CommandLine{Args: []string{}, Shell: true}
	}
	return CommandLine{Args: []string{strings.Join(r.args, " ")}, Shell: true}
}

// doc is the comment above the instruction that describes name.
func (p *Pos) doc(name string) string {
	if name == "" {
		return ""
	}
	for _, line := range p.Comments {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			return text
		}
	}
	return ""
}
