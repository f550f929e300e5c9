package exporter

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Report tells whoever wants to know that img has been exported.
func (a Access) Report(img *Image) {
	if a.Made != nil {
		a.Made(img)
	}
}

// Response tells a client about an image. Its descriptor carries the time of creation,
// if there is one, as an annotation.
func (img *Image) Response() (map[string]string, error) {
	b, err := json.Marshal(img.Descriptor())
	if err != nil {
		return nil, err
	}
	resp := map[string]string{
		RespDigest:     img.Top.Digest.String(),
		RespDescriptor: base64.StdEncoding.EncodeToString(b),
	}
	if img.Index == nil {
		resp[RespConfigDigest] = img.Manifests[0].Config.Digest.String()
	}
	return resp, nil
}

// Descriptor returns Top with the time of creation.
func (img *Image) Descriptor() ocispec.Descriptor {
	d := img.Top
	if img.Created == nil || d.Annotations[ocispec.AnnotationCreated] != "" {
		return d
	}
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[ocispec.AnnotationCreated] = img.Created.UTC().Format(time.RFC3339)
	return d
}

// Names splits a comma list of image names and normalises them. "*" stands for what the
// frontend calls the image.
func (s Source) Names(list string) ([]string, error) {
	if list == "*" {
		list = string(s.Metadata[KeyImageName])
	}
	var out []string
	for n := range strings.SplitSeq(list, ",") {
		if n = strings.TrimSpace(n); n == "" {
			continue
		}
		named, err := registry.ParseRef(n)
		if err != nil {
			return nil, fmt.Errorf("name=%s: this is not a valid image name", n)
		}
		out = append(out, named.String())
	}
	return out, nil
}
