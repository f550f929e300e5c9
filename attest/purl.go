package attest

import (
	"path"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	packageurl "github.com/package-url/packageurl-go"
)

// Types of package URLs.
const (
	TypeDocker = "docker" // an image of a registry
	TypeOCI    = "oci"    // an image of a layout
)

// ImageURL returns the package URL of an image, such as
// pkg:docker/alpine@3.20?platform=linux%2Famd64. The qualifiers are added to it.
func ImageURL(kind, ref string, p *ocispec.Platform, qualifiers ...packageurl.Qualifier) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", err
	}
	named = reference.TagNameOnly(named)
	var version string
	var more packageurl.Qualifiers
	if t, ok := named.(reference.Tagged); ok {
		version = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		more = append(more, packageurl.Qualifier{Key: "digest", Value: d.Digest().String()})
	}
	if p != nil {
		more = append(more, packageurl.Qualifier{Key: "platform", Value: platforms.Format(platforms.Normalize(*p))})
	}
	name := reference.FamiliarName(named)
	dir := path.Dir(name)
	if dir == "." {
		dir = ""
	}
	return packageurl.NewPackageURL(kind, dir, path.Base(name), version, append(more, qualifiers...), "").ToString(), nil
}

// Blob marks a package URL as that of a single blob.
var Blob = packageurl.Qualifier{Key: "ref_type", Value: "blob"}
