package instruction

import (
	"errors"
	"strings"
)

// optional reads what makes sources optional: a flag for all, a final "?" for one. It must
// be the last character as written: not quoted, and not behind an escape, with which it is
// the wildcard that it is elsewhere.
func (r *request) optional(t *Transfer, ifExists, when *flag) error {
	if when.set && when.value == "" {
		return errors.New("--when needs a value, such as --when=$DEBUG")
	}
	t.When = when.value
	if r.dialect == Plain {
		return nil
	}
	mark := func(i int) {
		if t.Optional == nil {
			t.Optional = make([]bool, len(t.Sources))
		}
		t.Optional[i] = true
	}
	for i, src := range t.Sources {
		if ifExists.on {
			mark(i)
		}
		if name, ok := r.questioned(src); ok {
			if name == "" {
				return errors.New("a source that is only \"?\" names nothing: write [?] for a file of that name, \\? for any of one character")
			}
			t.Sources[i] = name
			mark(i)
		}
	}
	return nil
}

// questioned takes the mark of an optional source away.
func (r *request) questioned(src string) (string, bool) {
	name, ok := strings.CutSuffix(src, "?")
	if !ok || isURL(src) {
		return src, false
	}
	escapes := len(name) - len(strings.TrimRight(name, string(r.escape)))
	return name, escapes%2 == 0
}

func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }
