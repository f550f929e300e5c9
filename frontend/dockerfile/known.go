package dockerfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// A knowledge is what the variables of a stage hold as far as the Dockerfile and the build
// args say, before any base is resolved. A variable whose value depends on a base is in
// open: it has one, but nobody knows it yet.
type knowledge struct {
	own    env
	open   map[string]bool
	global *env // what is not set in the stage has the value of the global scope
}

// Get implements the lexer's EnvGetter.
func (k *knowledge) Get(key string) (string, bool) {
	if k.open[key] {
		return "", false
	}
	if v, ok := k.own.Get(key); ok {
		return v, ok
	}
	return k.global.Get(key)
}

// Keys implements the lexer's EnvGetter.
func (k *knowledge) Keys() []string {
	return slices.DeleteFunc(slices.Concat(k.own.Keys(), k.global.Keys()), func(key string) bool { return k.open[key] })
}

func (k *knowledge) set(key, value string) {
	delete(k.open, key)
	k.own.set(key, value)
}

func (k *knowledge) forget(key string) {
	k.own.unset(key)
	k.open[key] = true
}

// knowledge is what is known at the beginning of a stage: what its base, if that is a stage
// too, knew at its end.
func (b *build) knowledge(s *stage) *knowledge {
	if p := s.parent; p != nil && p.context == nil && p.known != nil {
		return &knowledge{own: p.known.own, open: maps.Clone(p.known.open), global: &b.global}
	}
	return &knowledge{open: map[string]bool{}, global: &b.global}
}

// learn adds what an instruction says of variables, as lowering it will.
func (b *build) learn(k *knowledge, in instruction.Instruction) {
	switch in := in.(type) {
	case *instruction.Arg:
		for _, a := range in.Args {
			given, isGiven := b.args[a.Key]
			inherited, isGlobal := b.global.Get(a.Key)
			switch {
			case isGiven:
				k.set(a.Key, given)
			case a.Default != nil:
				b.assign(k, a.Key, *a.Default)
			case isGlobal:
				k.set(a.Key, inherited)
			}
		}
	case *instruction.Env:
		type pair struct {
			key, value string
			known      bool
		}
		var all []pair
		for _, kv := range in.Vars {
			key, ok := b.value(k, kv.Key)
			if !ok {
				continue
			}
			value, known := b.value(k, kv.Value)
			all = append(all, pair{key, value, known})
		}
		for _, a := range all { // none saw the others
			if a.known {
				k.set(a.key, a.value)
			} else {
				k.forget(a.key)
			}
		}
	}
}

func (b *build) assign(k *knowledge, key, word string) {
	if v, ok := b.value(k, word); ok {
		k.set(key, v)
	} else {
		k.forget(key)
	}
}

// value expands a word if all its variables are known.
func (b *build) value(k *knowledge, word string) (string, bool) {
	v, unknown, err := b.lex.ProcessWord(word, k)
	return v, err == nil && len(k.missing(word, unknown)) == 0
}

// missing are the variables among unknown, those of word without a value, that it says no
// default for. The base may have one that is open.
func (k *knowledge) missing(word string, unknown map[string]struct{}) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(unknown)), func(name string) bool {
		if k.open[name] {
			return false
		}
		_, rest, _ := strings.Cut(word, "${"+name)
		rest = strings.TrimPrefix(rest, ":")
		return strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+")
	})
}

// expandFrom expands what COPY --from or a mount's from names, so that the stages can be
// planned with it.
func (b *build) expandFrom(k *knowledge, what, word string) (string, error) {
	if k == nil || !strings.ContainsRune(word, '$') {
		return word, nil
	}
	lex := shell.NewLex(b.file.Escape)
	v, unknown, err := lex.ProcessWord(word, k)
	if err != nil {
		return "", fmt.Errorf("%s=%s: %w", what, word, err)
	}
	if names := k.missing(word, unknown); len(names) > 0 {
		name := names[0]
		if k.open[name] {
			return "", fmt.Errorf("%s=%s: what $%s holds depends on the base image, but which stages there are to build must be known before", what, word, name)
		}
		return "", instruction.Suggest(fmt.Errorf("%s=%s: no ARG or ENV above this line, in this stage or before the first FROM, sets $%s", what, word, name), name, k.Keys())
	}
	if v == "" {
		return "", fmt.Errorf("%s=%s comes to nothing: give it the name of a stage or an image", what, word)
	}
	return v, nil
}
