package buildflags

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	"github.com/distribution/reference"
)

// Transports by which images of this machine are named, as skopeo and buildah know them.
const (
	DockerDaemon     = "docker-daemon"
	ContainerdStore  = "containerd"
	containerStorage = "containers-storage" // podman's
)

// A LocalImage is an image in an engine of this machine.
type LocalImage struct {
	Transport string // DockerDaemon or ContainerdStore
	Name      string // full, with a tag or a digest; or an id
}

// isLocalImage tells whether a context is such an image.
func isLocalImage(value string) bool {
	t, _, ok := strings.Cut(value, ":")
	return ok && (t == DockerDaemon || t == ContainerdStore || t == containerStorage)
}

// localImage lends an image of an engine.
func (s *Sources) localImage(flag, key, value string, attrs map[string]string) error {
	transport, name, _ := strings.Cut(value, ":")
	if transport == containerStorage {
		return fmt.Errorf("not implemented: --build-context %q: images of podman; \"podman save --format=oci-dir -o DIR\" makes a layout for oci-layout://DIR", flag)
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return fmt.Errorf("--build-context %q: %q is not an image name: %w", flag, name, err)
	}
	if s.Images == nil {
		s.Images = map[string]LocalImage{}
	}
	s.Images[key] = LocalImage{Transport: transport, Name: named.String()}
	attrs[key] = value // until the image is looked up
	return nil
}

// localTransport reads --local-images.
func (f *Flags) localTransport() (string, error) {
	transports := map[string]string{"docker": DockerDaemon, "containerd": ContainerdStore, "never": ""}
	t, ok := transports[f.LocalImages]
	switch {
	case !ok:
		names := slices.Sorted(maps.Keys(transports))
		hint := ""
		if s := suggest.Nearest(f.LocalImages, names); s != "" {
			hint = fmt.Sprintf(" (did you mean %s?)", s)
		}
		return "", fmt.Errorf("--local-images=%s: there are %s%s", f.LocalImages, strings.Join(names, ", "), hint)
	case t == "":
	case f.Locked:
		return "", fmt.Errorf("--local-images and --locked exclude each other: a lock says where all images come from")
	case f.Pull.Newest:
		return "", fmt.Errorf("--local-images and --pull exclude each other: one prefers local images, the other those of registries")
	}
	return t, nil
}
