package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/imagestore"
)

// A containerdLoad puts an image into a containerd. The daemon writes to its content store
// through the session, blobs that are there excepted, as it does into an OCI layout.
type containerdLoad struct {
	store *imagestore.Store
	names []string
	cfg   buildflags.Containerd
	out   io.Writer
}

func (a *app) newContainerdLoad(ctx context.Context, e buildflags.Export) (*containerdLoad, error) {
	store, err := a.openContainerd(ctx, e.Containerd)
	if err != nil {
		return nil, err
	}
	cfg := e.Containerd
	if cfg.Snapshotter == "" {
		cfg.Snapshotter, _ = a.lookup("CONTAINERD_SNAPSHOTTER")
	}
	return &containerdLoad{store: store, names: strings.Split(e.Attrs["name"], ","), cfg: cfg, out: a.stderr}, nil
}

// openContainerd connects to the containerd that is meant.
func (a *app) openContainerd(ctx context.Context, c buildflags.Containerd) (*imagestore.Store, error) {
	address, _ := a.lookup("CONTAINERD_ADDRESS")
	namespace, _ := a.lookup("CONTAINERD_NAMESPACE")
	return imagestore.Open(ctx, imagestore.Config{
		Address:   cmp.Or(c.Address, address, imagestore.DefaultAddress),
		Namespace: cmp.Or(c.Namespace, namespace, imagestore.DefaultNamespace),
	})
}

var _ load = (*containerdLoad)(nil)

// wait gives the image its names.
func (l *containerdLoad) wait(ctx context.Context) error {
	root, err := l.store.Name(ctx, l.names)
	if err != nil {
		return err
	}
	for _, name := range l.names {
		fmt.Fprintln(l.out, "Loaded image:", name)
	}
	if l.cfg.Packed {
		return nil
	}
	return l.store.Unpack(ctx, root, l.names[0], l.cfg.Snapshotter)
}

// failure returns nil: the daemon is told of each blob that is refused.
func (l *containerdLoad) failure() error { return nil }

func (l *containerdLoad) kill() { l.store.Close() }

// errOneStore is because a session has one store for what is exported.
var errOneStore = errors.New("one output only can be a containerd or an OCI directory (tar=false); build again for another, it takes no time")
