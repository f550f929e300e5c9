package daemon

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/sbom"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
)

// attest makes what exporters attach to a result: what the frontend says about it, and
// what the client asked the builder for.
func (b *build) attest(ctx context.Context, res *frontend.Result, src exporter.Source) (map[string][]exporter.Attestation, error) {
	if len(res.Attestations) == 0 && b.attests == (attest.Options{}) {
		return nil, nil
	}
	parts, err := src.Parts()
	if err != nil {
		return nil, err
	}
	if err := checkParts(res, parts); err != nil {
		return nil, err
	}
	out := map[string][]exporter.Attestation{}
	budget := int64(maxAttestations)
	for _, p := range parts {
		r := res.Ref
		if res.Refs != nil {
			r = res.Refs[p.ID]
		}
		given := res.Attestations[p.ID]
		if b.attests.SBOM != nil && r != nil && !slices.ContainsFunc(given, sbom.Is) {
			a, err := b.scan(ctx, r, p, src.Multi())
			if err != nil {
				return nil, err
			}
			given = append(slices.Clip(given), a)
		}
		for _, a := range given {
			list, err := b.takeAttestation(ctx, a, p, &budget)
			if err != nil {
				return nil, fmt.Errorf("attestation %s: %w", a.Path, err)
			}
			out[p.ID] = append(out[p.ID], list...)
		}
		if b.attests.Provenance != nil {
			out[p.ID] = append(out[p.ID], b.provenance(b.attests.Provenance, res, r))
		}
	}
	return out, nil
}

// Bounds of attestations that frontends make, in bytes: of one file, and of all files of a
// build, which are in memory while it is exported.
const (
	maxAttestation  = 80 << 20
	maxAttestations = 256 << 20
)

// checkParts refuses attestations of what is not in the result.
func checkParts(res *frontend.Result, parts []exporter.Platform) error {
	for id, list := range res.Attestations {
		if len(list) > 0 && !slices.ContainsFunc(parts, func(p exporter.Platform) bool { return p.ID == id }) {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the frontend returned attestations for platform %q, which is not in its result", id))
		}
	}
	return nil
}

// scan has the packages of a result listed, for frontends that do not care for that.
func (b *build) scan(ctx context.Context, r frontend.Ref, p exporter.Platform, multi bool) (a frontend.Attestation, err error) {
	s, err := sbom.Find(ctx, b, b.attests.SBOM, "")
	if err != nil {
		return a, err
	}
	g, err := llb.Load(r.Definition(), llb.Limits{})
	if err != nil {
		return a, err
	}
	label := ""
	if multi {
		label = p.ID
	}
	def, err := llb.Marshal(ctx, s.Scan(g.Output(), nil, label), p.Platform)
	if err != nil {
		return a, err
	}
	found, err := b.Solve(ctx, def)
	return sbom.Attestation(found), err
}

// takeAttestation reads what is attached to a part of the result, and takes its size from
// budget.
func (b *build) takeAttestation(ctx context.Context, a frontend.Attestation, part exporter.Platform, budget *int64) ([]exporter.Attestation, error) {
	r, ok := a.Ref.(*ref)
	if !ok || r == nil {
		return nil, fmt.Errorf("it is in no filesystem")
	}
	tree, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	inline := string(a.Metadata[frontend.AttestationInlineOnly]) == "true"
	if !a.Bundle {
		out := exporter.Attestation{PredicateType: a.PredicateType, Filename: path.Base(a.Path), InlineOnly: inline}
		for _, s := range a.Subjects {
			sub := exporter.Subject{Self: s.Self, Subject: attest.Subject{Name: s.Name, Digest: map[string]string{}}}
			for _, d := range s.Digests {
				sub.Digest[d.Algorithm().String()] = d.Encoded()
			}
			out.Subjects = append(out.Subjects, sub)
		}
		doc, err := whole(tree, a.Path, budget)
		if err != nil {
			return nil, err
		}
		out.Predicate = b.predicate(doc, isCore(a, out.Filename), part)
		return []exporter.Attestation{out}, nil
	}
	dir, err := resolve(tree, a.Path)
	if err != nil {
		return nil, err
	}
	names, err := tree.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []exporter.Attestation
	for _, name := range names {
		doc, err := whole(tree, path.Join(a.Path, name), budget)
		if err != nil {
			return nil, err
		}
		s, err := attest.ParseStatement(doc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		x := exporter.Attestation{
			PredicateType: s.PredicateType, Filename: name, InlineOnly: inline,
			Predicate: b.predicate(s.Predicate, isCore(a, name), part),
		}
		for _, sub := range s.Subject {
			// "_" without a digest stands for whatever the statement is attached to.
			x.Subjects = append(x.Subjects, exporter.Subject{Self: sub.Name == "_" && len(sub.Digest) == 0, Subject: sub})
		}
		out = append(out, x)
	}
	return out, nil
}

// isCore reports whether a file lists what is in the result itself.
func isCore(a frontend.Attestation, name string) bool {
	core := string(a.Metadata[frontend.AttestationSBOMCore])
	stem, _, _ := strings.Cut(name, ".")
	return core != "" && stem == core
}

// predicate is a document as it is, or if it lists the files of the part, with the layers
// that they are in.
func (b *build) predicate(doc []byte, lists bool, part exporter.Platform) func(context.Context, []snapshot.Blob) ([]byte, error) {
	return func(ctx context.Context, layers []snapshot.Blob) ([]byte, error) {
		if !lists || len(layers) == 0 || part.Ref == nil {
			return doc, nil
		}
		view, err := part.Ref.View(ctx, snapshot.Access{Group: b.group()})
		if err != nil {
			return nil, err
		}
		return attest.AddLayers(doc, func(file string) string {
			depth, err := view.Depth(strings.Trim(path.Clean("/"+file), "/"))
			if err != nil || depth >= len(layers) {
				return "" // the scanner may list what is not there
			}
			return layers[len(layers)-1-depth].Digest.String()
		})
	}
}

// whole reads a file that is an attestation.
func whole(tree treehash.FS, p string, budget *int64) ([]byte, error) {
	f, size, err := openFile(tree, p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if limit := min(maxAttestation, *budget); size > limit {
		return nil, fmt.Errorf("%s is larger than the %d MiB that are left for attestations", p, limit>>20)
	}
	b, err := io.ReadAll(io.LimitReader(f, size))
	*budget -= int64(len(b))
	return b, err
}
