package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/worker"
	"golang.org/x/sys/unix"
)

// gcDelay is how long after a build the cache is brought under its bounds: a row of
// builds pays once.
const gcDelay = 10 * time.Second

// keepKnown is how long keys are remembered whose results are gone.
const keepKnown = 60 * 24 * time.Hour

// gcPolicies are what the cache may keep, in the order they are applied; none means that
// it is never collected. Without bounds in the configuration it may use half of the disk,
// and leaves a tenth of it free.
func (d *Daemon) gcPolicies() []snapshot.PruneOptions {
	gc := d.cfg.GC
	if gc.Disabled {
		return nil
	}
	if len(gc.Policies) > 0 {
		var out []snapshot.PruneOptions
		for _, p := range gc.Policies {
			out = append(out, snapshot.PruneOptions{
				Filters: p.Filters, All: p.All, KeepDuration: p.KeepDuration, Demote: true,
				ReservedSpace: p.ReservedSpace, MaxUsedSpace: p.MaxUsedSpace, MinFreeSpace: p.MinFreeSpace,
			})
		}
		return out
	}
	if gc.MaxUsedSpace == 0 && gc.MinFreeSpace == 0 && gc.ReservedSpace == 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(d.cfg.Root, &st); err == nil {
			total := int64(st.Blocks) * st.Bsize
			gc.MaxUsedSpace, gc.MinFreeSpace, gc.ReservedSpace = total/2, total/10, total/20
		}
	}
	return []snapshot.PruneOptions{{
		All: true, KeepDuration: gc.KeepDuration, Demote: true,
		ReservedSpace: gc.ReservedSpace, MaxUsedSpace: gc.MaxUsedSpace, MinFreeSpace: gc.MinFreeSpace,
	}}
}

// collectLoop brings the cache under its bounds some time after builds.
func (d *Daemon) collectLoop(ctx context.Context) error {
	policies := d.gcPolicies()
	var free int64 // that no policy wants less of
	for _, p := range policies {
		free = max(free, p.MinFreeSpace)
	}
	for {
		select {
		case <-d.gc:
		case <-ctx.Done():
			return nil
		}
		if len(policies) == 0 {
			continue
		}
		// Waiting for more of the row, unless the next build could fail for lack of space.
		wait := time.NewTimer(gcDelay)
		for row := true; row && !d.short(free/2); {
			select {
			case <-d.gc:
			case <-wait.C:
				row = false
			case <-ctx.Done():
				wait.Stop()
				return nil
			}
		}
		wait.Stop()
		var n int
		var bytes int64
		for i, p := range policies {
			removed := removal{by: fmt.Sprintf("the collector's rule %d", i+1)}
			err := d.store.Prune(ctx, p, func(r snapshot.Record) { n++; bytes += r.Size; removed.add(r) })
			d.removals.add(removed)
			if err != nil && ctx.Err() == nil {
				d.log.Error("collection", "err", err)
			}
		}
		if n > 0 {
			d.log.Info("collected", "records", n, "bytes", bytes)
		}
		d.cache.Trim(time.Now().Add(-keepKnown))
	}
}

// short says whether less than so many bytes are free.
func (d *Daemon) short(bytes int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(d.cfg.Root, &st) == nil && int64(st.Bavail)*st.Bsize < bytes
}

// sweepSteps removes what steps of a daemon that was killed left behind.
func sweepSteps(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dir, 0o711)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		if is, err := worker.RemoveCacheDir(p); is {
			if err != nil {
				return fmt.Errorf("a cache directory of a user is still mounted at %s: %w", p, err)
			}
			continue
		}
		if strings.HasPrefix(e.Name(), "secrets-") {
			_ = unix.Unmount(p, unix.MNT_DETACH)
		}
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}
