// Package closedstore has a content store that permits nothing. What this machine lends to a
// daemon embeds it and opens what the daemon needs: an engine's store holds what is no
// concern of the build.
package closedstore

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store implements content.Store.
type Store struct{}

var _ content.Store = Store{}

var errClosed = errdefs.ErrPermissionDenied.WithMessage("the client does not lend its store for that")

// Info implements content.Store.
func (Store) Info(context.Context, digest.Digest) (content.Info, error) {
	return content.Info{}, errClosed
}

// ReaderAt implements content.Store.
func (Store) ReaderAt(context.Context, ocispec.Descriptor) (content.ReaderAt, error) {
	return nil, errClosed
}

// Writer implements content.Store.
func (Store) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errClosed
}

// Status implements content.Store.
func (Store) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errClosed
}

// ListStatuses implements content.Store.
func (Store) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, errClosed
}

// Update implements content.Store.
func (Store) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errClosed
}

// Walk implements content.Store.
func (Store) Walk(context.Context, content.WalkFunc, ...string) error { return errClosed }

// Delete implements content.Store.
func (Store) Delete(context.Context, digest.Digest) error { return errClosed }

// Abort implements content.Store.
func (Store) Abort(context.Context, string) error { return errClosed }
