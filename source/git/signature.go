package git

import (
	"context"
	"errors"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/signature"
	"github.com/dbuild/dbuild/session"
)

// verify checks that the commit that was pinned, or the tag by which it was found, is signed
// by a key that the request trusts. A tag that is signed by somebody else does not matter if
// the commit is signed, unless the request says that the tag counts.
func (s *Source) verify(ctx context.Context, g session.Group, p *Pin, log *progress.Log) error {
	o, err := s.Objects(ctx, g, p, log)
	if err != nil {
		return err
	}
	expiry := signature.AllowExpired
	if p.req.RejectExpired {
		expiry = signature.RejectExpired
	}
	if p.req.RequireSignedTag && (o.Tag == nil || !signature.Signed(o.Tag)) {
		return errors.New("signed tag required but no signed tag found")
	}
	if o.Tag != nil && !p.req.IgnoreSignedTag && signature.Signed(o.Tag) {
		err := signature.Tag(o.Tag, p.req.Keys, expiry)
		if err == nil || p.req.RequireSignedTag {
			return err
		}
	}
	return signature.Commit(o.Commit, p.req.Keys, expiry)
}
