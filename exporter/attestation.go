package exporter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/internal/snapshot"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Attestation says something about one part of a result.
type Attestation struct {
	PredicateType string
	Subjects      []Subject // none is the part itself
	Filename      string    // where results are files
	InlineOnly    bool      // left out where it would be a file among others
	// Predicate returns what it says. The layers of the part are given to it where there
	// are any: it may want to name them.
	Predicate func(ctx context.Context, layers []snapshot.Blob) ([]byte, error)
}

// A Subject is the part that an attestation is about, if Self, or something else.
type Subject struct {
	Self bool
	attest.Subject
}

// subjects puts self in the place of what stands for the part.
func (a *Attestation) subjects(self []attest.Subject) []attest.Subject {
	if len(a.Subjects) == 0 {
		return self
	}
	var out []attest.Subject
	for _, s := range a.Subjects {
		if s.Self {
			out = append(out, self...)
		} else {
			out = append(out, s.Subject)
		}
	}
	return out
}

// An attested is an attestation that has been made, but for its subject.
type attested struct {
	*Attestation
	predicate []byte
}

// attestAll has the attestations of a part made.
func attestAll(ctx context.Context, list []Attestation, layers []snapshot.Blob) ([]attested, error) {
	var out []attested
	for i := range list {
		b, err := list[i].Predicate(ctx, layers)
		if err != nil {
			return nil, err
		}
		out = append(out, attested{&list[i], b})
	}
	return out, nil
}

// An Attach says where the attestations of an image go.
type Attach string

// Ways to attach.
const (
	AttachIndex     Attach = "index"     // the index names them beside the images, as BuildKit does it
	AttachReferrers Attach = "referrers" // they refer to the images, which are as without them
	AttachNone      Attach = "none"      // nowhere: other outputs of the build have them
)

// attachFrom takes the option of that name.
func attachFrom(a *Attrs) Attach {
	switch v := Attach(a.String("attestation-attach")); v {
	case "":
		return AttachIndex
	case AttachIndex, AttachReferrers, AttachNone:
		return v
	default:
		a.refuse("attestation-attach=%s is not one of index, referrers, none", v)
		return ""
	}
}

// Attested reports whether an image of src has an index only because of attestations.
func (o ImageOptions) Attested(src Source) bool {
	return !src.Multi() && o.Attach == AttachIndex && o.attests(src)
}

// attests reports whether there is an attestation that is reason enough to change an image.
func (o ImageOptions) attests(src Source) bool {
	for _, list := range src.Attestations {
		for _, a := range list {
			if !a.InlineOnly || o.AttestInline {
				return true
			}
		}
	}
	return false
}

// What marks an attestation manifest in an index, and as an artifact.
const (
	annotationRefType   = "vnd.docker.reference.type"
	annotationRefDigest = "vnd.docker.reference.digest"
	attestationManifest = "attestation-manifest"
	attestationArtifact = "application/vnd.docker.attestation.manifest.v1+json"
)

// attestation writes the manifest of a part's attestations.
func (in partInput) attestation(about ocispec.Descriptor, o ImageOptions) (*Manifest, error) {
	self, err := in.imageSubjects(about.Digest, o.Names)
	if err != nil {
		return nil, err
	}
	doc := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m := &Manifest{About: about.Digest}
	for _, a := range in.attested {
		b, err := attest.NewStatement(a.PredicateType, a.predicate, a.subjects(self))
		if err != nil {
			return nil, err
		}
		l := memoryBlob(attest.MediaType, b)
		l.Annotations = map[string]string{attest.AnnotationPredicate: a.PredicateType}
		doc.Layers = append(doc.Layers, l.Descriptor)
		m.Layers = append(m.Layers, l)
		m.statements = append(m.statements, b)
	}
	if o.Artifact || o.Attach == AttachReferrers {
		doc.ArtifactType = attestationArtifact
		doc.Subject = &ocispec.Descriptor{MediaType: about.MediaType, Digest: about.Digest, Size: about.Size}
		doc.Config, m.ConfigData = ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data
	} else {
		img := ocispec.Image{Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"}, RootFS: ocispec.RootFS{Type: "layers"}}
		for _, l := range doc.Layers {
			img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, l.Digest)
		}
		if m.ConfigData, err = json.Marshal(img); err != nil {
			return nil, err
		}
		doc.Config = ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(m.ConfigData), Size: int64(len(m.ConfigData)),
		}
	}
	m.Config = doc.Config
	if m.Data, err = json.MarshalIndent(doc, "", "  "); err != nil {
		return nil, err
	}
	m.Desc = ocispec.Descriptor{
		MediaType: doc.MediaType, Digest: digest.FromBytes(m.Data), Size: int64(len(m.Data)),
		Annotations: map[string]string{annotationRefType: attestationManifest, annotationRefDigest: about.Digest.String()},
		Platform:    &ocispec.Platform{OS: "unknown", Architecture: "unknown"},
	}
	if o.Attach == AttachReferrers {
		// As lists of referrers have it.
		m.Desc.ArtifactType, m.Desc.Annotations, m.Desc.Platform = doc.ArtifactType, doc.Annotations, nil
	}
	return m, nil
}

// imageSubjects are the names that the image of a part gets.
func (in partInput) imageSubjects(d digest.Digest, names []string) ([]attest.Subject, error) {
	sums := map[string]string{d.Algorithm().String(): d.Encoded()}
	var out []attest.Subject
	for _, n := range names {
		p := in.Platform.Platform
		u, err := attest.ImageURL(attest.TypeDocker, n, &p)
		if err != nil {
			return nil, fmt.Errorf("name of %s in an attestation: %w", n, err)
		}
		out = append(out, attest.Subject{Name: u, Digest: sums})
	}
	if len(out) == 0 {
		out = append(out, attest.Subject{Name: "_", Digest: sums})
	}
	return out, nil
}

// memoryBlob is a blob with these bytes.
func memoryBlob(mediaType string, b []byte) snapshot.Blob {
	return MemoryBlob(ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, b)
}

// MemoryBlob is the blob d, whose bytes are b.
func MemoryBlob(d ocispec.Descriptor, b []byte) snapshot.Blob {
	return snapshot.Blob{
		Descriptor: d,
		Local:      true,
		Open: func(context.Context, bksession.Group) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b)), nil
		},
	}
}
