package instruction

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
)

// DefaultGroup is the group of exports that name none.
const DefaultGroup = "default"

// Export records something for stages and images that import this one. What is one of
// *Copy, *Env, *Label, *Expose, *Volume, *Run, or nil for Names, Diff and None.
type Export struct {
	*Pos
	Group string
	What  Instruction
	// Names are words behind ENV without an equals sign: variables of the stage, or else a
	// name and the value that is in What.
	Names   []string
	Diff    bool     // all that the stage changes
	Exclude []string // of Diff
	None    bool     // forget what was exported
}

var exportGroup = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

var (
	exportKinds = []string{"COPY", "DIFF", "ENV", "EXPOSE", "LABEL", "NONE", "RUN", "VOLUME"}
	// What defines one image cannot be put together from several.
	notExported = []string{
		"ADD", "ARG", "CMD", "ENTRYPOINT", "EXPORT", "FROM", "HEALTHCHECK", "IMPORT", "MAINTAINER",
		"ONBUILD", "SHELL", "STOPSIGNAL", "USER", "WORKDIR",
	}
)

func parseExport(r *request) (Instruction, error) {
	text, err := r.operand()
	if err != nil {
		return nil, err
	}
	as := &flag{name: "as"}
	// Other flags are those of the copy that is meant without its keyword.
	isAs := func(f string) bool { return f == "--as" || strings.HasPrefix(f, "--as=") }
	rest := slices.DeleteFunc(slices.Clone(r.flags), isAs)
	if err := parseFlags(slices.DeleteFunc(slices.Clone(r.flags), func(f string) bool { return !isAs(f) }), as); err != nil {
		return nil, err
	}
	in := &Export{Pos: r.Pos, Group: DefaultGroup}
	if as.set {
		if in.Group = as.value; !exportGroup.MatchString(in.Group) {
			return nil, fmt.Errorf("invalid export group %q: a group is of lower-case letters, digits, '.', '_' and '-'", as.value)
		}
	}
	word, behind := cutWord(text)
	kind := strings.ToUpper(word)
	switch {
	case slices.Contains(notExported, kind):
		return nil, fmt.Errorf("EXPORT: %s cannot be exported", kind)
	case !slices.Contains(exportKinds, kind):
		kind, behind = "COPY", text
		if len(rest) > 0 {
			behind = quoteFlags(rest, r.escape) + behind
		}
	case len(rest) > 0:
		return nil, fmt.Errorf("EXPORT: %s stands before %s: only --as does, other flags come behind it", rest[0], kind)
	}
	if strings.Contains(behind, "--as") {
		if op, err := r.reparse("MAINTAINER " + behind); err == nil && slices.ContainsFunc(op.flags, isAs) {
			return nil, fmt.Errorf("EXPORT: --as stands before %s", kind)
		}
	}
	if err := in.set(r, kind, behind); err != nil {
		return nil, err
	}
	return in, nil
}

// set reads what is exported.
func (in *Export) set(r *request, kind, text string) error {
	if kind != "RUN" && len(heredocsOf(text)) > 0 {
		return errors.New("EXPORT: a heredoc is for EXPORT RUN only")
	}
	if kind == "ENV" && !strings.Contains(firstWord(text), "=") {
		if in.Names = strings.Fields(text); len(in.Names) <= 1 {
			if len(in.Names) == 0 {
				return errors.New("EXPORT ENV requires a variable")
			}
			return nil
		}
	}
	keyword := kind
	if kind == "NONE" || kind == "DIFF" {
		keyword = "COPY" // to have its operands
	}
	inner, err := r.reparse(keyword + " " + text)
	if err != nil {
		return err
	}
	inner.name = "EXPORT " + kind
	switch kind {
	case "NONE":
		in.None = true
		if len(inner.args)+len(inner.flags) > 0 {
			return errors.New("EXPORT NONE takes no arguments")
		}
		return nil
	case "DIFF":
		exclude := &flag{name: "exclude", kind: repeated}
		if len(inner.args) > 0 {
			return errors.New("EXPORT DIFF takes no paths: it is all that the stage changes")
		}
		err := parseFlags(inner.flags, exclude)
		in.Diff, in.Exclude = true, exclude.values
		return err
	case "COPY":
		in.What, err = parseExportCopy(inner, firstWord(text))
	case "ENV":
		in.What, err = parseEnv(inner)
	case "LABEL":
		in.What, err = parseLabel(inner)
	case "EXPOSE":
		in.What, err = parseExpose(inner)
	case "VOLUME":
		in.What, err = parseVolume(inner)
	case "RUN":
		in.What, err = parseExportRun(inner)
	}
	return err
}

