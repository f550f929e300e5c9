package daemon

import (
	"context"
	"errors"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/history"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/emptypb"
)

// contentService lets clients read blobs: those of the history, and those of the store.
type contentService struct {
	contentapi.ContentServer // of reading only
}

func (d *Daemon) contentService() contentapi.ContentServer {
	return contentService{contentserver.New(readable{d.store.Content(), d.history})}
}

var errReadOnly = errdefs.ErrPermissionDenied.WithMessage("content can only be read here: it is written by builds")

// Update, Delete, Write and Abort are refused before they look at what they are given.

func (contentService) Update(context.Context, *contentapi.UpdateRequest) (*contentapi.UpdateResponse, error) {
	return nil, errReadOnly
}

func (contentService) Delete(context.Context, *contentapi.DeleteContentRequest) (*emptypb.Empty, error) {
	return nil, errReadOnly
}

func (contentService) Write(contentapi.Content_WriteServer) error { return errReadOnly }

func (contentService) Abort(context.Context, *contentapi.AbortRequest) (*emptypb.Empty, error) {
	return nil, errReadOnly
}

// readable is the history's blobs over those of the store.
type readable struct {
	content.Store
	history *history.Journal
}

func (r readable) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	info, err := r.history.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return r.Store.Info(ctx, d)
	}
	return info, err
}

func (r readable) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := r.history.ReaderAt(ctx, d.Digest)
	if errdefs.IsNotFound(err) {
		return r.Store.ReaderAt(ctx, d)
	}
	return ra, err
}

func (r readable) Walk(ctx context.Context, fn content.WalkFunc, list ...string) error {
	match, err := filters.ParseAll(list...)
	if err != nil {
		return errors.Join(errdefs.ErrInvalidArgument, err)
	}
	seen := map[digest.Digest]bool{}
	for _, info := range r.history.Infos() {
		seen[info.Digest] = true
		if match.Match(content.AdaptInfo(info)) {
			if err := fn(info); err != nil {
				return err
			}
		}
	}
	return r.Store.Walk(ctx, func(info content.Info) error {
		if seen[info.Digest] {
			return nil
		}
		return fn(info)
	}, list...)
}
