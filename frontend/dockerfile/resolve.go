package dockerfile

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	spec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/llb"
)

// maxResolves bounds the images that are asked for at once.
const maxResolves = 16

// resolveAll finds the bases of all needed stages, and of those that their triggers need.
func (b *build) resolveAll(ctx context.Context) error {
	for {
		if err := b.resolveNeeded(ctx); err != nil {
			return err
		}
		more, err := b.addTriggers()
		if err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
}

func (b *build) resolveNeeded(ctx context.Context) error {
	var roots []*stage
	for _, s := range slices.Concat(b.stages, b.external) {
		if s.needed && !s.resolved && (s.parent == nil || s.context != nil) {
			roots = append(roots, s)
		}
	}
	refs := make([]reference.Named, len(roots))
	for i, s := range roots { // what is malformed is said before anything is asked for
		s.resolved = true
		if s.base == scratch || s.context != nil {
			continue
		}
		ref, err := reference.ParseNormalizedNamed(s.base)
		if err != nil {
			err = fmt.Errorf("invalid image reference %q: %w", s.base, err)
			return parser.WithLocation(b.suggestBase(err, s.base), s.at)
		}
		refs[i] = reference.TagNameOnly(ref)
	}
	eg, ctx := newGroup(ctx)
	eg.SetLimit(maxResolves)
	for i, s := range roots {
		eg.Go(func() error { return parser.WithLocation(b.resolve(ctx, s, refs[i]), s.at) })
	}
	return eg.Wait()
}

// suggestBase adds a stage, a named context, or an image that many builds use, whose name is
// close.
func (b *build) suggestBase(err error, name string) error {
	names := b.stageNames()
	for _, n := range []string{"alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"} {
		names = append(names, n, n+":latest")
	}
	for _, key := range slices.Sorted(maps.Keys(b.opts.raw)) {
		if given, ok := strings.CutPrefix(key, "context:"); ok {
			given, _, _ = strings.Cut(given, "::") // before a platform
			names = append(names, given)
		}
	}
	return instruction.Suggest(err, name, names)
}

// resolve sets a stage's image, platform and initial state.
func (b *build) resolve(ctx context.Context, s *stage, ref reference.Named) error {
	switch {
	case s.context != nil:
		l, err := s.context.load(ctx, s.read.follow)
		if err != nil {
			return err
		}
		s.state, s.image, s.ignore, s.limited = l.state, l.image, l.ignore, l.limited
		if l.image == nil {
			s.notImage = true
			s.image = emptyConfig(b.target)
			s.platform = &b.target
		} else if p := l.image.Platform; p.OS != "" && p.Architecture != "" {
			s.platform = &p
		}
		s.image.Created = nil
		return nil
	case s.base == scratch:
		s.image, s.platform, s.state = emptyConfig(b.target), &b.target, newState()
		return nil
	}
	platform := s.platform
	if platform == nil {
		platform = &b.target
	}
	nc, err := b.namedContext(ref.String(), platform)
	if err != nil {
		return err
	}
	if nc != nil {
		l, err := nc.load(ctx, s.read.follow)
		if err != nil {
			return err
		}
		if l.image == nil {
			s.notImage = true
			l.image = emptyConfig(*platform)
		}
		s.state, s.image, s.platform = l.state, l.image, platform
		s.given, s.ignore, s.limited = true, l.ignore, l.limited
		s.baseImage = cloneConfig(l.image)
		s.image.Created = nil
		s.state.setPlatform(*platform)
		return nil
	}
	return b.resolveImage(ctx, s, ref, platform)
}

func (b *build) resolveImage(ctx context.Context, s *stage, ref reference.Named, platform *ocispec.Platform) error {
	prefix := "[internal]"
	if b.opts.multi {
		prefix = "[" + platforms.FormatAll(*platform) + " internal]"
	}
	resolved, img, err := b.loader.image(ctx, ref.String(), frontend.ResolveOpt{
		Platform: platform,
		Mode:     b.opts.resolveMode,
		LogName:  prefix + " load metadata for " + ref.String(),
	})
	if err != nil {
		return b.suggestBase(fmt.Errorf("%s: %w", s.base, err), s.base)
	}
	s.baseImage = img
	s.image = cloneConfig(img)
	s.image.Created = nil
	if s.platform == nil && b.implicit {
		platform = b.supported(img, platform)
	}
	b.lintPlatform(s, img, *platform)
	pinned, err := pin(ref, resolved)
	if err != nil {
		return err
	}
	s.platform = platform
	s.state = newState()
	if isEmptyImage(img) {
		return nil
	}
	s.number++
	m := b.meta(s, &instruction.Pos{Ranges: s.at}, b.vertexName(s, "FROM "+pinned, platform, &env{}))
	m.Description, m.IgnoreCache = command(s.source), false
	s.out = ready(llb.Image(pinned, llb.ImageOptions{Platform: platform, ResolveMode: b.opts.resolveMode}, m))
	s.limited = func(layers int) output {
		return ready(llb.Image(pinned, llb.ImageOptions{Platform: platform, ResolveMode: b.opts.resolveMode, LayerLimit: &layers}, m))
	}
	s.setPlatform(*platform)
	return nil
}

// pin is the reference that names what was resolved, whatever the tag will mean later.
func pin(ref reference.Named, meta *frontend.ImageMeta) (string, error) {
	if meta.Ref != "" {
		r, err := reference.ParseNormalizedNamed(meta.Ref)
		if err != nil {
			return "", fmt.Errorf("invalid image reference %q: %w", meta.Ref, err)
		}
		ref = r
	}
	if _, ok := ref.(reference.Digested); !ok && meta.Digest != "" {
		r, err := reference.WithDigest(reference.TagNameOnly(ref), meta.Digest)
		if err != nil {
			return "", fmt.Errorf("%s: %w", ref, err)
		}
		return r.String(), nil
	}
	return reference.TagNameOnly(ref).String(), nil
}

// supported is the platform to run an image on that nobody chose a platform for: the
// image's own if the builder can run it.
func (b *build) supported(img *spec.DockerOCIImage, wanted *ocispec.Platform) *ocispec.Platform {
	if wanted.OS == img.OS && wanted.Architecture == img.Architecture {
		return wanted
	}
	for _, p := range b.platforms {
		if p.OS == img.OS && p.Architecture == img.Architecture {
			return &p
		}
	}
	return wanted
}

func parseConfig(name string, config []byte) (*spec.DockerOCIImage, error) {
	var img spec.DockerOCIImage
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, fmt.Errorf("image config of %s: %w", name, err)
	}
	return &img, nil
}

// A state is what following instructions build on.
type state struct {
	out      output
	env      env
	dir      string
	user     string
	hostname string
	network  pb.NetMode
	platform *ocispec.Platform // commands run on it; nil for the target's
}

func newState() state { return state{dir: "/"} }

func (s *state) setPlatform(p ocispec.Platform) {
	p = platforms.Normalize(p)
	s.platform = &p
}

// setImage applies the config of an image that was not a base.
func (s *state) setImage(img *spec.DockerOCIImage) {
	for _, kv := range img.Config.Env {
		if k, v, _ := strings.Cut(kv, "="); k != "" {
			s.env.set(k, v)
		}
	}
	s.dir = join(s.dir, img.Config.WorkingDir)
	if img.OS != "" && img.Architecture != "" {
		s.setPlatform(img.Platform)
	}
}
