package dockerfile

import (
	"strings"
	"unicode/utf8"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// wanted evaluates --when. What is not wanted makes no vertex and no history.
func (b *build) wanted(s *stage, t *instruction.Transfer) (bool, error) {
	if t.When == "" {
		return true, nil
	}
	v, err := b.expand(s, t.When)
	if err == nil && !truthy(v) {
		s.number++ // the steps after it keep their numbers
	}
	return truthy(v), err
}

// truthy says what --when takes for true: everything but nothing, 0, false, no and off.
func truthy(v string) bool {
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "", "0", "false", "no", "off":
		return false
	}
	return true
}

// followed is the path by which a source is asked of a client. Clients do not understand a
// wildcard in brackets.
func (b *build) followed(src string) string {
	if b.file.Dialect == instruction.Plain {
		return src
	}
	return strings.ReplaceAll(src, "[?]", `\?`)
}

// perhaps makes of a path a pattern that matches it alone: as every builder understands it,
// patterns may match nothing. The wildcard is in the first element, because what comes
// before one must be there.
func perhaps(p string) string {
	if hasWildcard(p) || p == "/" {
		return p
	}
	var out strings.Builder
	out.WriteByte('/')
	first, size := utf8.DecodeRuneInString(p[1:])
	out.WriteByte('[')
	writeEscaped(&out, first)
	out.WriteByte(']')
	for _, c := range p[1+size:] {
		writeEscaped(&out, c)
	}
	return out.String()
}

func writeEscaped(out *strings.Builder, c rune) {
	if strings.ContainsRune(`\*?[]^-`, c) {
		out.WriteByte('\\')
	}
	out.WriteRune(c)
}
