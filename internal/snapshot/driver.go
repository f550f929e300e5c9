package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// emptyDirName is beside the snapshots' directories, to keep lists of them short when
// overlayfs needs one more layer. Snapshots are numbered from 1.
const emptyDirName = "0"

// A driver is a containerd snapshotter whose snapshots have no parents and are never
// committed: plain directories with a lease. containerd's overlay driver makes three
// directories for each snapshot and lists all of them when it removes one; since layers
// are stacked by us, one mkdir and one rmdir are enough.
type driver struct {
	dir string
	ms  metaStore
}

var (
	_ snapshots.Snapshotter = (*driver)(nil)
	_ snapshots.Cleaner     = (*driver)(nil)
)

func newDriver(root string) (*driver, error) {
	d := &driver{dir: filepath.Join(root, "fs")}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	ms, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
	if err != nil {
		return nil, err
	}
	d.ms = metaStore{ms}
	return d, nil
}

// Stat returns what the database knows of a snapshot.
func (d *driver) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = d.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update changes labels.
func (d *driver) Update(ctx context.Context, info snapshots.Info, fields ...string) (_ snapshots.Info, err error) {
	err = d.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		info, err = storage.UpdateInfo(ctx, info, fields...)
		return err
	})
	return info, err
}

// Usage measures a snapshot's directory.
func (d *driver) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	var id string
	if err := d.ms.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		id, _, _, err = storage.GetInfo(ctx, key)
		return err
	}); err != nil {
		return snapshots.Usage{}, err
	}
	size, err := diskUsage(filepath.Join(d.dir, id))
	return snapshots.Usage{Size: size}, err
}

// Mounts returns a bind mount of the directory.
func (d *driver) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var sn storage.Snapshot
	if err := d.ms.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		sn, err = storage.GetSnapshot(ctx, key)
		return err
	}); err != nil {
		return nil, err
	}
	return d.mounts(sn.ID), nil
}

func (d *driver) mounts(id string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: filepath.Join(d.dir, id), Options: []string{"rbind", "rw"}}}
}

// Prepare makes an empty directory. It tells the slot in the context its names.
func (d *driver) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if parent != "" {
		return nil, fmt.Errorf("snapshots have no parents here: %w", errdefs.ErrInvalidArgument)
	}
	var sn storage.Snapshot
	if err := d.ms.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		if sn, err = storage.CreateSnapshot(ctx, snapshots.KindActive, key, "", opts...); err != nil {
			return err
		}
		path := filepath.Join(d.dir, sn.ID)
		err = os.Mkdir(path, 0o755)
		if errors.Is(err, os.ErrExist) {
			// Of a transaction that was rolled back: its number is given out again.
			if err = os.RemoveAll(path); err == nil {
				err = os.Mkdir(path, 0o755)
			}
		}
		if err != nil {
			return err
		}
		return os.Chmod(path, 0o755) // whatever the umask is
	}); err != nil {
		return nil, err
	}
	if sl, ok := ctx.Value(slotKey{}).(*slot); ok {
		sl.Inner, sl.Num = key, sn.ID
	}
	return d.mounts(sn.ID), nil
}

type slotKey struct{}

// View is not supported.
func (d *driver) View(context.Context, string, string, ...snapshots.Opt) ([]mount.Mount, error) {
	return nil, fmt.Errorf("snapshot views: %w", errdefs.ErrNotImplemented)
}

// Commit is not supported.
func (d *driver) Commit(context.Context, string, string, ...snapshots.Opt) error {
	return fmt.Errorf("snapshot commits: %w", errdefs.ErrNotImplemented)
}

// Remove forgets a snapshot. Its directory stays until Cleanup, or until the caller
// removes it.
func (d *driver) Remove(ctx context.Context, key string) error {
	return d.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, _, err := storage.Remove(ctx, key)
		return err
	})
}

// Walk calls fn for each snapshot.
func (d *driver) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	err := d.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, fn, filters...)
	})
	if errdefs.IsNotFound(err) {
		return nil // no snapshot was ever made
	}
	return err
}

// Cleanup removes directories that no snapshot has.
func (d *driver) Cleanup(ctx context.Context) error {
	var extra []string
	// A write transaction, so that none is being made meanwhile.
	err := d.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		entries, err := os.ReadDir(d.dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, ok := ids[e.Name()]; !ok && e.Name() != emptyDirName {
				extra = append(extra, filepath.Join(d.dir, e.Name()))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return removeAll(extra)
}

// Close closes the database.
func (d *driver) Close() error { return d.ms.Close() }

// metaStore lets a batch of calls share one transaction, and so one fsync.
type metaStore struct{ *storage.MetaStore }

type batchKey struct{}

func (m metaStore) WithTransaction(ctx context.Context, writable bool, fn storage.TransactionCallback) error {
	if ctx.Value(batchKey{}) != nil {
		return fn(ctx)
	}
	return m.MetaStore.WithTransaction(ctx, writable, fn)
}

func (m metaStore) batch(ctx context.Context, fn func(context.Context) error) error {
	return m.MetaStore.WithTransaction(ctx, true, func(ctx context.Context) error {
		return fn(context.WithValue(ctx, batchKey{}, true))
	})
}
