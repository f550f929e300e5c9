package worker

import (
	"context"
	"crypto"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/source/git"
	"github.com/dbuild/dbuild/source/http"
	"github.com/dbuild/dbuild/source/image"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxSuffix is the longest suffix of a checksum that a client may ask for, in bytes.
const maxSuffix = 4096

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// SourceMeta says what the source of a request means. Source is not set in the answer.
func (w *Worker) SourceMeta(ctx context.Context, a Asker, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	src := req.GetSource()
	scheme, name, _ := strings.Cut(src.GetIdentifier(), "://")
	switch scheme {
	case "docker-image", "oci-layout":
		return w.imageSourceMeta(ctx, a, name, scheme == "oci-layout", req)
	case "git":
		return w.gitSourceMeta(ctx, a, name, req)
	case "http", "https":
		return w.httpSourceMeta(ctx, a, req)
	case "local", "docker-image+blob", "oci-layout+blob":
		return &gwpb.ResolveSourceMetaResponse{}, nil // the identifier says it all
	}
	return nil, fmt.Errorf("not implemented: sources of the kind %.40q", scheme)
}

func (w *Worker) imageSourceMeta(ctx context.Context, a Asker, name string, layout bool, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	attrs := req.GetSource().GetAttrs()
	var r *image.Resolved
	var err error
	if layout {
		r, err = w.Images.ResolveLayout(ctx, a.Group, layoutOf(name, attrs), name, platform(req.GetPlatform()))
	} else {
		mode := req.GetResolveMode()
		if mode == "" {
			mode = attrs[pb.AttrImageResolveMode]
		}
		r, err = w.findImage(ctx, a, name, platform(req.GetPlatform()), mode)
	}
	if err != nil {
		return nil, err
	}
	if err := checkImage(r, name, attrs); err != nil {
		return nil, err
	}
	out := &gwpb.ResolveSourceImageResponse{Digest: r.Digest.String()}
	if !req.GetImage().GetNoConfig() {
		out.Config = r.Config
	}
	if predicates := req.GetImage().GetResolveAttestations(); req.GetImage().GetAttestationChain() || len(predicates) > 0 {
		c, err := w.Images.Chain(ctx, a.Group, r, predicates)
		if err != nil {
			return nil, err
		}
		out.AttestationChain = chain(c)
	}
	return &gwpb.ResolveSourceMetaResponse{Image: out}, nil
}

// checkImage checks that an image is the one that was asked for.
func checkImage(r *image.Resolved, name string, attrs map[string]string) error {
	v := attrs[pb.AttrImageChecksum]
	if v == "" {
		return nil
	}
	want, err := digest.Parse(v)
	if err != nil {
		return invalid("image %s: checksum %.100q: %v", name, v, err)
	}
	if !r.Is(want) {
		// In the words that clients know.
		return fmt.Errorf("image digest %s for %s does not match expected checksum %s: %w", r.Digest, name, want, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func chain(c *image.Chain) *gwpb.AttestationChain {
	out := &gwpb.AttestationChain{
		Root: c.Root.String(), ImageManifest: c.Manifest.String(), AttestationManifest: c.Attestation.String(),
		Blobs: map[string]*gwpb.Blob{},
	}
	for _, d := range c.Signatures {
		out.SignatureManifests = append(out.SignatureManifests, d.String())
	}
	for d, b := range c.Blobs {
		out.Blobs[d.String()] = &gwpb.Blob{Descriptor_: descriptor(b.Descriptor), Data: b.Data}
	}
	return out
}

func descriptor(d ocispec.Descriptor) *gwpb.Descriptor {
	return &gwpb.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

func (w *Worker) gitSourceMeta(ctx context.Context, a Asker, name string, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	r, err := git.Parse(name, req.GetSource().GetAttrs())
	if err != nil {
		return nil, invalid("%v", err)
	}
	p, err := w.findCommit(ctx, a, r)
	if err != nil {
		return nil, err
	}
	out := &gwpb.ResolveSourceGitResponse{Checksum: p.Object, Ref: p.Ref}
	if p.Ref == "" {
		out.Ref = r.Ref
	}
	if p.Object != p.Commit {
		out.CommitChecksum = p.Commit
	}
	if req.GetGit().GetReturnObject() {
		o, err := w.Git.Objects(ctx, a.Group, p, a.Log)
		if err != nil {
			return nil, err
		}
		out.CommitObject, out.TagObject = o.Commit, o.Tag
	}
	return &gwpb.ResolveSourceMetaResponse{Git: out}, nil
}

func (w *Worker) httpSourceMeta(ctx context.Context, a Asker, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	r, err := http.Parse(req.GetSource().GetIdentifier(), req.GetSource().GetAttrs())
	if err != nil {
		return nil, invalid("%v", err)
	}
	var algo crypto.Hash
	sum := req.GetHTTP().GetChecksumRequest()
	if sum != nil {
		switch sum.Algo {
		case gwpb.ChecksumRequest_CHECKSUM_ALGO_SHA256:
			algo = crypto.SHA256
		case gwpb.ChecksumRequest_CHECKSUM_ALGO_SHA384:
			algo = crypto.SHA384
		case gwpb.ChecksumRequest_CHECKSUM_ALGO_SHA512:
			algo = crypto.SHA512
		default:
			return nil, invalid("unsupported checksum algorithm %d", sum.Algo)
		}
		if len(sum.Suffix) > maxSuffix {
			return nil, invalid("checksum request: the suffix exceeds max size: %d bytes, %d are allowed", len(sum.Suffix), maxSuffix)
		}
	}
	p, err := w.findFile(ctx, a, r)
	if err != nil {
		return nil, err
	}
	defer p.Release()
	out := &gwpb.ResolveSourceHTTPResponse{Checksum: p.Digest.String(), Filename: p.Filename}
	if p.ModTime != nil {
		out.LastModified = timestamppb.New(*p.ModTime)
	}
	if sum != nil {
		h := algo.New()
		if err := w.HTTP.Copy(ctx, a.Group, p, h, a.Log); err != nil {
			return nil, err
		}
		h.Write(sum.Suffix)
		name := strings.ToLower(strings.ReplaceAll(algo.String(), "-", ""))
		out.ChecksumResponse = &gwpb.ChecksumResponse{Digest: fmt.Sprintf("%s:%x", name, h.Sum(nil)), Suffix: sum.Suffix}
	}
	return &gwpb.ResolveSourceMetaResponse{HTTP: out}, nil
}

// ImageMeta resolves the config of an image for a frontend.
func (w *Worker) ImageMeta(ctx context.Context, a Asker, name string, opt frontend.ResolveOpt) (*frontend.ImageMeta, error) {
	var r *image.Resolved
	var err error
	if l := opt.OCILayout; l != nil {
		r, err = w.Images.ResolveLayout(ctx, a.Group, image.Layout{SessionID: l.SessionID, StoreID: l.StoreID}, name, opt.Platform)
	} else {
		r, err = w.findImage(ctx, a, name, opt.Platform, opt.Mode)
	}
	if err != nil {
		return nil, err
	}
	return &frontend.ImageMeta{Ref: r.Ref, Digest: r.Digest, Config: r.Config}, nil
}

// layoutOf is where an image of a layout is; a layout without a name is called as the image.
func layoutOf(name string, attrs map[string]string) image.Layout {
	l := image.Layout{SessionID: attrs[pb.AttrOCILayoutSessionID], StoreID: attrs[pb.AttrOCILayoutStoreID]}
	if l.StoreID == "" {
		l.StoreID, _, _ = strings.Cut(name, "@")
	}
	return l
}
