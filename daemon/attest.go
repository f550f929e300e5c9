package daemon

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/internal/treehash"
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
	out := map[string][]exporter.Attestation{}
	for _, p := range parts {
		for _, a := range res.Attestations[p.ID] {
			list, err := takeAttestation(ctx, a)
			if err != nil {
				return nil, fmt.Errorf("attestation %s: %w", a.Path, err)
			}
			out[p.ID] = append(out[p.ID], list...)
		}
		if b.attests.Provenance != nil {
			r := res.Ref
			if res.Refs != nil {
				r = res.Refs[p.ID]
			}
			out[p.ID] = append(out[p.ID], b.provenance(b.attests.Provenance, res, r))
		}
	}
	return out, nil
}

// maxAttestation bounds the size of a file with an attestation, in bytes.
const maxAttestation = 80 << 20

// takeAttestation reads what a frontend attached.
func takeAttestation(ctx context.Context, a frontend.Attestation) ([]exporter.Attestation, error) {
	r, ok := a.Ref.(*ref)
	if !ok || r == nil {
		return nil, fmt.Errorf("it is in no filesystem")
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
		b, err := r.whole(ctx, a.Path, maxAttestation)
		if err != nil {
			return nil, err
		}
		out.Predicate = func(context.Context, []snapshot.Blob) ([]byte, error) { return b, nil }
		return []exporter.Attestation{out}, nil
	}
	tree, dir, err := r.files(ctx, a.Path)
	if err != nil {
		return nil, err
	}
	names, err := tree.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []exporter.Attestation
	for _, name := range names {
		b, err := r.whole(ctx, path.Join(a.Path, name), maxAttestation)
		if err != nil {
			return nil, err
		}
		s, err := attest.ParseStatement(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		x := exporter.Attestation{
			PredicateType: s.PredicateType, Filename: name, InlineOnly: inline,
			Predicate: func(context.Context, []snapshot.Blob) ([]byte, error) { return s.Predicate, nil },
		}
		for _, sub := range s.Subject {
			// "_" without a digest stands for whatever the statement is attached to.
			x.Subjects = append(x.Subjects, exporter.Subject{Self: sub.Name == "_" && len(sub.Digest) == 0, Subject: sub})
		}
		out = append(out, x)
	}
	return out, nil
}

// whole reads a file of no more than limit bytes.
func (r *ref) whole(ctx context.Context, p string, limit int64) ([]byte, error) {
	tree, resolved, err := r.files(ctx, p)
	if err != nil {
		return nil, err
	}
	return readFile(tree, resolved, limit)
}

func readFile(tree treehash.FS, p string, limit int64) ([]byte, error) {
	st, err := tree.Lstat(p)
	if err != nil {
		return nil, err
	}
	if !fs.FileMode(st.Mode).IsRegular() {
		return nil, fmt.Errorf("%s is not a file", p)
	}
	if st.Size > limit {
		return nil, fmt.Errorf("%s is larger than %d MiB", p, limit>>20)
	}
	f, err := tree.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}
