package dockerfile

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/llb"
)

// FrontendImage returns what makes the filesystem of a frontend's image, and its config as
// JSON. A context of that name that the client gave comes first, as it does for FROM.
func FrontendImage(ctx context.Context, bridge frontend.Bridge, req *frontend.Request, name string) (*pb.Definition, []byte, error) {
	opts, err := parseOptions(req.Opts)
	if err != nil {
		return nil, nil, err
	}
	b := newBuild(bareLoader(bridge, opts, req), &instruction.File{Escape: '\\'}, nil)
	given, err := b.namedContext(name, nil)
	if err != nil {
		return nil, nil, err
	}
	if given != nil {
		return b.contextImage(ctx, given)
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, nil, fmt.Errorf("invalid image reference %q: %w", name, err)
	}
	meta, err := bridge.ResolveImage(ctx, reference.TagNameOnly(named).String(), frontend.ResolveOpt{})
	if err != nil {
		return nil, nil, err
	}
	src := llb.Image(meta.Ref, llb.ImageOptions{RecordType: "frontend"}, llb.Meta{Name: "[internal] load frontend " + name})
	def, err := marshal(ctx, ready(src), b.target)
	return def, meta.Config, err
}

func (b *build) contextImage(ctx context.Context, c *namedContext) (*pb.Definition, []byte, error) {
	loaded, err := c.load(ctx, func() []string { return nil })
	if err != nil {
		return nil, nil, err
	}
	def, err := marshal(ctx, loaded.out, b.target)
	if err != nil || loaded.image == nil {
		return def, nil, err
	}
	config, err := json.Marshal(loaded.image)
	return def, config, err
}
