package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	spec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/ignore"
	"github.com/dbuild/dbuild/llb"
)

// A namedContext is the value of a "context:NAME" option.
type namedContext struct {
	b        *build
	name     string
	key      string // the name, with a platform if the option has one
	value    string
	platform *ocispec.Platform
}

// A loaded context is what it holds, and the image config if it is an image.
type loadedContext struct {
	state
	image  *spec.DockerOCIImage
	ignore *ignore.File // of a directory

	limited func(layers int) output // the image's lowest layers, or nil
}

// namedContext finds the context that a client gave for an image or stage name, or nil.
func (b *build) namedContext(name string, platform *ocispec.Platform) (*namedContext, error) {
	if strings.EqualFold(name, scratch) || strings.EqualFold(name, contextLocal) || !b.hasContexts {
		return nil, nil
	}
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("invalid context name %s: %w", name, err)
	}
	name = strings.TrimSuffix(reference.FamiliarString(ref), ":latest")
	if platform == nil {
		platform = b.given
	}
	p := platforms.DefaultSpec()
	if platform != nil {
		p = *platform
	}
	for _, key := range []string{name + "::" + platforms.FormatAll(platforms.Normalize(p)), name} {
		if v, ok := b.opts.raw["context:"+key]; ok {
			return &namedContext{b: b, name: name, key: key, value: v, platform: platform}, nil
		}
	}
	return nil, nil
}

// load makes the context's state; follow returns the paths that are read of it when all
// instructions are known.
func (c *namedContext) load(ctx context.Context, follow func() []string) (*loadedContext, error) {
	kind, rest, ok := strings.Cut(c.value, ":")
	if !ok {
		return nil, fmt.Errorf("invalid context specifier %s for %s", c.value, c.key)
	}
	if strings.HasPrefix(kind, "git@") {
		kind = "git"
	}
	rest = strings.TrimPrefix(rest, "//")
	l := &loadedContext{state: newState()}
	switch kind {
	case "docker-image":
		err := c.loadImage(ctx, l, rest)
		var other *frontend.NotImageError
		if errors.As(err, &other) && !strings.HasPrefix(other.Source, "docker-image:") {
			as := *c
			as.value = strings.Replace(other.Source, "local://", "local:", 1)
			return as.load(ctx, follow)
		}
		return l, err
	case "oci-layout":
		return l, c.loadLayout(ctx, l, rest)
	case "git", "http", "https":
		g, err := parseGitRef(c.value)
		switch {
		case err != nil:
			return nil, err
		case g != nil:
			l.out = c.b.opts.gitSource(g, llb.Meta{Name: "[internal] load git source " + c.value})
		case kind == "git":
			return nil, fmt.Errorf("invalid git context %s", c.value)
		default:
			l.out = httpSource(c.value, "context", "", llb.Meta{Name: "[context " + c.key + "] " + c.value})
		}
		return l, nil
	case "local":
		name := strings.TrimPrefix(c.value, "local:")
		dir := localDir{name: name, session: c.b.opts.session(name), hint: "context:" + c.key}
		ignored, err := c.b.loader.givenIgnore(c.name)
		if ignored == nil && err == nil {
			ignored, err = c.b.loader.readIgnore(ctx, dir, "[context "+c.key+"] load "+ignore.Name)
		}
		if err != nil {
			return nil, err
		}
		dir.exclude, l.ignore = ignored.Patterns(), ignored
		dir.hint += "-" + c.b.opts.raw["sharedkey:localdir:"+c.key]
		l.out = dir.source(follow, "[context "+c.key+"] load from client")
		return l, nil
	case "input":
		return l, c.loadInput(l, strings.TrimPrefix(c.value, "input:"))
	}
	return nil, fmt.Errorf("unsupported context source %s for %s", kind, c.key)
}

