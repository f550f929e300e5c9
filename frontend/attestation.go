package frontend

import digest "github.com/opencontainers/go-digest"

// An Attestation is a file of Ref, or for a bundle all files of a directory of it, that
// says something about a result.
type Attestation struct {
	// Bundle: each file is a whole in-toto statement. Else the file is a predicate, of the
	// type PredicateType and about Subjects; without any it is about the result.
	Bundle        bool
	Ref           Ref
	Path          string
	PredicateType string
	Subjects      []Subject
	Metadata      map[string][]byte // see the Attestation constants
}

// A Subject is what an attestation is about: the result if Self, else what is named.
type Subject struct {
	Self    bool
	Name    string
	Digests []digest.Digest
}

// Keys of the metadata of attestations.
const (
	// AttestationReason says who wanted it: sbom, provenance.
	AttestationReason = "reason"
	// AttestationSBOMCore names the file, in a directory of several, that lists the result
	// itself and not something that was used to make it.
	AttestationSBOMCore = "sbom-core"
	// AttestationInlineOnly is "true" for what is left out where it would be a file among
	// those of the result.
	AttestationInlineOnly = "inline-only"
)
