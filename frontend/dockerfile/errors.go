package dockerfile

import (
	"context"
	"errors"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/frontend"
)

// asInput marks what the frontend itself found wrong. What the daemon answers keeps what it
// is: it stands before this mark wherever errors are told apart.
func asInput(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return &frontend.InputError{Err: err}
}

// atSource gives err the lines of the Dockerfile that it is about, in the form in which
// clients print them.
func (l *loader) atSource(err error) error {
	var at *parser.LocationError
	if err == nil || l.info == nil || !errors.As(err, &at) {
		return err
	}
	for _, ranges := range at.Locations {
		p := l.spot(ranges)
		err = errdefs.WithSource(err, &errdefs.Source{Info: p.info, Ranges: p.ranges})
	}
	return err
}

func wireRanges(ranges []parser.Range) []*pb.Range {
	out := make([]*pb.Range, 0, len(ranges))
	for _, r := range ranges {
		out = append(out, &pb.Range{
			Start: &pb.Position{Line: int32(r.Start.Line), Character: int32(r.Start.Character)},
			End:   &pb.Position{Line: int32(r.End.Line), Character: int32(r.End.Character)},
		})
	}
	return out
}
