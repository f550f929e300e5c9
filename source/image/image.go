package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/distribution/reference"
	lru "github.com/hashicorp/golang-lru/v2"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Config is what a Source works with. All fields but Sessions are required; Sessions is
// for OCI layouts.
type Config struct {
	Registry *registry.Client
	Store    *snapshot.Store
	Sessions *bksession.Manager
}

// Modes say where an image may come from.
const (
	ModeDefault = "default" // the image store, then the registry
	ModePull    = "pull"    // the registry
	ModeLocal   = "local"   // the image store if it can be, like default
)

// A Source resolves images. What a digest names is remembered, what a tag names never.
type Source struct {
	cfg   Config
	known *lru.Cache[digest.Digest, []byte] // manifests, indexes, configs
	// held says which repositories have been seen to hold a digest: what one has, another
	// need not have, or not for everybody.
	held *lru.Cache[string, struct{}]
}

const (
	knownBlobs   = 512
	knownMaxSize = 256 << 10 // larger ones are read again
)

// New returns a Source.
func New(cfg Config) *Source {
	known, err := lru.New[digest.Digest, []byte](knownBlobs)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	held, err := lru.New[string, struct{}](knownBlobs)
	if err != nil {
		panic(err)
	}
	return &Source{cfg: cfg, known: known, held: held}
}

// A Resolved is an image pinned for one platform.
type Resolved struct {
	Name     string             // normalised: docker.io/library/alpine:3.20
	Ref      string             // Name with Digest
	Digest   digest.Digest      // what the name points to: an index, or Manifest
	Manifest ocispec.Descriptor // chosen for the platform
	Platform ocispec.Platform   // of the config
	Config   []byte             // as it is in the image
	Layers   []snapshot.ImageLayer

	stored bool // in the image store: layers are known by diff ID
	top    ocispec.Descriptor
	// read reads what belongs to the image where that came from.
	read func(context.Context, bksession.Group, ocispec.Descriptor) ([]byte, error)
}

// DiffIDs returns the digests of the uncompressed layers, oldest first.
func (r *Resolved) DiffIDs() []digest.Digest {
	out := make([]digest.Digest, len(r.Layers))
	for i, l := range r.Layers {
		out[i] = l.DiffID
	}
	return out
}

// Resolve pins ref for a platform (nil is that of this machine), reading manifest and
// config only. A ref with a digest that is known needs no network. mode is one of the
// Mode constants; "" is ModeDefault.
func (s *Source) Resolve(ctx context.Context, g bksession.Group, ref string, platform *ocispec.Platform, mode string) (*Resolved, error) {
	named, err := registry.ParseRef(ref)
	if err != nil {
		return nil, err
	}
	want := platforms.DefaultSpec()
	if platform != nil {
		want = platforms.Normalize(*platform)
	}
	switch mode {
	case "", ModeDefault, ModeLocal:
		r, err := s.fromStore(ctx, named, want)
		if err == nil || !errdefs.IsNotFound(err) {
			return r, err
		}
		var other *platformError
		if errors.As(err, &other) {
			// The name is known here, only not for this platform: say so if the registry
			// cannot help.
			r, remote := s.fromRegistry(ctx, g, named, want)
			if remote != nil {
				remote = fmt.Errorf("%w; and %w", other, remote)
			}
			return r, remote
		}
	case ModePull:
	default:
		return nil, fmt.Errorf("image %s: unknown resolve mode %q (want default, pull or local): %w", ref, mode, errdefs.ErrInvalidArgument)
	}
	return s.fromRegistry(ctx, g, named, want)
}

// Is reports whether an image has a digest: that of its index or that of its manifest.
func (r *Resolved) Is(d digest.Digest) bool { return d == r.Digest || d == r.Manifest.Digest }

// Ref returns the image as a Ref. Nothing is fetched until it is needed.
func (s *Source) Ref(ctx context.Context, r *Resolved) (*snapshot.Ref, error) {
	if r.stored {
		ref, err := s.cfg.Store.LayersOf(ctx, r.DiffIDs())
		if err != nil {
			return nil, fmt.Errorf("image %s in the image store: %w", r.Name, err)
		}
		return ref, nil
	}
	return s.cfg.Store.Image(ctx, r.Layers)
}

