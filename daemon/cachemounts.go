package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cache/remote"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/worker"
	units "github.com/docker/go-units"
	bksession "github.com/moby/buildkit/session"
)

// mountSpace is the option of frontends that says in which namespace cache mounts are.
const mountSpace = "build-arg:BUILDKIT_CACHE_MOUNT_NS"

// noteMountSpace remembers the namespace of the cache mounts of a question.
func (b *build) noteMountSpace(opts map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if space := opts[mountSpace]; !slices.Contains(b.spoken, space) {
		b.spoken = append(b.spoken, space)
	}
}

// spaces are the namespaces of cache mounts that the build has spoken of.
func (b *build) spaces() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.spoken)
}

// CacheSeeds implements worker.CacheSeeder: what the caches that are imported bring along.
func (b *build) CacheSeeds(m worker.CacheMount) []snapshot.Seed {
	return b.imports.Seeds(m.ID, m.Base, m.Name(), b.spaces())
}

// cacheUses are the cache mounts of the build's steps, whether these were run or found, as
// one that shares least with others.
func (b *build) cacheUses() []worker.CacheUse {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []worker.CacheUse
	for _, o := range b.vertices {
		all = append(all, worker.CacheUses(o.vertex)...)
	}
	slices.SortFunc(all, func(x, y worker.CacheUse) int {
		return cmp.Or(cmp.Compare(x.ID, y.ID), cmp.Compare(x.Base, y.Base), -cmp.Compare(x.Sharing, y.Sharing))
	})
	return slices.CompactFunc(all, func(x, y worker.CacheUse) bool { return x.CacheMount == y.CacheMount })
}

// mountCopies are the copies of cache mounts that the caches of a build are given. Each is
// made once, when it is first asked for.
type mountCopies struct {
	b     *build
	list  []*mountCopy
	ids   []string
	bound map[string]bool // ids of those that cannot be copied, and
	lent  map[string]bool // of directories of the user
}

func (b *build) mountCopies() *mountCopies {
	c := &mountCopies{b: b, bound: map[string]bool{}, lent: map[string]bool{}}
	for _, use := range b.cacheUses() {
		c.ids = append(c.ids, use.ID)
		switch _, lent := b.cacheDirs[use.ID]; {
		case lent:
			c.lent[use.ID] = true
		case use.Bound:
			c.bound[use.ID] = true
		default:
			c.list = append(c.list, &mountCopy{b: b, use: use})
		}
	}
	return c
}

// of returns the mounts of a selection. It warns of names that mean none of them.
func (c *mountCopies) of(s remote.Selection, log *progress.Log) []remote.Mount {
	if s.None() {
		return nil
	}
	spaces := c.b.spaces()
	warn := func(format string, args ...any) {
		log.Warn(progress.Warning{Level: 1, Short: fmt.Appendf(nil, format, args...)})
	}
	if unknown := s.Unknown(c.ids, spaces); len(unknown) > 0 {
		there := "has none"
		if len(c.ids) > 0 {
			var names []string
			for _, id := range slices.Compact(slices.Clone(c.ids)) {
				names = append(names, worker.CacheMount{ID: id}.Name())
			}
			there = "has " + strings.Join(names, ", ")
		}
		warn("no cache mount of the build is called %s: it %s", strings.Join(unknown, ", "), there)
	}
	var out []remote.Mount
	for _, id := range slices.Compact(slices.Clone(c.ids)) {
		switch {
		case !s.Names(id, spaces):
		case c.lent[id]:
			warn("cache mount %s is a directory of yours (--cache-mount), which is not exported", worker.CacheMount{ID: id}.Name())
		case c.bound[id]:
			warn("cache mount %s starts with files of an image, a stage or the context (from=): such a mount is not exported", worker.CacheMount{ID: id}.Name())
		}
	}
	for _, m := range c.list {
		if s.Has(m.use.ID, spaces) {
			out = append(out, remote.Mount{ID: m.use.ID, Base: m.use.Base, Name: m.use.Name(), Copy: m.blob})
		}
	}
	return out
}

// close removes the copies.
func (c *mountCopies) close() {
	for _, m := range c.list {
		if m.copy != nil {
			if err := m.copy.Close(); err != nil {
				c.b.d.log.Warn("copy of a cache mount", "build", c.b.id, "err", err)
			}
		}
	}
}

// A mountCopy is what is in a cache mount.
type mountCopy struct {
	b   *build
	use worker.CacheUse

	mu   sync.Mutex // held while the copy is made
	made bool
	copy *snapshot.DirCopy // nil: there is nothing here
	size int64             // on disk
}

// blob is what is in the mount here, or else in a cache that was imported.
func (m *mountCopy) blob(ctx context.Context, limit int64, line *progress.Tracker) (*snapshot.Blob, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.made {
		if err := m.make(ctx, limit, line); err != nil {
			return nil, err
		}
	}
	if m.copy == nil {
		b, _ := m.b.imports.Carried(m.use.ID, m.use.Base, m.b.spaces())
		return b, nil
	}
	if err := tooLarge(m.size, limit); err != nil {
		return nil, err
	}
	return &snapshot.Blob{
		Descriptor: m.copy.Blob, DiffID: m.copy.DiffID,
		Open: func(ctx context.Context, _ bksession.Group) (io.ReadCloser, error) { return m.copy.Open(ctx) },
	}, nil
}

func tooLarge(size, limit int64) error {
	if limit == 0 || size <= limit {
		return nil
	}
	return fmt.Errorf("it has %s, more than the %s allowed; mounts-max=SIZE allows more", units.BytesSize(float64(size)), units.BytesSize(float64(limit)))
}

// make copies the directory that was used last, of those that are free if it is private.
func (m *mountCopy) make(ctx context.Context, limit int64, line *progress.Tracker) error {
	dirs, err := m.b.d.worker.CacheDirs(ctx, m.use)
	if err != nil {
		return err
	}
	busy := false
	for _, dir := range dirs {
		if dir.Empty {
			continue
		}
		if err := tooLarge(dir.Size, limit); err != nil {
			return err // another cache may have another limit
		}
		c, err := m.b.d.store.CopyDir(ctx, dir, m.use.Sharing, line)
		switch {
		case errors.Is(err, snapshot.ErrBusy):
			busy = true
			continue
		case errdefs.IsNotFound(err):
			continue // pruned meanwhile
		case err != nil:
			return err
		}
		m.made, m.copy, m.size = true, c, dir.Size
		return nil
	}
	if busy {
		return errors.New("other steps are using it")
	}
	m.made = true
	return nil
}
