package dockerfile

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// A freezer takes what a stage knows out of a word: quotes are resolved and build
// arguments replaced by their values. Other variables stay, for whoever imports the word.
// In a frozen word a dollar sign begins a variable and a backslash takes the meaning of the
// next character away; nothing else is special. See thaw.
type freezer struct {
	escape rune
	// arg is the value of a build argument; declared says that it is one.
	arg func(name string) (value string, set, declared bool)
	lex *shell.Lex // for the patterns of substitutions
}

// word freezes a word.
func (f *freezer) word(text string) (string, error) {
	w := &frozen{freezer: f, in: []rune(text)}
	err := w.until(0)
	if err != nil {
		return "", fmt.Errorf("%q: %w", text, err)
	}
	return w.out.String(), nil
}

// thaw expands a frozen word.
func thaw(text string, vars shell.EnvGetter) (string, error) {
	if !strings.ContainsAny(text, `$\`) {
		return text, nil
	}
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	v, _, err := lex.ProcessWord(text, vars)
	return v, err
}

// frozenLiteral is a frozen word that means text.
func frozenLiteral(text string) string {
	return strings.NewReplacer(`\`, `\\`, `$`, `\$`).Replace(text)
}

// A frozen is a word that is being frozen.
type frozen struct {
	*freezer
	in     []rune
	pos    int
	braces int // how many substitutions are open
	out    strings.Builder
}

func (w *frozen) peek() rune {
	if w.pos < len(w.in) {
		return w.in[w.pos]
	}
	return -1
}

func (w *frozen) next() rune {
	c := w.peek()
	w.pos++
	return c
}

// literal writes a character that means itself.
func (w *frozen) literal(c rune) {
	if c == '\\' || c == '$' || c == '}' && w.braces > 0 {
		w.out.WriteByte('\\')
	}
	w.out.WriteRune(c)
}

func (w *frozen) literals(s string) {
	for _, c := range s {
		w.literal(c)
	}
}

// until freezes up to a character, or with zero to the end.
func (w *frozen) until(stop rune) error {
	for w.pos < len(w.in) {
		switch c := w.next(); {
		case stop != 0 && c == stop:
			return nil
		case c == '\'':
			for {
				c := w.next()
				if c < 0 {
					return errors.New("unexpected end of statement while looking for matching single-quote")
				}
				if c == '\'' {
					break
				}
				w.literal(c)
			}
		case c == '"':
			if err := w.quoted(); err != nil {
				return err
			}
		case c == '$':
			if err := w.variable(); err != nil {
				return err
			}
		case c == w.escape:
			if c := w.next(); c >= 0 {
				w.literal(c)
			}
		default:
			w.literal(c)
		}
	}
	if stop != 0 {
		return fmt.Errorf("syntax error: missing '%c'", stop)
	}
	return nil
}

// quoted freezes what is between double quotes.
func (w *frozen) quoted() error {
	for {
		switch c := w.next(); {
		case c < 0:
			return errors.New("unexpected end of statement while looking for matching double-quote")
		case c == '"':
			return nil
		case c == '$':
			if err := w.variable(); err != nil {
				return err
			}
		case c == w.escape:
			switch n := w.peek(); n {
			case '"', '$', w.escape:
				w.literal(w.next())
			case -1:
			default:
				w.literal(c)
			}
		default:
			w.literal(c)
		}
	}
}

// name reads the name of a variable.
func (w *frozen) name() string {
	start := w.pos
	if c := w.peek(); c >= 0 && strings.ContainsRune("@*#?-$!0", c) {
		w.pos++
		return string(c)
	}
	digits := unicode.IsDigit(w.peek())
	for c := w.peek(); c >= 0 && (unicode.IsDigit(c) || !digits && (unicode.IsLetter(c) || c == '_')); c = w.peek() {
		w.pos++
	}
	return string(w.in[start:w.pos])
}

// variable freezes what is behind a dollar sign.
func (w *frozen) variable() error {
	start := w.pos - 1
	if w.peek() != '{' {
		name := w.name()
		if name == "" {
			w.literal('$')
			return nil
		}
		if value, _, declared := w.arg(name); declared {
			w.literals(value)
			return nil
		}
		// What comes next may, once its quotes are gone, look like more of the name.
		if n := w.peek(); n == '"' || n == '\'' || n == '$' || n == w.escape {
			w.out.WriteString("${" + name + "}")
		} else {
			w.out.WriteString("$" + name)
		}
		return nil
	}
	w.next()
	if c := w.peek(); c < 0 {
		return errors.New("syntax error: missing '}'")
	} else if c == '{' || c == '}' || c == ':' {
		return errors.New("syntax error: bad substitution")
	}
	name := w.name()
	value, set, declared := w.arg(name)
	c := w.next()
	mod := string(c)
	if c == ':' {
		c = w.next()
		mod += string(c)
	}
	switch {
	case mod == "}":
		if declared {
			w.literals(value)
		} else {
			w.out.WriteString("${" + name + "}")
		}
		return nil
	case c == '-' || c == '+' || c == '?':
		return w.choice(name, mod, value, set && (mod[0] != ':' || value != ""), declared)
	case mod == "#" || mod == "%" || mod == "/":
		return w.pattern(start, name, declared)
	}
	if c < 0 {
		return errors.New("syntax error: missing '}'")
	}
	return fmt.Errorf("unsupported modifier (%s) in substitution", mod)
}

// choice freezes a substitution whose word counts if the variable is, or is not, there.
func (w *frozen) choice(name, mod, value string, there, declared bool) error {
	inner := &frozen{freezer: w.freezer, in: w.in, pos: w.pos, braces: w.braces}
	if !declared {
		inner.braces++
	}
	if err := inner.until('}'); err != nil {
		return err
	}
	w.pos = inner.pos
	word := inner.out.String()
	if !declared {
		w.out.WriteString("${" + name + mod + word + "}")
		return nil
	}
	switch kind := mod[len(mod)-1]; {
	case kind == '+' && there || kind == '-' && !there:
		w.out.WriteString(word)
	case kind == '?' && !there:
		if word == "" {
			word = "is not allowed to be unset"
		}
		return fmt.Errorf("%s: %s", name, word)
	case kind != '+':
		w.literals(value)
	}
	return nil
}

// pattern freezes a substitution that changes a value by a pattern.
func (w *frozen) pattern(start int, name string, declared bool) error {
	end := start
	for ; end < len(w.in) && w.in[end] != '}'; end++ {
		if c := w.in[end]; end > start && strings.ContainsRune("$'\"\\`", c) {
			return fmt.Errorf("${%s...}: a pattern with quotes, escapes or variables cannot be exported", name)
		}
	}
	if end == len(w.in) {
		return errors.New("syntax error: missing '}'")
	}
	text := string(w.in[start : end+1])
	w.pos = end + 1
	var known env
	if value, set, _ := w.arg(name); set {
		known.set(name, value)
	}
	value, _, err := w.lex.ProcessWord(text, &known) // finds what is wrong with it
	if err != nil {
		return err
	}
	if declared {
		w.literals(value)
	} else {
		w.out.WriteString(text)
	}
	return nil
}
