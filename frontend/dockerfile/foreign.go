package dockerfile

import (
	"context"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// parse reads the Dockerfile. One that declares the syntax of docker/dockerfile has no
// instructions that only we know: elsewhere that frontend would refuse them.
func (l *loader) parse(ctx context.Context) (*instruction.File, error) {
	l.declared = l.declaredSyntax()
	main := &instruction.Source{Name: l.filename, Data: l.data, Origin: l.mainOrigin()}
	file, err := instruction.ParseFiles(main, instruction.Includes{Open: l.opener(ctx, main), Args: l.opts.buildArgs})
	l.file = file
	if err != nil {
		return file, err
	}
	for _, s := range file.Stages {
		for _, in := range s.Body {
			if err := l.foreign(in); err != nil {
				return file, parser.WithLocation(fmt.Errorf("dockerfile parse error on line %s: %w", l.spot(in.At().Ranges).line(), err), in.At().Ranges)
			}
		}
	}
	return file, nil
}

// foreign is the error of an instruction that is not in the syntax that was declared.
func (l *loader) foreign(in instruction.Instruction) error {
	if l.declared == "" {
		return nil
	}
	word := in.At().Keyword
	switch in := in.(type) {
	case *instruction.Import, *instruction.Export:
	case *instruction.OnBuild:
		if word, _, _ = strings.Cut(in.Trigger, " "); !strings.EqualFold(word, "import") && !strings.EqualFold(word, "export") {
			return nil
		}
	default:
		return nil
	}
	return fmt.Errorf("unknown instruction: %s: it is dbuild's and not in the syntax %s: to build with dbuild, remove the syntax line or change it", word, l.declared)
}

// declaredSyntax is the syntax of docker/dockerfile that the user or the file asks for, or "".
func (l *loader) declaredSyntax() string {
	source := ""
	if v, ok := l.opts.raw["cmdline"]; ok {
		source = v
	} else if v, ok := l.opts.raw[optSyntax]; ok {
		source = v
	} else {
		source, _, _, _ = parser.DetectSyntax(l.data)
	}
	source, _, _ = strings.Cut(strings.TrimSpace(source), " ")
	if source == "dockerfile.v0" || !Builtin(source) {
		return ""
	}
	return source
}
