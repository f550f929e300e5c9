package exporter

import (
	"errors"
	"fmt"
	"maps"
	"regexp"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations are what goes on an image's documents, by platform id; "" is all.
type Annotations map[string]*Annotated

// Annotated is what goes where.
type Annotated struct {
	Index, IndexDescriptor       map[string]string
	Manifest, ManifestDescriptor map[string]string
}

func newAnnotated() *Annotated {
	return &Annotated{
		Index: map[string]string{}, IndexDescriptor: map[string]string{},
		Manifest: map[string]string{}, ManifestDescriptor: map[string]string{},
	}
}

// annotationKey is "annotation.k", "annotation-manifest[linux/amd64].k" and so on: the
// level, a platform, the annotation itself.
var annotationKey = regexp.MustCompile(`^annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/.-]+)\])?\.(\S+)$`)

// IsAnnotation reports whether an option or metadata key is an annotation.
func IsAnnotation(key string) bool { return annotationKey.MatchString(key) }

// Set adds the annotation that key and value stand for.
func (as Annotations) Set(key, value string) error {
	m := annotationKey.FindStringSubmatch(key)
	if m == nil {
		return fmt.Errorf("%s is not an annotation", key)
	}
	level, id, name := m[1], m[2], m[3]
	if id != "" {
		p, err := platforms.Parse(id)
		if err != nil {
			return fmt.Errorf("annotation %s: %q is not a platform", key, id)
		}
		id = platforms.FormatAll(p)
	}
	a := as[id]
	if a == nil {
		a = newAnnotated()
		as[id] = a
	}
	switch level {
	case "", "manifest":
		a.Manifest[name] = value
	case "manifest-descriptor":
		a.ManifestDescriptor[name] = value
	case "index", "index-descriptor":
		if id != "" {
			return fmt.Errorf("annotation %s: an index is not of one platform", key)
		}
		if level == "index" {
			a.Index[name] = value
		} else {
			a.IndexDescriptor[name] = value
		}
	default:
		return fmt.Errorf("annotation %s: there is no level %q (want manifest, manifest-descriptor, index or index-descriptor)", key, level)
	}
	return nil
}

// With returns as and what metadata adds.
func (as Annotations) With(metadata map[string][]byte) (Annotations, error) {
	out := Annotations{}
	for id, a := range as {
		out[id] = &Annotated{
			Index: maps.Clone(a.Index), IndexDescriptor: maps.Clone(a.IndexDescriptor),
			Manifest: maps.Clone(a.Manifest), ManifestDescriptor: maps.Clone(a.ManifestDescriptor),
		}
	}
	for k, v := range metadata {
		if IsAnnotation(k) {
			if err := out.Set(k, string(v)); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// For returns what goes on the documents of one platform.
func (as Annotations) For(p ocispec.Platform) *Annotated {
	out := newAnnotated()
	for _, id := range []string{"", platforms.FormatAll(p)} {
		if a := as[id]; a != nil {
			maps.Copy(out.Manifest, a.Manifest)
			maps.Copy(out.ManifestDescriptor, a.ManifestDescriptor)
		}
	}
	return out
}

// All returns what goes on the index.
func (as Annotations) All() *Annotated {
	if a := as[""]; a != nil {
		return a
	}
	return newAnnotated()
}

// check refuses annotations that have nowhere to go.
func (as Annotations) check(parts []Platform, multi, oci bool) error {
	for id, a := range as {
		found := id == ""
		for _, p := range parts {
			found = found || platforms.FormatAll(p.Platform) == id || p.ID == id
		}
		if !found {
			return fmt.Errorf("annotation for platform %s: the result has no such platform", id)
		}
		if !oci && len(a.Index)+len(a.IndexDescriptor)+len(a.ManifestDescriptor) > 0 {
			return errors.New(`annotations other than of the manifest cannot be written with "oci-mediatypes=false"`)
		}
		if !multi && len(a.Index)+len(a.IndexDescriptor) > 0 {
			return errors.New("an image for a single platform has no index to annotate")
		}
	}
	return nil
}
