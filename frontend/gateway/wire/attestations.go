// Package wire says attestations as BuildKit's gateway API does: to a frontend that runs
// elsewhere, and as one to a builder.
package wire

import (
	"fmt"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	digest "github.com/opencontainers/go-digest"
)

// Attestations are those of a result as messages; give names a ref to the other side.
func Attestations(in map[string][]frontend.Attestation, give func(frontend.Ref) *gwpb.Ref) map[string]*gwpb.Attestations {
	if len(in) == 0 {
		return nil
	}
	out := map[string]*gwpb.Attestations{}
	for platform, list := range in {
		to := &gwpb.Attestations{}
		for _, a := range list {
			att := &gwpb.Attestation{Metadata: a.Metadata, Ref: give(a.Ref), Path: a.Path, InTotoPredicateType: a.PredicateType}
			if a.Bundle {
				att.Kind = gwpb.AttestationKind_Bundle
			}
			for _, s := range a.Subjects {
				sub := &gwpb.InTotoSubject{Kind: gwpb.InTotoSubjectKind_Raw, Name: s.Name}
				if s.Self {
					sub.Kind = gwpb.InTotoSubjectKind_Self
				}
				for _, d := range s.Digests {
					sub.Digest = append(sub.Digest, d.String())
				}
				att.InTotoSubjects = append(att.InTotoSubjects, sub)
			}
			to.Attestation = append(to.Attestation, att)
		}
		out[platform] = to
	}
	return out
}

// ParseAttestations reads messages; ref returns what the other side means by an id.
func ParseAttestations(in map[string]*gwpb.Attestations, ref func(id string) (frontend.Ref, error)) (map[string][]frontend.Attestation, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := map[string][]frontend.Attestation{}
	for platform, list := range in {
		for i, att := range list.GetAttestation() {
			a, err := takeAttestation(att, ref)
			if err != nil {
				return nil, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("attestation %d of %s: %v", i, platform, err))
			}
			out[platform] = append(out[platform], a)
		}
	}
	return out, nil
}

func takeAttestation(att *gwpb.Attestation, ref func(id string) (frontend.Ref, error)) (a frontend.Attestation, err error) {
	a = frontend.Attestation{Path: att.GetPath(), PredicateType: att.GetInTotoPredicateType(), Metadata: att.GetMetadata()}
	switch att.GetKind() {
	case gwpb.AttestationKind_InToto:
		if a.PredicateType == "" {
			return a, fmt.Errorf("it has no predicate type")
		}
	case gwpb.AttestationKind_Bundle:
		a.Bundle = true
	default:
		return a, fmt.Errorf("unknown kind %d", att.GetKind())
	}
	if a.Ref, err = ref(att.GetRef().GetId()); err != nil {
		return a, err
	}
	if a.Ref == nil {
		return a, fmt.Errorf("it is in no filesystem")
	}
	for _, s := range att.GetInTotoSubjects() {
		sub := frontend.Subject{Name: s.GetName()}
		switch s.GetKind() {
		case gwpb.InTotoSubjectKind_Self:
			sub.Self = true
		case gwpb.InTotoSubjectKind_Raw:
		default:
			return a, fmt.Errorf("unknown kind of subject %d", s.GetKind())
		}
		for _, d := range s.GetDigest() {
			dgst, err := digest.Parse(d)
			if err != nil {
				return a, fmt.Errorf("subject %s: %q is not a digest", s.GetName(), d)
			}
			sub.Digests = append(sub.Digests, dgst)
		}
		a.Subjects = append(a.Subjects, sub)
	}
	return a, nil
}
