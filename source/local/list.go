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
	list := func(ctx context.Context, id string, c session.Caller) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := s.open(ctx, id, c, req)
		if err != nil {
			return err
		}
		names = nil
		var p packet
		defer p.free()
		for len(names) < maxListed {
			if err := stream.RecvMsg(&p); err != nil {
				return err
			}
			switch {
			case p.kind == types.PACKET_ERR:
				return fmt.Errorf("the client says: %.1000s", p.text())
			case p.kind != types.PACKET_STAT:
			case p.stat == nil:
				return nil
			default:
				names = append(names, string(p.stat.path))
			}
		}
		return nil
	}
	if req.SessionID != "" {
		if c, err := s.cfg.Sessions.Get(ctx, req.SessionID); err == nil {
			err = s.cfg.Sessions.With(ctx, c, func(ctx context.Context) error { return list(ctx, req.SessionID, c) })
			return names, s.explain(req, err)
		}
	}
	err := s.cfg.Sessions.Any(ctx, g, list)
	return names, s.explain(req, err)
}