// fromRegistry pins what the registry has under the name.
func (s *Source) fromRegistry(ctx context.Context, g bksession.Group, named reference.Named, want ocispec.Platform) (*Resolved, error) {
	var top ocispec.Descriptor
	if d, ok := named.(reference.Digested); ok && s.held.Contains(named.Name()+"@"+d.Digest().String()) {
		if b, ok := s.known.Get(d.Digest()); ok {
			if mediaType, err := mediaTypeOf(b); err == nil {
				top = ocispec.Descriptor{MediaType: mediaType, Digest: d.Digest(), Size: int64(len(b))}
			}
		}
	}
	if top.Digest == "" {
		var err error
		if _, top, err = s.cfg.Registry.Resolve(ctx, g, named.String()); err != nil {
			return nil, err
		}
		s.held.Add(named.Name()+"@"+top.Digest.String(), struct{}{})
	}
	p := &picker{
		name: reference.FamiliarString(named),
		read: func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
			return s.remembered(d, func() ([]byte, error) { return s.cfg.Registry.Bytes(ctx, g, named.Name(), d) })
		},
	}
	r, err := p.pick(ctx, top, want)
	if err != nil {
		return nil, err
	}
	r.name(named, top.Digest)
	r.top, r.read = top, func(ctx context.Context, g bksession.Group, d ocispec.Descriptor) ([]byte, error) {
		return s.remembered(d, func() ([]byte, error) { return s.cfg.Registry.Bytes(ctx, g, named.Name(), d) })
	}
	from := []registry.Location{{Repo: named.Name()}}
	for i := range r.Layers {
		r.Layers[i].From = from
		r.Layers[i].Desc = snapshot.Desc{Description: "pulled from " + r.Ref}
	}
	return r, nil
}

// remembered returns what a digest names, reading it if it is not known.
func (s *Source) remembered(d ocispec.Descriptor, read func() ([]byte, error)) ([]byte, error) {
	if b, ok := s.known.Get(d.Digest); ok {
		return b, nil
	}
	data, err := read()
	if err != nil {
		return nil, err
	}
	if len(data) <= knownMaxSize {
		s.known.Add(d.Digest, data)
	}
	return data, nil
}

// name fills in what the image is called.
func (r *Resolved) name(named reference.Named, d digest.Digest) {
	r.Digest = d
	r.Name = named.Name()
	if t, ok := named.(reference.Tagged); ok {
		r.Name += ":" + t.Tag()
	}
	r.Ref = r.Name + "@" + d.String()
}

// fromStore pins what the image store has under the name, or says ErrNotFound if that
// is nothing, or nothing for the platform.
func (s *Source) fromStore(ctx context.Context, named reference.Named, want ocispec.Platform) (*Resolved, error) {
	name := named.String()
	digested, pinned := named.(reference.Digested)
	if t, ok := named.(reference.Tagged); ok && pinned {
		name = named.Name() + ":" + t.Tag()
	}
	img, err := s.cfg.Store.GetImage(ctx, name)
	if err != nil {
		if errdefs.IsNotFound(err) {
			err = fmt.Errorf("image %s is not in the image store: %w", reference.FamiliarString(named), errdefs.ErrNotFound)
		}
		return nil, err
	}
	if pinned && img.Target.Digest != digested.Digest() {
		return nil, fmt.Errorf("image %s in the image store has another digest: %w", reference.FamiliarString(named), errdefs.ErrNotFound)
	}
	p := &picker{
		name:   reference.FamiliarString(named),
		strict: true,
		read: func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
			return readBlob(ctx, s.cfg.Store.Content(), d)
		},
	}
	r, err := p.pick(ctx, img.Target, want)
	if err != nil {
		return nil, err
	}
	r.name(named, img.Target.Digest)
	r.stored = true
	r.top, r.read = img.Target, func(ctx context.Context, _ bksession.Group, d ocispec.Descriptor) ([]byte, error) {
		return readBlob(ctx, s.cfg.Store.Content(), d)
	}
	// A layer may have been pruned since.
	ref, err := s.cfg.Store.LayersOf(ctx, r.DiffIDs())
	if err != nil {
		return nil, fmt.Errorf("image %s in the image store: %w", r.Name, err)
	}
	ref.Release()
	return r, nil
}

func isIndex(mediaType string) bool {
	return images.IsIndexType(mediaType)
}
