package instruction

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// A Dialect is a version of the extensions that a Dockerfile turns on with the parser
// directive "# dbuild=1", or by naming our frontend in "# syntax=". The zero Dialect is the
// plain language, in which every builder reads the file alike. See docs/dbuild-syntax.md.
type Dialect int

// The dialects.
const (
	Plain Dialect = iota
	Dialect1
)

// directive is how the parser recognizes the directives at the head of a Dockerfile.
var directive = regexp.MustCompile(`^#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$`)

const dialectDirective = "dbuild"

// DetectDialect finds the dialect of a Dockerfile. The errors are about the directive.
func DetectDialect(data []byte) (Dialect, error) {
	head := bytes.TrimPrefix(data, []byte("\uFEFF"))
	version, line, at := "", 0, 0
	for text := range bytes.Lines(head) {
		line++
		text = bytes.TrimLeft(text, " \t")
		if line == 1 && bytes.HasPrefix(text, []byte("#!")) {
			continue
		}
		m := directive.FindSubmatch(bytes.TrimRight(text, "\r\n"))
		if m == nil {
			break
		}
		name := strings.ToLower(string(m[1]))
		switch known := slices.Contains([]string{"syntax", "escape", "check"}, name); {
		case name == dialectDirective && at > 0:
			return Plain, atLine(line, errors.New("only one dbuild parser directive can be used"))
		case name == dialectDirective:
			version, at = string(m[2]), line
		case known && at > 0:
			// Other builders take what follows a directive that they do not know for a comment.
			return Plain, atLine(line, fmt.Errorf("# %s must stand before # dbuild=%s: behind it, other builders would not see it", name, version))
		case !known:
			goto end
		}
	}
end:
	switch {
	case version == "1":
		return Dialect1, nil
	case at > 0:
		return Plain, atLine(at, fmt.Errorf("unknown version %q of the dbuild language: there is only 1, as in # dbuild=1", version))
	}
	if ref, _, _, ok := parser.DetectSyntax(data); ok && ownFrontend(ref) {
		return Dialect1, nil
	}
	return Plain, nil
}

// ownFrontend reports whether a reference is to an image of our frontend: one in whose name,
// without the path before it, there is "dbuild".
func ownFrontend(ref string) bool {
	ref, _, _ = strings.Cut(ref, "@")
	name := ref[strings.LastIndexByte(ref, '/')+1:]
	name, _, _ = strings.Cut(name, ":")
	return strings.Contains(name, dialectDirective)
}

// needDialect is the end of an error about something that only the dialect has.
const needDialect = `it is one of dbuild's extensions, which "# dbuild=1" at the head of the Dockerfile turns on`

// parseFlags reads the flags of an instruction that knows plain ones and, in the dialect, more.
func (r *request) parseFlags(plain []*flag, more ...*flag) error {
	if r.dialect != Plain {
		return parseFlags(r.flags, slices.Concat(plain, more)...)
	}
	for _, arg := range r.flags {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if slices.ContainsFunc(more, func(f *flag) bool { return f.name == name }) {
			if r.stored {
				return fmt.Errorf("unknown flag: --%s: it is one of dbuild's extensions, which an instruction whose text goes into an image cannot have", name)
			}
			return fmt.Errorf("unknown flag: --%s: %s", name, needDialect)
		}
	}
	return parseFlags(r.flags, plain...)
}
