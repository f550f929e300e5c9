package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/history"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/worker"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// capture takes down how one ref of the result res was made. The job must not be closed.
func (b *build) capture(res *frontend.Result, out frontend.Ref) *provenance.Capture {
	r, _ := out.(*ref)
	q := b.root
	switch {
	case r != nil && r.asked != nil:
		q = r.asked
	case r == nil && b.answer != nil: // an empty filesystem, which nobody made
		q = b.answer
	}
	c := &provenance.Capture{
		Request: q.request, ID: b.id, Started: b.started, Finished: time.Now(),
		Platform: platforms.FormatAll(b.d.worker.Platforms[0]), Env: b.d.provenanceEnv,
		Layers: map[llb.Edge][]ocispec.Descriptor{}, Usage: map[digest.Digest]any{},
	}
	if q != b.root && !b.direct {
		c.Root = b.root.request
	}
	if q.request.Frontend == dockerfileFrontend {
		c.DockerfileVersion = buildkitVersion().DockerfileVersion
		if key, remote := q.request.Context(); remote == "" {
			c.Locals = append(c.Locals, key)
		}
	}
	c.Add(b.fetchedByContainers())
	if r != nil {
		c.Graph = r.graph
		c.Add(r.used(c.Layers))
		b.addUsage(c, r)
	}
	// What a frontend read to make the result, but not the results for other platforms.
	all := results(res)
	for _, list := range res.Attestations { // they are about the result
		for _, a := range list {
			all = append(all, a.Ref)
		}
	}
	q.mu.Lock()
	others := slices.Clone(q.refs)
	q.mu.Unlock()
	for _, o := range others {
		if o != r && o.built() && !slices.Contains(all, frontend.Ref(o)) {
			c.Add(o.used(nil))
		}
	}
	return c
}

// used returns what r is made from, and adds the layers of the images among it to layers
// unless that is nil.
func (r *ref) used(layers map[llb.Edge][]ocispec.Descriptor) (out provenance.Used) {
	out.AddGraph(r.graph)
	out.Add(r.fetched())
	sources := worker.Used(r.b.job, r.edge)
	for _, v := range r.graph.Vertices {
		u, ok := sources[v.Digest]
		if !ok {
			continue
		}
		out.Add(u)
		if layers != nil && len(u.Materials) == 1 {
			layers[llb.Edge{Vertex: v}] = u.Materials[0].Layers
		}
	}
	return out
}

// built reports whether r was needed so far.
func (r *ref) built() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.res != nil
}

// provenance is the attestation of how a ref of the result was made.
func (b *build) provenance(o *attest.Provenance, res *frontend.Result, out frontend.Ref) exporter.Attestation {
	return exporter.Attestation{
		PredicateType: provenance.PredicateType(o), Filename: o.Filename, InlineOnly: o.InlineOnly,
		Predicate: func(_ context.Context, layers []snapshot.Blob) ([]byte, error) {
			c := b.capture(res, out)
			if c.Graph != nil && len(layers) > 0 {
				c.Layers[c.Graph.Root] = descriptors(layers)
			}
			return c.Predicate(o)
		},
	}
}

func descriptors(blobs []snapshot.Blob) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, l := range blobs {
		out = append(out, ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
	}
	return out
}

// readProvenanceEnv reads the files of a directory, each a JSON object, that say what the
// operator wants to have in provenance. There need not be such a directory.
func readProvenanceEnv(dir string) (map[string]any, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("provenance environment: %w", err)
	}
	env := map[string]any{}
	for _, e := range entries { // sorted: the last that sets a key wins
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("provenance environment: %w", err)
		}
		if err := json.Unmarshal(b, &env); err != nil {
			return nil, fmt.Errorf("provenance environment: %s is not a JSON object: %w", path, err)
		}
	}
	return env, nil
}

// rememberProvenance adds the provenance of a result to the history. It takes down what
// will be gone when the build is closed; documents are written later, when nobody waits.
func (b *build) rememberProvenance(res *frontend.Result) {
	if b.entry == nil {
		return
	}
	refs := map[string]frontend.Ref{"": res.Ref}
	if len(res.Refs) > 0 {
		refs = res.Refs
	}
	captures := make(map[string]*provenance.Capture, len(refs))
	for platform, r := range refs {
		captures[platform] = b.capture(res, r)
	}
	o := &attest.Provenance{Max: true, Version: attest.V1}
	if asked := b.attests.Provenance; asked != nil {
		o.Version, o.BuilderID, o.Reproducible = asked.Version, asked.BuilderID, asked.Reproducible
		o.CaptureUsage = asked.CaptureUsage
	}
	b.entry.Before(func(e *history.Entry) {
		for platform, c := range captures {
			doc, err := c.Predicate(o)
			if err != nil {
				b.d.log.Warn("provenance for the history", "build", b.id, "err", err)
				continue
			}
			e.Attest(platform, ocispec.Descriptor{
				MediaType: attest.MediaType, Annotations: map[string]string{attest.AnnotationPredicate: provenance.PredicateType(o)},
			}, doc)
		}
	})
}
