package worker

import (
	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/git"
	"github.com/dbuild/dbuild/source/http"
	"github.com/dbuild/dbuild/source/image"
	"github.com/dbuild/dbuild/source/local"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"
)

// Used returns what the sources that e is made from were for a job, by the digest of their
// operation. Sources the job has not looked at are not there.
func Used(j *solver.Job, e solver.Edge) map[digest.Digest]provenance.Used {
	out := map[digest.Digest]provenance.Used{}
	seen := map[*solver.Vertex]bool{}
	for todo := []*solver.Vertex{e.Vertex}; len(todo) > 0; {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if v == nil || seen[v] {
			continue
		}
		seen[v] = true
		for _, in := range v.Inputs {
			todo = append(todo, in.Vertex)
		}
		if len(v.Inputs) > 0 {
			continue
		}
		if pin, ok := j.Pin(v); ok {
			if p, ok := pin.(*pinned); ok {
				out[v.Show.Digest] = p.used
			}
		}
	}
	return out
}

// Pulls reports whether reading the files of a source means to fetch layers of an image.
func Pulls(op solver.Op) bool {
	o, ok := op.(*sourceOp)
	return !ok || o.layers
}

// Directory returns the directory of the client that a job has v for, and what it is
// called; or nil. It is good for as long as the job is open.
func Directory(j *solver.Job, v *solver.Vertex) (tree *local.Tree, name string) {
	pin, _ := j.Pin(v)
	p, ok := pin.(*pinned)
	if !ok || p.tree == nil || len(p.used.Locals) == 0 {
		return nil, ""
	}
	return p.tree, p.used.Locals[0]
}

func imageUsed(r *image.Resolved, kind string, p *ocispec.Platform) provenance.Used {
	m := provenance.Material{Kind: provenance.Image, Name: r.Name, Digest: digests(r.Digest)}
	if p == nil {
		d := platforms.DefaultSpec()
		p = &d
	}
	var err error
	if m.URI, err = attest.ImageURL(kind, r.Name, p); err != nil {
		m.URI = r.Name // it was parsed before
	}
	for _, l := range r.Layers {
		m.Layers = append(m.Layers, l.Blob)
	}
	return provenance.Used{Materials: []provenance.Material{m}}
}

func httpUsed(url string, p *http.Pin) provenance.Used {
	return provenance.Used{Materials: []provenance.Material{{
		Kind: provenance.HTTP, Name: url, URI: url, Digest: digests(p.Digest),
	}}}
}

func gitUsed(r git.Request, p *git.Pin) provenance.Used {
	uri := r.Remote
	if r.Ref != "" {
		uri += "#" + r.Ref
	}
	algorithm := "sha1"
	if len(p.Commit) == 64 {
		algorithm = "sha256"
	}
	used := provenance.Used{Materials: []provenance.Material{{
		Kind: provenance.Git, Name: uri, URI: uri, Digest: map[string]string{algorithm: p.Commit},
	}}}
	if b, err := image.ParseBlob(r.Bundle, image.Layout{}); r.Bundle != "" && err == nil {
		used.Materials = append(used.Materials, blobUsed(b, packageurl.Qualifier{Key: "ref_type", Value: "bundle"}, packageurl.Qualifier{Key: "vcs_url", Value: uri}))
	}
	return used
}

// blobUsed is a document known by its digest; the qualifiers say in which role.
func blobUsed(b *image.Blob, role ...packageurl.Qualifier) provenance.Material {
	kind := attest.TypeDocker
	if b.Lent() {
		kind = attest.TypeOCI
	}
	m := provenance.Material{Kind: provenance.HTTP, Name: b.Ref, Digest: digests(b.Digest)}
	var err error
	if m.URI, err = attest.ImageURL(kind, b.Ref, nil, role...); err != nil {
		m.URI = b.Ref // it was parsed before
	}
	return m
}

func digests(d digest.Digest) map[string]string {
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}
