package dockerfile

import (
	"maps"
	"slices"

	"github.com/containerd/platforms"
	spec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	scratch        = "scratch"
	windows        = "windows"
	historyComment = "buildkit.dockerfile.v0"
	defaultPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// emptyConfig is the image config of FROM scratch.
func emptyConfig(p ocispec.Platform) *spec.DockerOCIImage {
	img := &spec.DockerOCIImage{}
	img.Platform = p
	img.OSFeatures = slices.Clone(p.OSFeatures)
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	if p.OS != windows { // which has its own
		img.Config.Env = []string{"PATH=" + defaultPath}
	}
	return img
}

// cloneConfig copies what instructions change.
func cloneConfig(img *spec.DockerOCIImage) *spec.DockerOCIImage {
	if img == nil {
		return nil
	}
	c := *img
	c.Config.Env = slices.Clone(img.Config.Env)
	c.Config.Cmd = slices.Clone(img.Config.Cmd)
	c.Config.Entrypoint = slices.Clone(img.Config.Entrypoint)
	c.Config.OnBuild = slices.Clone(img.Config.OnBuild)
	c.Config.Shell = slices.Clone(img.Config.Shell)
	c.Config.ExposedPorts = maps.Clone(img.Config.ExposedPorts)
	c.Config.Volumes = maps.Clone(img.Config.Volumes)
	c.Config.Labels = maps.Clone(img.Config.Labels)
	c.History = slices.Clone(img.History)
	return &c
}

// isEmptyImage reports whether an image has no layers.
func isEmptyImage(img *spec.DockerOCIImage) bool {
	if len(img.RootFS.DiffIDs) > 0 {
		return false
	}
	// A schema 1 image does not list its layers, but its history shows them.
	return !slices.ContainsFunc(img.History, func(h ocispec.History) bool { return !h.EmptyLayer })
}

// commit adds an instruction to the history. A layer is what changed files.
func (s *stage) commit(text string, layer bool) {
	if layer && s.layers >= 0 {
		s.layers++
	}
	s.image.History = append(s.image.History, ocispec.History{
		CreatedBy:  text,
		Comment:    historyComment,
		EmptyLayer: !layer,
		Created:    s.epoch,
	})
}

// finish makes the config of the target's image that of the result.
func (b *build) finish(s *stage) {
	if len(b.opts.labels) > 0 && s.image.Config.Labels == nil {
		s.image.Config.Labels = map[string]string{}
	}
	maps.Copy(s.image.Config.Labels, b.opts.labels)
	img, t := s.image, b.target
	if !b.implicit {
		same := t.OS == img.OS && t.Architecture == img.Architecture
		img.OS, img.Architecture = t.OS, t.Architecture
		if t.Variant != "" || !same {
			img.Variant = t.Variant
		}
		if t.OSVersion != "" || !same {
			img.OSVersion = t.OSVersion
		}
		if t.OSFeatures != nil {
			img.OSFeatures = slices.Clone(t.OSFeatures)
		}
	}
	img.Platform = platforms.Normalize(img.Platform)
}
