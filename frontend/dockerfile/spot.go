package dockerfile

import (
	"strconv"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// A spot is where something stands: in the Dockerfile, or in a fragment that it includes.
type spot struct {
	info   *pb.SourceInfo
	index  int    // of the source, among all
	of     string // the fragment, or ""
	ranges []*pb.Range
}

// spot finds the source of lines, which are all of the same.
func (l *loader) spot(ranges []parser.Range) spot {
	p := spot{info: l.info}
	base := 0
	if l.file != nil && len(ranges) > 0 {
		first := ranges[0].Start.Line
		src, line := l.file.Place(first)
		for i, s := range l.file.Sources {
			if s == src && i > 0 {
				p.info, p.index, p.of = src.Origin.(*origins).info, i, src.Name
				base = first - line
			}
		}
	}
	p.ranges = wireRanges(ranges)
	for _, r := range p.ranges {
		r.Start.Line -= int32(base)
		r.End.Line -= int32(base)
	}
	return p
}

// line names the first line: "3", or "3 of common.docker".
func (p spot) line() string {
	if len(p.ranges) == 0 {
		return "0"
	}
	n := strconv.Itoa(int(p.ranges[0].Start.Line))
	if p.of != "" {
		n += " of " + p.of
	}
	return n
}

// location is a spot for clients that know the sources by their index.
func (l *loader) location(ranges []parser.Range) *pb.Location {
	p := l.spot(ranges)
	return &pb.Location{SourceIndex: int32(p.index), Ranges: p.ranges}
}

// infos are the sources, the Dockerfile first.
func (l *loader) infos() []*pb.SourceInfo {
	out := []*pb.SourceInfo{l.info}
	for _, s := range l.fragments() {
		out = append(out, s.Origin.(*origins).info)
	}
	return out
}

// texts are what is in them.
func (l *loader) texts() [][]byte {
	out := [][]byte{l.data}
	for _, s := range l.fragments() {
		out = append(out, s.Data)
	}
	return out
}

func (l *loader) fragments() []*instruction.Source {
	if l.file == nil || len(l.file.Sources) == 0 {
		return nil
	}
	return l.file.Sources[1:]
}