func (c *namedContext) loadImage(ctx context.Context, l *loadedContext, ref string) error {
	if ref == scratch {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return fmt.Errorf("context %s: invalid image reference %q: %w", c.key, ref, err)
	}
	named = reference.TagNameOnly(named)
	_, img, err := c.b.loader.image(ctx, named.String(), frontend.ResolveOpt{
		Platform: c.platform,
		Mode:     c.b.opts.resolveMode,
		LogName:  fmt.Sprintf("[context %s] load metadata for %s", c.key, ref),
	})
	if err != nil {
		return fmt.Errorf("context %s: %w", c.key, err)
	}
	name := "[context " + c.key + "] " + ref
	p := c.sourcePlatform()
	l.use(img, p, llb.Image(named.String(), llb.ImageOptions{Platform: &p}, llb.Meta{Name: name}))
	l.limited = func(layers int) output {
		return ready(llb.Image(named.String(), llb.ImageOptions{Platform: &p, LayerLimit: &layers}, llb.Meta{Name: name}))
	}
	return nil
}

// sourcePlatform is the platform to ask an image for.
func (c *namedContext) sourcePlatform() ocispec.Platform {
	if c.platform != nil {
		return *c.platform
	}
	return c.b.target
}

func (l *loadedContext) use(img *spec.DockerOCIImage, p ocispec.Platform, out llb.Output) {
	l.image = cloneConfig(img)
	l.out = ready(out)
	l.setPlatform(p)
	l.setImage(img)
}

func (c *namedContext) loadLayout(ctx context.Context, l *loadedContext, spec string) error {
	ref, err := reference.Parse(spec)
	if err != nil {
		return fmt.Errorf("context %s: invalid oci-layout reference %q: %w", c.key, spec, err)
	}
	named, ok := ref.(reference.Named)
	digested, ok2 := ref.(reference.Digested)
	if !ok || !ok2 {
		return fmt.Errorf("context %s: oci-layout reference %q needs a name and a digest", c.key, spec)
	}
	// The store is named by its id; to users it goes by the context's name.
	shown, err := reference.ParseNormalizedNamed(c.name)
	if err != nil {
		return fmt.Errorf("invalid context name %s: %w", c.name, err)
	}
	if shown, err = reference.WithDigest(shown, digested.Digest()); err != nil {
		return fmt.Errorf("context %s: %w", c.key, err)
	}
	store := frontend.OCILayout{SessionID: c.b.opts.raw[OptSession], StoreID: named.Name()}
	_, img, err := c.b.loader.image(ctx, shown.String(), frontend.ResolveOpt{
		Platform:  c.platform,
		LogName:   fmt.Sprintf("[context %s] load metadata for %s", c.key, shown),
		OCILayout: &store,
	})
	if err != nil {
		return fmt.Errorf("context %s: %w", c.key, err)
	}
	name := "[context " + c.key + "] OCI load from client"
	p := c.sourcePlatform()
	layout := llb.OCILayoutOptions{Platform: &p, SessionID: store.SessionID, StoreID: store.StoreID}
	l.use(img, p, llb.OCILayout(shown.String(), layout, llb.Meta{Name: name}))
	l.limited = func(layers int) output {
		low := layout
		low.LayerLimit = &layers
		return ready(llb.OCILayout(shown.String(), low, llb.Meta{Name: name}))
	}
	return nil
}

func (c *namedContext) loadInput(l *loadedContext, name string) error {
	def, ok := c.b.loader.inputs[name]
	if !ok {
		return fmt.Errorf("invalid input %s for %s", name, c.key)
	}
	var err error
	if l.out, err = fromDefinition(def); err != nil {
		return fmt.Errorf("input %s: %w", name, err)
	}
	md, ok := c.b.opts.raw["input-metadata:"+name]
	if !ok {
		return nil
	}
	m := map[string][]byte{}
	if err := json.Unmarshal([]byte(md), &m); err != nil {
		return fmt.Errorf("metadata of input %s: %w", name, err)
	}
	if config, ok := m[keyConfig]; ok {
		if l.image, err = parseConfig(name, config); err != nil {
			return err
		}
		l.setImage(l.image)
	}
	return nil
}
