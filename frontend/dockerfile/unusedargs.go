package dockerfile

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// builderArgs are build args to the builder itself, beside those that begin with BUILDKIT_.
var builderArgs = []string{
	epochArg, "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY",
}

// warnUnused tells of build args that no ARG declares, most often because their names are
// mistyped. An ARG of a stage that is not built counts, too: people give all targets the same.
func (b *build) warnUnused(ctx context.Context) {
	declared := slices.Clone(builderArgs)
	add := func(in instruction.Instruction) {
		if arg, ok := in.(*instruction.Arg); ok {
			for _, a := range arg.Args {
				declared = append(declared, a.Key)
			}
		}
	}
	for _, in := range b.file.Global {
		add(in)
	}
	for _, s := range b.file.Stages {
		for _, in := range s.Body {
			add(in)
		}
	}
	for _, s := range b.stages {
		for _, a := range s.args { // those of triggers are among them
			declared = append(declared, a.key)
		}
	}
	automatic := automaticArgs(b.platforms[0], b.target, "", nil)
	declared = append(declared, automatic.Keys()...)
	for _, name := range b.unusedArgs(declared) {
		text := fmt.Sprintf("Build argument %s is not used: no ARG declares it", name)
		if near := instruction.Closest(name, declared); near != "" {
			text += fmt.Sprintf(" (did you mean %s?)", near)
		}
		b.loader.bridge.Warn(ctx, frontend.Warning{Vertex: b.loader.vertex(), Level: 1, Short: text})
	}
}

// unusedArgs are the build args that are not declared. Case does not matter to those of
// proxies.
func (b *build) unusedArgs(declared []string) []string {
	var unused []string
	for name := range b.opts.buildArgs {
		if !strings.HasPrefix(name, "BUILDKIT_") && !slices.Contains(declared, name) &&
			!slices.Contains(builderArgs, strings.ToUpper(name)) {
			unused = append(unused, name)
		}
	}
	slices.Sort(unused)
	return unused
}
