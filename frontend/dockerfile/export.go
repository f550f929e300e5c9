package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/internal/exportrecord"
)

// entries are what an EXPORT adds to the record. What only this stage knows, such as its
// working directory and its arguments, is put in now.
func (b *build) entries(s *stage, in *instruction.Export) ([]exportrecord.Entry, error) {
	if in.Diff {
		exclude, err := b.expandAll(s, in.Exclude)
		if len(exclude) == 0 {
			exclude = nil
		}
		return []exportrecord.Entry{{Kind: exportrecord.Diff, Base: s.startLayers, Exclude: exclude}}, err
	}
	if bare, err := b.exportNames(s, in); bare != nil || err != nil {
		return bare, err
	}
	switch what := in.What.(type) {
	case *instruction.Copy:
		return b.exportCopy(s, what)
	case *instruction.Env:
		return b.exportValues(s, exportrecord.Env, what.Vars)
	case *instruction.Label:
		return b.exportValues(s, exportrecord.Tag, what.Labels)
	case *instruction.Expose:
		var out []exportrecord.Entry
		ports, err := b.ports(s, what)
		for _, p := range ports {
			out = append(out, exportrecord.Entry{Kind: exportrecord.Expose, Value: p})
		}
		return out, err
	case *instruction.Volume:
		var out []exportrecord.Entry
		paths, err := b.expandAll(s, what.Paths)
		for i, p := range paths {
			if p == "" {
				return nil, fmt.Errorf("EXPORT VOLUME %s is empty", what.Paths[i])
			}
			out = append(out, exportrecord.Entry{Kind: exportrecord.Volume, Value: p})
		}
		return out, err
	case *instruction.Run:
		return b.exportRun(s, what)
	}
	return nil, errors.New("EXPORT requires a path or an instruction")
}

// freezer freezes words of a stage: its build arguments, unless a variable of that name
// hides them, are not for importers.
func (b *build) freezer(s *stage) *freezer {
	return &freezer{escape: b.file.Escape, lex: b.lex, arg: func(name string) (value string, set, declared bool) {
		if s.hasConfigEnv(name) {
			return "", false, false
		}
		declared = slices.ContainsFunc(s.args, func(a buildArg) bool { return a.key == name })
		if declared {
			value, set = s.env.Get(name)
		}
		return value, set, declared
	}}
}

// exportNames is EXPORT ENV with names only, if that is what it is: the values are those
// of now.
func (b *build) exportNames(s *stage, in *instruction.Export) ([]exportrecord.Entry, error) {
	if len(in.Names) == 0 {
		return nil, nil
	}
	var vars env
	vars.setAll(s.image.Config.Env)
	var out []exportrecord.Entry
	for _, name := range in.Names {
		v, ok := vars.Get(name)
		if ok {
			out = append(out, exportrecord.Entry{Kind: exportrecord.Env, Key: name, Value: frozenLiteral(v)})
			continue
		}
		if in.What != nil && (len(in.Names) == 2 || strings.ContainsAny(in.Names[1][:1], `"'`)) {
			return nil, nil // a name and its value
		}
		if _, _, declared := b.freezer(s).arg(name); declared {
			return nil, fmt.Errorf("EXPORT ENV: %s is a build argument, not a variable: write EXPORT ENV %s=$%s", name, name, name)
		}
		return nil, instruction.Suggest(fmt.Errorf("EXPORT ENV: %s is not set in this stage", name), name, vars.Keys())
	}
	return out, nil
}

func (b *build) exportCopy(s *stage, in *instruction.Copy) ([]exportrecord.Entry, error) {
	t := &transfer{Pos: in.Pos, Transfer: in.Transfer, keyword: "COPY"}
	if err := b.expandTransfer(s, t); err != nil {
		return nil, err
	}
	if !path.IsAbs(s.slashes(t.Dest)) {
		return nil, fmt.Errorf("EXPORT: destination must be absolute, not %q", t.Dest)
	}
	e := exportrecord.Entry{Kind: exportrecord.Copy, Dest: t.dest, Chown: t.Chown, Chmod: t.Chmod, Exclude: t.Exclude}
	if len(e.Exclude) == 0 {
		e.Exclude = nil
	}
	for _, src := range t.Sources {
		if isHTTP(src) {
			return nil, fmt.Errorf("EXPORT: %s is no file of this stage: ADD it first", src)
		}
		e.Sources = append(e.Sources, join(s.dir, s.slashes(src)))
	}
	return []exportrecord.Entry{e}, nil
}

