package dockerfile

import (
	"fmt"
	"strings"
	"unicode"
)

// script replaces build arguments in a text for the shell. What the shell would not expand
// stays: what is escaped or between single quotes.
func (f *freezer) script(text string) (string, error) {
	return f.shellText(text, true)
}

// document replaces build arguments in the body of a heredoc of the shell, where quotes
// mean nothing.
func (f *freezer) document(text string) (string, error) {
	return f.shellText(text, false)
}

func (f *freezer) shellText(text string, quotes bool) (string, error) {
	var out strings.Builder
	in := []rune(text)
	double := !quotes // inside double quotes, or what is like it
	for i := 0; i < len(in); {
		switch c := in[i]; {
		case c == '\\' && i+1 < len(in):
			out.WriteString(string(in[i : i+2]))
			i += 2
		case c == '\'' && quotes && !double:
			end := i + 1
			for end < len(in) && in[end] != '\'' {
				end++
			}
			end = min(end+1, len(in))
			out.WriteString(string(in[i:end]))
			i = end
		case c == '$':
			n, err := f.argument(&out, in[i:], func(v string) string { return shellValue(v, quotes, double) })
			if err != nil {
				return "", err
			}
			i += n
		default:
			if c == '"' && quotes {
				double = !double
			}
			out.WriteRune(c)
			i++
		}
	}
	return out.String(), nil
}

// plain replaces build arguments in a text that has no quotes: a word of an exec form.
func (f *freezer) plain(text string) (string, error) {
	var out strings.Builder
	for in := []rune(text); len(in) > 0; {
		if in[0] != '$' {
			out.WriteRune(in[0])
			in = in[1:]
			continue
		}
		n, err := f.argument(&out, in, func(v string) string { return v })
		if err != nil {
			return "", err
		}
		in = in[n:]
	}
	return out.String(), nil
}

// argument writes what "$NAME" or "${NAME}" at the start of in comes to, and returns its
// length. What is no build argument is written as it is.
func (f *freezer) argument(out *strings.Builder, in []rune, quote func(string) string) (int, error) {
	w := &frozen{freezer: f, in: in, pos: 1}
	braces := w.peek() == '{'
	if braces {
		w.next()
	}
	name := w.name()
	value, _, declared := f.arg(name)
	switch {
	case !declared:
		out.WriteRune('$')
		return 1, nil
	case !braces:
	case w.peek() == '}':
		w.next()
	default:
		return 0, fmt.Errorf("EXPORT RUN: ${%s...} changes a build argument, which importers do not have: write ${%s}, or set another variable with EXPORT ENV", name, name)
	}
	out.WriteString(quote(value))
	return w.pos, nil
}

// shellValue is a value as the shell has to read it where a variable stood.
func shellValue(value string, quotes, double bool) string {
	var out strings.Builder
	for _, c := range value {
		switch {
		case double && (c == '$' || c == '`' || c == '\\' || c == '"' && quotes):
			out.WriteByte('\\')
		case double:
		case c == '\n':
			c = ' ' // words of an unquoted variable are split there
		case c == ' ' || c == '\t' || unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune("-_./:,@+=%", c):
		default:
			out.WriteByte('\\')
		}
		out.WriteRune(c)
	}
	return out.String()
}
