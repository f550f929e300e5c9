package worker

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/cache/buildkit"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/image"
	"github.com/dbuild/dbuild/source/local"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A pinned source is what a mutable name meant when it was looked up.
type pinned struct {
	id    solver.ID
	fetch func(context.Context, solver.Demand) (solver.Ref, error)
	done  func() // ends what the pin holds; nil if nothing
	used  provenance.Used
	tree  *local.Tree // of a directory of the client; nil of anything else
	// foreign is how BuildKit names the source; nil if it does not.
	foreign func() (buildkit.Step, error)
}

// Release is called by the solver when nothing can ask for the source any more.
func (p *pinned) Release() {
	if p.done != nil {
		p.done()
	}
}

// sourceOp pins a name, then fetches what was pinned.
type sourceOp struct {
	pin    func(context.Context, solver.Demand) (*pinned, error)
	layers bool // of an image
}

func (o *sourceOp) Spec(ctx context.Context, d solver.Demand) (solver.Spec, error) {
	p, err := o.pin(ctx, d)
	if err != nil {
		return solver.Spec{}, err
	}
	return solver.Spec{ID: p.id, Pin: p}, nil
}

// BuildKit implements buildkit.Op.
func (o *sourceOp) BuildKit(spec solver.Spec) (buildkit.Step, bool) {
	p, ok := spec.Pin.(*pinned)
	if !ok || p.foreign == nil {
		return buildkit.Step{}, false
	}
	s, err := p.foreign()
	s.Outputs = 1
	return s, err == nil
}

func (o *sourceOp) Run(ctx context.Context, d solver.Demand, spec solver.Spec, _ []solver.Ref) ([]solver.Ref, error) {
	r, err := spec.Pin.(*pinned).fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	return []solver.Ref{r}, nil
}

// sourceOp chooses the source by the scheme of the identifier.
func (w *Worker) sourceOp(src *pb.SourceOp, p *pb.Platform, meta *pb.OpMetadata) (solver.Op, error) {
	scheme, rest, _ := strings.Cut(src.Identifier, "://")
	switch scheme {
	case "docker-image":
		return w.imageOp(rest, src.Attrs, p)
	case "oci-layout":
		return w.layoutOp(rest, src.Attrs, p)
	case "docker-image+blob", "oci-layout+blob":
		return w.blobOp(src.Identifier, src.Attrs)
	case "local":
		return w.localOp(rest, src.Attrs)
	case "http", "https":
		return w.httpOp(src.Identifier, src.Attrs)
	case "git":
		return w.gitOp(rest, src.Attrs)
	}
	return nil, fmt.Errorf("not implemented: sources of the kind %s://", scheme)
}

func platform(p *pb.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	return &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

func (w *Worker) imageOp(name string, attrs map[string]string, p *pb.Platform) (solver.Op, error) {
	limit, err := layerLimit(attrs[pb.AttrImageLayerLimit])
	if err != nil {
		return nil, err
	}
	return &sourceOp{layers: true, pin: func(ctx context.Context, d solver.Demand) (*pinned, error) {
		r, err := w.findImage(ctx, asker(d), name, platform(p), attrs[pb.AttrImageResolveMode])
		if err == nil {
			err = checkImage(r, name, attrs)
		}
		if err != nil {
			return nil, err
		}
		return w.pinImage(ctx, d, r, limit, attest.TypeDocker, p)
	}}, nil
}

func (w *Worker) layoutOp(name string, attrs map[string]string, p *pb.Platform) (solver.Op, error) {
	limit, err := layerLimit(attrs[pb.AttrOCILayoutLayerLimit])
	if err != nil {
		return nil, err
	}
	lay := layoutOf(name, attrs)
	return &sourceOp{layers: true, pin: func(ctx context.Context, d solver.Demand) (*pinned, error) {
		r, err := w.Images.ResolveLayout(ctx, group{d}, lay, name, platform(p))
		if err == nil {
			err = checkImage(r, name, attrs)
		}
		if err != nil {
			return nil, err
		}
		return w.pinImage(ctx, d, r, limit, attest.TypeOCI, p)
	}}, nil
}

// layerLimit parses how many layers of an image are wanted, the lowest first; -1 is all.
func layerLimit(v string) (int, error) {
	if v == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n <= 0 {
		return 0, invalid("invalid layer limit %q: want a positive number", v)
	}
	return n, nil
}

// pinImage keys an image by its layers: two names for the same layers are the same. kind is
// the type of its package URL, p the platform that was asked for. Layers that are fetched
// later, by whatever step, are shown where the image is named.
func (w *Worker) pinImage(ctx context.Context, d solver.Demand, r *image.Resolved, limit int, kind string, p *pb.Platform) (*pinned, error) {
	if limit >= 0 && limit < len(r.Layers) {
		c := *r // others use r, too
		c.Layers = r.Layers[:limit]
		r = &c
	}
	var ids [][]byte
	for _, d := range r.DiffIDs() {
		ids = append(ids, []byte(d))
	}
	shown := w.Store.ShowIn(d.Log(), r.DiffIDs())
	if err := w.readEager(ctx, d, r); err != nil {
		shown()
		return nil, err
	}
	return &pinned{
		id:   hash("image", ids...),
		done: shown,
		used: imageUsed(r, kind, platform(p)),
		foreign: func() (buildkit.Step, error) {
			return buildkit.Image(r.Digest, p, limit)
		},
		fetch: func(ctx context.Context, d solver.Demand) (solver.Ref, error) {
			if len(r.Layers) == 0 {
				return NewRef(nil), nil
			}
			s, err := w.Images.Ref(ctx, r)
			if err != nil {
				return nil, err
			}
			return NewRef(s), nil
		},
	}, nil
}

// readEager makes files of all layers of an image if a build behind d wants that now.
func (w *Worker) readEager(ctx context.Context, d solver.Demand, r *image.Resolved) error {
	eager := false
	for j := range d.Jobs() {
		c, ok := j.Value().(Client)
		eager = eager || ok && c.Eager()
	}
	if !eager || len(r.Layers) == 0 {
		return nil
	}
	s, err := w.Images.Ref(ctx, r)
	if err != nil {
		return err
	}
	defer s.Release()
	_, err = s.View(ctx, w.access(d))
	return err
}
