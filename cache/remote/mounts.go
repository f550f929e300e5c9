package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	units "github.com/docker/go-units"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// maxMount is how large a cache mount may be that is exported, in bytes on disk, unless
// mounts-max says otherwise.
const maxMount = 2 << 30

// A Selection says which cache mounts a cache has to do with.
type Selection struct {
	all   bool
	names []string
}

// selectionOf reads the attribute "mounts": ids, or * or all, or none.
func selectionOf(v string) Selection {
	var s Selection
	for _, name := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ';' }) {
		switch name = strings.TrimSpace(name); name {
		case "*", "all":
			s.all = true
		case "", "none":
		default:
			if path.IsAbs(name) {
				name = path.Clean(name) // a target, which is the id of mounts that have none
			}
			s.names = append(s.names, name)
		}
	}
	return s
}

// None reports whether no mount is meant.
func (s Selection) None() bool { return !s.all && len(s.names) == 0 }

// Has reports whether a mount is meant. Its id begins with its namespace; those of the build
// are spaces.
func (s Selection) Has(id string, spaces []string) bool { return s.all || s.Names(id, spaces) }

// Names is Has if the mount was named, and not meant with all others.
func (s Selection) Names(id string, spaces []string) bool {
	return slices.ContainsFunc(s.names, func(name string) bool { return names(name, id, spaces) })
}

// Unknown are the names that mean none of the mounts with these ids.
func (s Selection) Unknown(ids, spaces []string) (unknown []string) {
	for _, name := range s.names {
		if !slices.ContainsFunc(ids, func(id string) bool { return names(name, id, spaces) }) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

func names(name, id string, spaces []string) bool {
	return id == name || slices.ContainsFunc(spaces, func(space string) bool { return id == space+"/"+name })
}

// mountOptions takes what an exporter is told of cache mounts.
func mountOptions(a *exporter.Attrs) (s Selection, limit int64, err error) {
	s, limit = selectionOf(a.String("mounts")), maxMount
	if v := a.String("mounts-max"); v != "" {
		if limit, err = units.RAMInBytes(v); err != nil || limit < 0 {
			return s, 0, fmt.Errorf("mounts-max=%s is not a size, such as 500MB: %w", v, errdefs.ErrInvalidArgument)
		}
	}
	return s, limit, nil
}

// A Mount is a cache mount of a build.
type Mount struct {
	ID   string        // with its namespace
	Base digest.Digest // of the operation that makes what it starts with; "" if it starts empty
	Name string        // for people
	// Copy returns what is in it as a blob, or nil if there is nothing. It is called by several
	// exporters at once. One that has more than limit bytes is an error; 0 is no limit.
	Copy func(ctx context.Context, limit int64, line *progress.Tracker) (*snapshot.Blob, error)
}

// A mount is a cache mount as a config has it. BuildKit does not know the field.
type mount struct {
	ID    string        `json:"id"`
	Base  digest.Digest `json:"base,omitempty"`
	Blob  digest.Digest `json:"blob"`
	About about         `json:"annotations"`
	Build int           `json:"dbuild.build,omitempty"` // as that of a record
}

// Mounts says which cache mounts the exporter is to write.
func (x *Exporter) Mounts() Selection { return x.opts.mounts }

// copies is how many cache mounts are copied at once.
const copies = 2

// copyMounts makes blobs of cache mounts; none of those that cannot be had. lines are still
// open.
func (x *Exporter) copyMounts(ctx context.Context, mounts []Mount, log *progress.Log) ([]*snapshot.Blob, []*progress.Tracker, error) {
	blobs, lines := make([]*snapshot.Blob, len(mounts)), make([]*progress.Tracker, len(mounts))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(copies)
	for i, m := range mounts {
		g.Go(func() error {
			lines[i] = log.Track("exporting cache mount " + m.Name)
			b, err := m.Copy(ctx, x.opts.mountsMax, lines[i])
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				notExported(log, m, err)
			}
			if blobs[i] = b; b == nil {
				lines[i].Done()
			}
			return nil
		})
	}
	return blobs, lines, g.Wait()
}

// A cache without a mount is better than none.
func notExported(log *progress.Log, m Mount, err error) {
	log.Warn(progress.Warning{Level: 1, Short: fmt.Appendf(nil, "cache mount %s was not exported: %v", m.Name, err)})
}

// writeMounts writes blobs of cache mounts, and returns those that are there then.
func writeMounts(ctx context.Context, to store, mounts []Mount, blobs []*snapshot.Blob, lines []*progress.Tracker, log *progress.Log) ([]mount, error) {
	var mu sync.Mutex // guards out
	var out []mount
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(copies)
	for i, b := range blobs {
		if b == nil {
			continue
		}
		g.Go(func() error {
			defer lines[i].Done()
			err := to.blob(ctx, *b, lines[i])
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				notExported(log, mounts[i], err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, mount{
				ID: mounts[i].ID, Base: mounts[i].Base, Blob: b.Digest, About: about{MediaType: b.MediaType, DiffID: b.DiffID, Size: b.Size},
			})
			return nil
		})
	}
	err := g.Wait()
	sortMounts(out)
	return out, err
}

func sortMounts(list []mount) {
	slices.SortFunc(list, func(a, b mount) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Base, b.Base)) })
}

