package localimage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/closedstore"
	"github.com/distribution/reference"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Found is an image and where its content is.
type Found struct {
	Digest digest.Digest // of its manifest or index
	Store  content.Store
}

// Find looks for an image by its full name. A Found without a digest says that there is
// none, or none for that platform.
type Find func(ctx context.Context, name string, platform *ocispec.Platform) (Found, error)

// First has a build take images from an engine, where the engine has one of that name, before
// it looks for them anywhere else. The daemon asks about each source.
type First struct {
	closedstore.Store
	id   string
	find Find

	mu    sync.Mutex       // held while one is looked for
	found map[string]Found // by name and platform
}

// NewFirst returns a First whose content the session offers under id.
func NewFirst(id string, find Find) *First {
	return &First{id: id, find: find, found: map[string]Found{}}
}

// Provider serves the daemon.
func (f *First) Provider() *policysession.PolicyProvider {
	return policysession.NewPolicyProvider(f.decide)
}

const scheme = "docker-image://"

func (f *First) decide(ctx context.Context, req *policysession.CheckPolicyRequest) (*policysession.DecisionResponse, *gwpb.ResolveSourceMetaRequest, error) {
	allowed := &policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW}
	op := req.GetSource().GetSource()
	name, ok := strings.CutPrefix(op.GetIdentifier(), scheme)
	if !ok {
		return allowed, nil, nil
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return allowed, nil, nil //nolint:nilerr // the daemon knows what to say
	}
	var dgst digest.Digest
	if pinned, ok := named.(reference.Digested); ok {
		// The frontend adds to a name the digest that it was found to have.
		if dgst = pinned.Digest(); !f.has(dgst) {
			return allowed, nil, nil
		}
	} else if dgst, err = f.look(ctx, reference.TagNameOnly(named).String(), platformOf(req.GetPlatform())); err != nil {
		return nil, nil, err
	}
	if dgst == "" || op.Attrs[pb.AttrImageChecksum] != "" {
		return allowed, nil, nil
	}
	attrs := maps.Clone(op.Attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	if limit, ok := attrs[pb.AttrImageLayerLimit]; ok {
		attrs[pb.AttrOCILayoutLayerLimit] = limit
	}
	for _, only := range []string{pb.AttrImageLayerLimit, pb.AttrImageResolveMode, pb.AttrImageRecordType} {
		delete(attrs, only)
	}
	attrs[pb.AttrOCILayoutStoreID] = f.id
	return &policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT, Update: &pb.SourceOp{
		Identifier: "oci-layout://" + reference.TrimNamed(named).String() + "@" + dgst.String(), Attrs: attrs,
	}}, nil, nil
}

func platformOf(p *pb.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	return &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

// look returns the digest of an image, or "". It answers the same for the whole build.
func (f *First) look(ctx context.Context, name string, platform *ocispec.Platform) (digest.Digest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := fmt.Sprint(name, platform)
	if img, ok := f.found[key]; ok {
		return img.Digest, nil
	}
	img, err := f.find(ctx, name, platform)
	if err != nil {
		return "", err
	}
	f.found[key] = img
	return img.Digest, nil
}

func (f *First) has(d digest.Digest) bool {
	return slices.ContainsFunc(f.all(), func(img Found) bool { return img.Digest == d })
}

// all returns the images that were found.
func (f *First) all() []Found {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Collect(maps.Values(f.found)), func(img Found) bool { return img.Digest == "" })
}

// Info implements content.InfoProvider.
func (f *First) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	for _, img := range f.all() {
		if info, err := img.Store.Info(ctx, d); !errdefs.IsNotFound(err) {
			return info, err
		}
	}
	return content.Info{}, fmt.Errorf("%s is in no local image: %w", d, errdefs.ErrNotFound)
}

// ReaderAt implements content.Provider.
func (f *First) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	for _, img := range f.all() {
		if ra, err := img.Store.ReaderAt(ctx, desc); !errdefs.IsNotFound(err) {
			return ra, err
		}
	}
	return nil, fmt.Errorf("%s is in no local image: %w", desc.Digest, errdefs.ErrNotFound)
}
