package http

import (
	"context"
	"fmt"
	"io"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/signature"
	"github.com/dbuild/dbuild/session"
)

// verify checks the signature of the content that was pinned, if there must be one.
func (s *Source) verify(ctx context.Context, g session.Group, p *Pin, log *progress.Log) error {
	if p.req.PubKey == "" {
		return nil
	}
	f, err := s.open(ctx, g, p, log)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := signature.OpenPGP(p.req.PubKey, p.req.Signature, f, signature.AllowExpired); err != nil {
		return fmt.Errorf("%s: %w", p.URI(), err)
	}
	return nil
}

// Copy writes the content that was pinned to w.
func (s *Source) Copy(ctx context.Context, g session.Group, p *Pin, w io.Writer, log *progress.Log) error {
	f, err := s.open(ctx, g, p, log)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