func parseExportCopy(r *request, first string) (Instruction, error) {
	chown, chmod := &flag{name: "chown"}, &flag{name: "chmod"}
	exclude := &flag{name: "exclude", kind: repeated}
	if err := parseFlags(r.flags, chown, chmod, exclude); err != nil {
		return nil, err
	}
	switch len(r.args) {
	case 0:
		return nil, errors.New("EXPORT requires a path, or one of " + strings.Join(exportKinds, ", "))
	case 1:
		p := r.args[0]
		if !strings.HasPrefix(p, "$") && !isAbsolute(p) {
			return nil, Suggest(fmt.Errorf("EXPORT: destination must be absolute, and it is the same as the path %q if there is no other", p), strings.ToUpper(p), exportKinds)
		}
		if strings.ContainsAny(p, "*?[") {
			return nil, fmt.Errorf("EXPORT: the pattern %q needs a destination", p)
		}
		r.args = append(r.args, p)
	}
	t, err := r.transfer()
	if err != nil {
		return nil, err
	}
	if len(t.Documents) > 0 {
		return nil, errors.New("EXPORT: a heredoc is for EXPORT RUN only")
	}
	if !strings.HasPrefix(t.Dest, "$") && !isAbsolute(t.Dest) {
		return nil, Suggest(fmt.Errorf("EXPORT: destination must be absolute, not %q", t.Dest), strings.ToUpper(first), exportKinds)
	}
	t.Chown, t.Chmod, t.Exclude = chown.value, chmod.value, exclude.values
	return &Copy{Pos: r.Pos, Transfer: t}, nil
}

// isAbsolute is for Linux and, with a drive, for Windows.
func isAbsolute(p string) bool {
	p = strings.Trim(p, `"'`)
	return path.IsAbs(p) || strings.HasPrefix(p, `\`) || len(p) > 2 && p[1] == ':' && (p[2] == '\\' || p[2] == '/')
}

// parseExportRun refuses what an importer would not have.
func parseExportRun(r *request) (Instruction, error) {
	for _, f := range r.flags {
		name, value, _ := strings.Cut(strings.TrimPrefix(f, "--"), "=")
		switch name {
		case "mount":
			if err := checkExportMount(value); err != nil {
				return nil, err
			}
		case "network":
			if value == "host" {
				return nil, errors.New("EXPORT RUN: the network of the host is not available to importers")
			}
		case "security", "device":
			return nil, fmt.Errorf("EXPORT RUN: --%s is not available to importers", name)
		}
	}
	return parseRun(r)
}

func checkExportMount(text string) error {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return fmt.Errorf("--mount=%s is not a valid list: %w", text, err)
	}
	kind := string(Bind)
	for _, f := range fields {
		switch key, value, _ := strings.Cut(f, "="); strings.ToLower(key) {
		case "type":
			kind = strings.ToLower(value)
		case "from":
			return fmt.Errorf("EXPORT RUN: what a mount is from (%q) is not available to importers", value)
		}
	}
	if strings.Contains(kind, "$") {
		return nil // seen when it is expanded
	}
	if !slices.Contains(mountTypes, kind) {
		return Suggest(fmt.Errorf("unsupported mount type %q", kind), kind, []string{string(Cache), string(Tmpfs)})
	}
	if kind != string(Cache) && kind != string(Tmpfs) {
		return fmt.Errorf("EXPORT RUN: mount type %q is not available to importers", kind)
	}
	return nil
}

// cutWord cuts the first word off.
func cutWord(text string) (word, rest string) {
	word = firstWord(text)
	return word, strings.TrimLeft(text[len(word):], " \t\v\f\r")
}

func firstWord(text string) string {
	if i := strings.IndexAny(text, " \t\v\f\r"); i >= 0 {
		return text[:i]
	}
	return text
}

// quoteFlags writes flags so that they are read as they are.
func quoteFlags(flags []string, escape rune) string {
	var b strings.Builder
	for _, f := range flags {
		b.WriteString("--\"")
		for _, c := range f[len("--"):] {
			if c == '"' || c == escape {
				b.WriteRune(escape)
			}
			b.WriteRune(c)
		}
		b.WriteString("\" ")
	}
	return b.String()
}
