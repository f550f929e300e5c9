package http

import (
	"context"
	gohash "hash"
	"io"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
)

// Sum feeds the content that was pinned to h.
func (s *Source) Sum(ctx context.Context, g session.Group, p *Pin, h gohash.Hash, log *progress.Log) error {
	ref, err := s.Fetch(ctx, g, p, log)
	if err != nil {
		return err
	}
	defer ref.Release()
	view, err := ref.View(ctx, snapshot.Access{Group: g, Log: log})
	if err != nil {
		return err
	}
	f, err := view.Open(p.Filename)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(h, f)
	return err
}