type mountKey struct {
	id   string
	base digest.Digest
}

// sound reports whether m makes sense.
func (m mount) sound() bool {
	return m.About.Size > 0 && m.Blob.Validate() == nil && m.About.DiffID.Validate() == nil
}

// learnMounts adds what a config says of cache mounts. What makes no sense is left out.
func (m *memory) learnMounts(c *config) {
	for _, mt := range c.Mounts {
		d := mt.About
		if m.from == nil || !mt.sound() {
			continue
		}
		b := snapshot.Blob{DiffID: d.DiffID}
		b.MediaType, b.Digest, b.Size = d.MediaType, mt.Blob, d.Size
		if m.mounts == nil {
			m.mounts = map[mountKey]snapshot.ImageLayer{}
		}
		m.mounts[mountKey{mt.ID, mt.Base}] = m.from.layer(b.Descriptor, d.DiffID, d.Created, "")
	}
}

// carried are the copies of a cache mount in the caches that were read, in their order.
func (im *Imports) carried(id string, base digest.Digest, spaces []string) (out []snapshot.ImageLayer) {
	im.mu.RLock()
	defer im.mu.RUnlock()
	for _, m := range im.list {
		if l, ok := m.mounts[mountKey{id, base}]; ok && m.selected.Has(id, spaces) {
			out = append(out, l)
		}
	}
	return out
}

// Seeds are what a cache mount may start with, the best first. name is what people call it,
// spaces are the namespaces of the build.
func (im *Imports) Seeds(id string, base digest.Digest, name string, spaces []string) []snapshot.Seed {
	var out []snapshot.Seed
	for _, l := range im.carried(id, base, spaces) {
		out = append(out, snapshot.Seed{Name: name, Blob: l.Blob, DiffID: l.DiffID, Open: func(ctx context.Context) (io.ReadCloser, error) {
			return im.openMount(ctx, im.group, l)
		}})
	}
	return out
}

// Carried is the copy of a cache mount that can be handed on to another cache without having
// been used here.
func (im *Imports) Carried(id string, base digest.Digest, spaces []string) (*snapshot.Blob, bool) {
	list := im.carried(id, base, spaces)
	if len(list) == 0 {
		return nil, false
	}
	l := list[0]
	return &snapshot.Blob{Descriptor: l.Blob, DiffID: l.DiffID, From: l.From, Open: func(ctx context.Context, g bksession.Group) (io.ReadCloser, error) {
		return im.openMount(ctx, g, l)
	}}, true
}

func (im *Imports) openMount(ctx context.Context, g bksession.Group, l snapshot.ImageLayer) (io.ReadCloser, error) {
	if l.Open != nil {
		return l.Open(ctx, g)
	}
	if len(l.From) == 0 {
		return nil, errors.New("nobody is known to hold it")
	}
	return im.cfg.Registry.Open(ctx, g, l.From, l.Blob)
}
