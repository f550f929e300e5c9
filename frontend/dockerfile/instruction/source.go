package instruction

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// A Source is a file that instructions are read from: the Dockerfile, or a fragment that it
// includes. The lines of fragments are numbered on from those of the sources before, so that
// a line says which source it is in; File.Place turns it back.
type Source struct {
	Name   string // as people know it
	Data   []byte
	Origin any // how its Opener finds what it includes

	base int // the number of the line before its first
	by   *Source
	line int // of by, where it was first included
}

// Place finds the source of a line and what number it has there.
func (f *File) Place(line int) (*Source, int) {
	for i := len(f.Sources) - 1; i > 0; i-- {
		if s := f.Sources[i]; line > s.base {
			return s, line - s.base
		}
	}
	if len(f.Sources) == 0 {
		return nil, line
	}
	return f.Sources[0], line
}

// addSource gives a source its lines.
func (f *File) addSource(s *Source) {
	if n := len(f.Sources); n > 0 {
		last := f.Sources[n-1]
		s.base = last.base + bytes.Count(last.Data, []byte("\n")) + 2
	}
	f.Sources = append(f.Sources, s)
}

// shift numbers the lines of ranges as those of s.
func (s *Source) shift(ranges []parser.Range) []parser.Range {
	if s.base == 0 {
		return ranges
	}
	out := make([]parser.Range, len(ranges))
	for i, r := range ranges {
		r.Start.Line += s.base
		r.End.Line += s.base
		out[i] = r
	}
	return out
}

// located is an error about lines of s, which are numbered as in its own file.
func (s *Source) located(err error) error {
	var at *parser.LocationError
	if s.by == nil || err == nil {
		return err
	}
	if errors.As(err, &at) {
		for i, ranges := range at.Locations {
			at.Locations[i] = s.shift(ranges)
		}
	}
	return fmt.Errorf("%s, included on line %d of %s: %w", s.Name, s.line, s.by.Name, err)
}
