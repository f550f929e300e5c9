package remote

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/snapshot"
)

// options are what the caches that are written to a place of their own share.
type options struct {
	all         bool // results of all steps, not only those that are part of the last one's
	ignoreError bool
	oci         bool // media types of OCI, not of Docker
	manifest    bool // a manifest, not an index
	foreign     bool // BuildKit's names, too
	builds      int  // that a cache is about which is appended to; 0 replaces what is there
	compression snapshot.Compression
	mounts      Selection
	mountsMax   int64 // size of the largest that is written, in bytes; 0 is no limit
}

func optionsFrom(a *exporter.Attrs) (options, error) {
	// As with BuildKit, these two are no error whatever they say.
	mode, ignore, compat := a.String("mode"), a.String("ignore-error"), a.String("compat")
	o := options{all: mode == "max", compression: a.Compression(), oci: a.Bool("oci-mediatypes", true)}
	o.ignoreError, _ = strconv.ParseBool(ignore)
	o.manifest = a.Bool("image-manifest", o.oci)
	builds, appendErr := appendFrom(a)
	o.builds = builds
	o.compression.DockerMediaTypes = !o.oci
	var err error
	if o.mounts, o.mountsMax, err = mountOptions(a); err != nil {
		return o, err
	}
	if err := a.Done(); err != nil {
		return o, err
	}
	if appendErr != nil {
		return o, appendErr
	}
	switch compat {
	case "", "buildkit":
		o.foreign = true
	case "none":
	default:
		return o, fmt.Errorf("compat=%s of a cache is neither buildkit nor none: %w", compat, errdefs.ErrInvalidArgument)
	}
	if o.manifest && !o.oci {
		return o, errors.New("a cache as an image manifest (image-manifest=true) needs the media types of OCI (oci-mediatypes=true)")
	}
	return o, nil
}

// unknown says that there is no such cache.
func unknown(what, kind string) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("unknown cache %s: %q; there are registry, inline, local, s3, gha and azblob", what, kind))
}
