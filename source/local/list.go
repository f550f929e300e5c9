package local

import (
	"context"
	"fmt"

	"github.com/dbuild/dbuild/session"
	"github.com/tonistiigi/fsutil/types"
)

// maxListed bounds what List reads of a directory.
const maxListed = 100_000

// List returns the paths of the client's directory as far as the patterns of req admit
// them, in no order that matters, and moves no content. It is for explaining what is
// missing from a Tree.
func (s *Source) List(ctx context.Context, g session.Group, req Request) ([]string, error) {
	var names []string
	err := s.walk(ctx, g, req, func(st *stat, n int) bool {
		if n == 0 {
			names = nil
		}
		names = append(names, string(st.path))
		return len(names) < maxListed
	})
	return names, err
}

// walk asks the client for its list, without any content, and calls visit for each path
// with its number, until it returns false. If a session fails the next is asked, from the
// beginning.
func (s *Source) walk(ctx context.Context, g session.Group, req Request, visit func(st *stat, n int) bool) error {
	list := func(ctx context.Context, id string, c session.Caller) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := s.open(ctx, id, c, req)
		if err != nil {
			return err
		}
		var p packet
		defer p.free()
		for n := 0; ; {
			if err := stream.RecvMsg(&p); err != nil {
				return err
			}
			switch {
			case p.kind == types.PACKET_ERR:
				return fmt.Errorf("the client says: %.1000s", p.text())
			case p.kind != types.PACKET_STAT:
			case p.stat == nil:
				return nil
			case !visit(p.stat, n):
				return nil
			default:
				n++
			}
		}
	}
	if req.SessionID != "" {
		if c, err := s.cfg.Sessions.Get(ctx, req.SessionID); err == nil {
			err = s.cfg.Sessions.With(ctx, c, func(ctx context.Context) error { return list(ctx, req.SessionID, c) })
			return s.explain(req, err)
		}
	}
	return s.explain(req, s.cfg.Sessions.Any(ctx, g, list))
}
