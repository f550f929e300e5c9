package daemon

import (
	"context"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/exporter/image"
	"github.com/dbuild/dbuild/exporter/local"
	"github.com/dbuild/dbuild/exporter/oci"
	"github.com/dbuild/dbuild/exporter/tar"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
)

// exporters makes the exporters of a request: what is wrong with them is said before
// anything is built.
func (d *Daemon) exporters(r *request) ([]exporter.Exporter, error) {
	var out []exporter.Exporter
	for i, e := range r.exporters {
		attrs, err := compatible(e.GetType(), e.GetAttrs(), int(r.compatibility))
		if err != nil {
			return nil, err
		}
		x, err := d.exporter(i, e.GetType(), attrs)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// newest is the version of BuildKit's behaviour whose defaults are ours.
const newest = 30

// compatible returns attrs with the defaults that images had in an older version.
func compatible(kind string, attrs map[string]string, version int) (map[string]string, error) {
	if version == 0 || version >= newest || kind != "image" && kind != "oci" && kind != "docker" {
		return attrs, nil
	}
	if version == 10 && attrs["compression"] == "zstd" {
		return nil, bkerrdefs.NewUnsupportedCompatibilityFeatureError(version, kind+" exporter compression=zstd")
	}
	out := map[string]string{"oci-artifact": "false"}
	if kind != "oci" {
		out["oci-mediatypes"] = "false"
	}
	maps.Copy(out, attrs)
	return out, nil
}

// exporter makes the i-th exporter of a request.
func (d *Daemon) exporter(i int, kind string, attrs map[string]string) (exporter.Exporter, error) {
	to := exporter.Client{Sessions: d.sessions.BuildKit(), Index: i}
	switch kind {
	case "image":
		return image.New(image.Config{Store: d.store, Registry: d.registry}, attrs)
	case "push":
		return image.NewPusher(image.Config{Store: d.store, Registry: d.registry}, attrs)
	case "imagetools":
		return image.NewTools(d.registry, attrs)
	case "oci", "docker":
		return oci.New(to, oci.Kind(kind), attrs)
	case "local":
		return local.New(to, attrs)
	case "tar":
		return tar.New(to, attrs)
	case "cacheonly":
		return nothing{}, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("exporter %q is not known here: use image, oci, docker, local, tar or cacheonly", kind))
}

// nothing leaves the result in the cache.
type nothing struct{}

func (nothing) Name() string { return "keeping the result in the cache" }

func (nothing) Export(context.Context, exporter.Source, exporter.Access) (map[string]string, error) {
	return map[string]string{}, nil
}
