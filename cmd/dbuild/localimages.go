package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/engine"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/imagestore"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/localimage"
	"github.com/docker/cli/cli/config/configfile"
	units "github.com/docker/go-units"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// errLocalSources is for commands that pin where images come from.
var errLocalSources = usagef("--local-images: this command pins the images of registries; it is for builds only")

// localImages opens images of this machine's engines for one build. An engine is asked for
// when the first image is looked up.
type localImages struct {
	a      *app
	config *configfile.ConfigFile
	lent   *lent                         // what is opened is closed with it
	saving func(name string, size int64) // told when docker saves an image; may be nil
	docker *engine.Engine
	store  *imagestore.Store
}

// lendImages lends the images that are named contexts.
func (a *app) lendImages(ctx context.Context, l *lent, req *buildflags.Request, c *configfile.ConfigFile) error {
	images := &localImages{a: a, config: c, lent: l, saving: func(name string, size int64) {
		a.note("docker saves all of %s for this build, %s", name, units.HumanSize(float64(size)))
	}}
	for key, img := range req.Images {
		found, err := images.find(ctx, img, nil)
		if err != nil {
			return err
		}
		id := "image-" + digest.FromString(key).Encoded()[:12]
		l.lendStore(id, found.Store)
		req.Attrs[key] = "oci-layout://" + id + "@" + found.Digest.String()
	}
	return nil
}

// localFirst makes the build prefer images of an engine, by the transport to it. It returns nil
// if that is "".
func (a *app) localFirst(l *lent, transport string, c *configfile.ConfigFile) *policysession.PolicyProvider {
	if transport == "" {
		return nil
	}
	const id = "local-images"
	images := &localImages{a: a, config: c, lent: l}
	first := localimage.NewFirst(id, func(ctx context.Context, name string, platform *ocispec.Platform) (localimage.Found, error) {
		found, err := images.find(ctx, buildflags.LocalImage{Transport: transport, Name: name}, platform)
		if errdefs.IsNotFound(err) {
			return localimage.Found{}, nil
		}
		return found, err
	})
	l.lendStore(id, first)
	return first.Provider()
}

// find opens an image. One that is for another platform counts as not found.
func (i *localImages) find(ctx context.Context, img buildflags.LocalImage, platform *ocispec.Platform) (localimage.Found, error) {
	if img.Transport == buildflags.ContainerdStore {
		return i.findContainerd(ctx, img.Name, platform)
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if i.docker == nil {
		e, err := engine.Open(ask, engine.Choice{Config: i.config})
		if err != nil {
			return localimage.Found{}, err
		}
		i.docker = e
		i.lent.closers = append(i.lent.closers, e.Close)
	}
	has, err := i.docker.Image(ask, img.Name)
	if err != nil {
		return localimage.Found{}, err
	}
	if platform != nil && !platforms.Only(*platform).Match(has.Platform) {
		return localimage.Found{}, errdefs.ErrNotFound
	}
	dir, err := i.lent.temporary()
	if err != nil {
		return localimage.Found{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = dir // nothing is remembered
	}
	c := localimage.Config{Engine: i.docker, ID: has.ID, Dir: dir, Remembered: filepath.Join(cache, "dbuild", "docker-images")}
	if i.saving != nil {
		c.Saving = func() { i.saving(img.Name, has.Size) }
	}
	d, err := localimage.OpenDocker(ctx, c)
	if err != nil {
		return localimage.Found{}, err
	}
	return localimage.Found{Digest: d.Digest(), Store: d}, nil
}

func (i *localImages) findContainerd(ctx context.Context, name string, platform *ocispec.Platform) (localimage.Found, error) {
	if i.store == nil {
		store, err := i.a.openContainerd(ctx, buildflags.Containerd{})
		if err != nil {
			return localimage.Found{}, err
		}
		i.store = store
		i.lent.closers = append(i.lent.closers, store.Close)
	}
	root, err := i.store.Image(ctx, name, platform)
	if err != nil {
		return localimage.Found{}, err
	}
	only, err := localimage.Only(ctx, i.store.Content(), root)
	return localimage.Found{Digest: root.Digest, Store: only}, err
}

// lendStore offers a content store to the build.
func (l *lent) lendStore(id string, s content.Store) {
	if l.stores == nil {
		l.stores = map[string]content.Store{}
	}
	l.stores[id] = s
}
