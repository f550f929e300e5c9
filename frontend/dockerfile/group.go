package dockerfile

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// newGroup is errgroup.WithContext, but the context does not carry the first error as its
// cause: HTTP requests return the cause, so that what was merely cancelled would fail with an
// error that is about another line, and add its own to it.
func newGroup(ctx context.Context) (*errgroup.Group, context.Context) {
	eg, ctx := errgroup.WithContext(ctx)
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, cancel) // at the latest when the group has ended
	return eg, out
}
