package instruction

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Parse reads a Dockerfile. The error of a bad one is a *parser.LocationError; its text
// begins "dockerfile parse error on line N:". With it comes what could be read before, if
// anything.
func Parse(data []byte) (*File, error) {
	if len(data) == 0 {
		return nil, errors.New("the Dockerfile cannot be empty")
	}
	res, err := parseNodes(data)
	if err != nil {
		return nil, syntaxError(data, err)
	}
	f := &File{Escape: res.EscapeToken, Warnings: res.Warnings}
	if f.Dialect, err = DetectDialect(data); err != nil {
		return nil, err
	}
	for _, n := range res.AST.Children {
		in, err := fromNode(n, f.Escape, f.Dialect)
		if err != nil {
			return f, parseError(err, n.Location())
		}
		switch in := in.(type) {
		case *From:
			f.Stages = append(f.Stages, &Stage{From: in})
			continue
		case *Arg:
			if len(f.Stages) == 0 {
				f.Global = append(f.Global, in)
				continue
			}
		}
		if len(f.Stages) == 0 {
			return f, parseError(fmt.Errorf("%s must come after FROM: only ARG may stand before the first FROM",
				strings.ToUpper(n.Value)), n.Location())
		}
		last := f.Stages[len(f.Stages)-1]
		last.Body = append(last.Body, in)
	}
	if len(f.Stages) == 0 {
		last := res.AST.Children[len(res.AST.Children)-1]
		return f, parser.WithLocation(errors.New("dockerfile contains no stages to build"), last.Location())
	}
	return f, nil
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