func (b *build) exportValues(s *stage, kind exportrecord.Kind, in []instruction.KeyValue) ([]exportrecord.Entry, error) {
	f := b.freezer(s)
	var out []exportrecord.Entry
	for _, kv := range in {
		key, err := b.expand(s, kv.Key)
		if err != nil {
			return nil, err
		}
		if key == "" {
			return nil, fmt.Errorf("EXPORT: the name %s is empty", kv.Key)
		}
		value, err := f.word(kv.Value)
		if err != nil {
			return nil, err
		}
		if kind == exportrecord.Env {
			b.lintSecret(s.current, "EXPORT ENV", key)
		} else if err := checkLabel(key); err != nil {
			return nil, err
		}
		out = append(out, exportrecord.Entry{Kind: kind, Key: key, Value: value})
	}
	return out, nil
}

// checkLabel refuses the label that is ours to write.
func checkLabel(key string) error {
	if key == exportrecord.Label {
		return fmt.Errorf("the label %s cannot be set: EXPORT writes it", key)
	}
	return nil
}

func (b *build) exportRun(s *stage, in *instruction.Run) ([]exportrecord.Entry, error) {
	e := exportrecord.Entry{Kind: exportrecord.Run, Shell: in.Shell}
	if in.Network == "none" {
		e.Network = in.Network
	}
	var err error
	if e.Args, err = b.exportCommand(s, in); err != nil {
		return nil, err
	}
	for _, text := range in.Mounts {
		m, err := b.exportMount(s, text)
		if err != nil {
			return nil, err
		}
		e.Mounts = append(e.Mounts, m)
	}
	return []exportrecord.Entry{e}, nil
}

func (b *build) exportCommand(s *stage, in *instruction.Run) ([]string, error) {
	f := b.freezer(s)
	if !in.Shell {
		out := make([]string, len(in.Args))
		var err error
		for i, a := range in.Args {
			if out[i], err = f.plain(a); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	if len(in.Heredocs) > 0 && parser.MustParseHeredoc(in.Args[0]) != nil {
		doc := in.Heredocs[0]
		text := doc.Data
		if doc.Chomp {
			text = parser.ChompHeredocContent(text)
		}
		if strings.HasPrefix(text, "#!") {
			return []string{text}, nil // in a language that we do not know
		}
		text, err := f.script(text)
		return []string{text}, err
	}
	text, err := f.script(in.Args[0])
	if err != nil {
		return nil, err
	}
	for _, doc := range in.Heredocs {
		if doc.Expand {
			if doc.Data, err = f.document(doc.Data); err != nil {
				return nil, err
			}
		}
		text += "\n" + doc.Data + doc.Name
	}
	return []string{text}, nil
}

// exportMount is a mount with its variables expanded. A cache without a name is the one of
// its target, here as there.
func (b *build) exportMount(s *stage, text string) (string, error) {
	m, err := instruction.ParseMount(text, func(word string) (string, error) { return b.expand(s, word) })
	if err != nil {
		return "", err
	}
	if err := importableMount(m); err != nil {
		return "", err
	}
	if !path.IsAbs(m.Target) {
		return "", fmt.Errorf("EXPORT RUN: the target %q of a mount must be absolute: the working directory of importers is not known", m.Target)
	}
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return "", err
	}
	for i, f := range fields {
		if key, value, ok := strings.Cut(f, "="); ok {
			if value, err = b.expand(s, value); err != nil {
				return "", err
			}
			f = key + "=" + value
		}
		if strings.ContainsAny(f, "\",\n") {
			f = `"` + strings.ReplaceAll(f, `"`, `""`) + `"`
		}
		fields[i] = f
	}
	return strings.Join(fields, ","), nil
}

// importableMount refuses mounts of what importers do not have.
func importableMount(m *instruction.Mount) error {
	if m.Type != instruction.Cache && m.Type != instruction.Tmpfs {
		return fmt.Errorf("EXPORT RUN: mount type %q is not available to importers", m.Type)
	}
	if m.From != "" {
		return fmt.Errorf("EXPORT RUN: what a mount is from (%q) is not available to importers", m.From)
	}
	return nil
}

// ports expands the operands of EXPOSE.
func (b *build) ports(s *stage, in *instruction.Expose) ([]string, error) {
	var ports []string
	for _, p := range in.Ports {
		words, err := b.lex.ProcessWords(p, shell.EnvGetter(&s.env))
		if err != nil {
			return nil, err
		}
		for _, w := range words {
			b.lintPort(in.Pos, w)
			these, err := parsePorts(w)
			if err != nil {
				return nil, fmt.Errorf("EXPOSE %s: %w", w, err)
			}
			ports = append(ports, these...)
		}
	}
	return ports, nil
}
