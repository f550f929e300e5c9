package ignore

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/moby/patternmatcher/ignorefile"
)

// Names of the ignore files that are looked for. The first that is there is the only one
// that counts: that beside the Dockerfile with its name before Name, then Name and then
// Alternative in the root of the context.
const (
	Name        = ".dockerignore"
	Alternative = ".containerignore"
)

// A File is an ignore file. The zero File leaves out nothing. Its methods may be called by
// several goroutines.
type File struct {
	Name     string // as users know it; "" if there is none
	patterns []Pattern
}

// A Pattern is one line of an ignore file.
type Pattern struct {
	Text string // cleaned, as it is matched; begins with "!" if it takes back in
	Line int    // counted from 1
}

// Readmits reports whether the pattern takes back in what others leave out.
func (p *Pattern) Readmits() bool { return strings.HasPrefix(p.Text, "!") }

// Parse reads an ignore file. An error names the file and the line.
func Parse(name string, data []byte) (*File, error) {
	texts, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	lines := patternLines(data)
	if len(lines) != len(texts) {
		return nil, fmt.Errorf("%s: %d lines have patterns, but %d patterns were read", name, len(lines), len(texts))
	}
	f := &File{Name: name}
	for i, text := range texts {
		if err := check(text); err != nil {
			return nil, fmt.Errorf("%s:%d: %q is not a pattern: %w", name, lines[i], text, err)
		}
		f.patterns = append(f.patterns, Pattern{Text: text, Line: lines[i]})
	}
	return f, nil
}

// patternLines returns the numbers of the lines that ignorefile.ReadAll makes patterns of.
func patternLines(data []byte) []int {
	var out []int
	n := 0
	for line := range bytes.Lines(data) {
		if n++; n == 1 {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		if !bytes.HasPrefix(line, []byte("#")) && len(bytes.TrimSpace(line)) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// check tells whether a pattern can be matched. Some mistakes show only when it is.
func check(text string) error {
	m, err := newMatcher(text)
	if err == nil {
		_, err = m.matches("x")
	}
	return err
}

// Patterns returns the patterns in the form of a local source's ExcludePatterns; nil if
// there are none.
func (f *File) Patterns() []string {
	var out []string
	for _, p := range f.patterns {
		out = append(out, p.Text)
	}
	return out
}
