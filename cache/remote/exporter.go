package remote

import (
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
)

// NewExporter returns what writes a cache for one request, or says what is wrong with the
// entry. It is nil for a cache inside the image: see Inline.
func NewExporter(cfg Config, e Entry) (*Exporter, error) {
	a := exporter.NewAttrs(e.Type+" cache", e.Attrs)
	switch e.Type {
	case "inline":
		if mounts, _, err := mountOptions(a); err != nil || !mounts.None() {
			return nil, errdefs.ErrInvalidArgument.WithMessage("an image carries no cache mounts: export them with another type of cache than inline")
		}
		return nil, nil
	case "registry":
		return newRegistryExporter(cfg.Registry, a)
	case "local":
		return newLocalExporter(cfg.Sessions, a)
	}
	if open := cfg.Objects[e.Type]; open != nil {
		return newObjectsExporter(e.Type, open, a)
	}
	return nil, unknown("exporter", e.Type)
}
