package snapshot

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A Draft is a layer being written, by one goroutine at a time.
type Draft struct {
	s      *Store
	slot   *slot
	upper  string
	parent *Ref // retained
	desc   Desc
	note   []byte          // see Annotate
	links  map[string]bool // directories whose files it links to; see Links

	mu      sync.Mutex
	unmount func() error // of the mount there is, or nil
	lower   *View        // what was beneath when it was mounted
	began   time.Time    // when it was first mounted
	done    bool
}

// NewDraft starts a layer on top of parent (nil for scratch).
func (s *Store) NewDraft(ctx context.Context, parent *Ref, d Desc) (*Draft, error) {
	if s.closing.Load() {
		return nil, errClosed
	}
	sl, err := s.alloc.take(ctx)
	if err != nil {
		return nil, err
	}
	if parent != nil {
		parent.Retain()
	}
	return &Draft{s: s, slot: sl, upper: s.alloc.path(sl), parent: parent, desc: d, links: map[string]bool{}}, nil
}

// Annotate has the layer remember a note for as long as it is kept, see Ref.Note. It must be
// called before Commit.
func (d *Draft) Annotate(note []byte) { d.note = note }

// Upper is the directory whose content becomes the layer, for writers that know the
// overlay format. It must not be written while mounted.
func (d *Draft) Upper() string { return d.upper }

// Parent is the ref below, or nil.
func (d *Draft) Parent() *Ref { return d.parent }

// Mount mounts parent and draft read-write and returns the root. It materialises the
// parent's layers first. Call unmount exactly once; Commit and Discard do it if needed.
func (d *Draft) Mount(ctx context.Context, a Access) (root string, unmount func() error, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		return "", nil, errors.New("mount: the draft is finished")
	}
	if d.unmount != nil {
		return "", nil, errors.New("mount: the draft is mounted already")
	}
	dirs, err := d.parent.files(ctx, a)
	if err != nil {
		return "", nil, err
	}
	if len(dirs) == 0 {
		return d.upper, func() error { return nil }, nil
	}
	lower := d.parent.view(dirs, len(dirs))
	if d.lower == nil {
		// The root of an overlay has the attributes of the upper directory.
		d.began = time.Now()
		if err := copyRootAttributes(lower.roots[0], d.upper); err != nil {
			return "", nil, err
		}
	}
	root, un, err := d.s.mnt.draft(ctx, lower, d.upper)
	if err != nil {
		return "", nil, err
	}
	d.lower = lower
	d.unmount = sync.OnceValue(un)
	return root, d.release, nil
}

func (d *Draft) release() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.releaseLocked()
}

func (d *Draft) releaseLocked() error {
	if d.unmount == nil {
		return nil
	}
	err := d.unmount()
	d.unmount = nil
	return err
}

// Commit makes the layer immutable and returns parent plus layer. An empty layer is
// still a layer. The Ref can be used at once; see Later for durability.
func (d *Draft) Commit(ctx context.Context) (*Ref, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		return nil, errors.New("commit: the draft is finished")
	}
	if err := d.releaseLocked(); err != nil {
		return nil, err
	}
	if d.lower != nil {
		n := &normaliser{lower: d.lower, opaque: d.s.mnt.xattr() + "opaque", began: d.began}
		if err := n.run(d.upper); err != nil {
			return nil, err
		}
	}
	s := d.s
	now := time.Now()
	row := layerRow{Created: now, LastUsed: now, UsageCount: 1, Description: d.desc.Description, Type: d.desc.Type, Links: d.linked(), Note: d.note}
	var below []*layer
	var prefer []digest.Digest
	if d.parent != nil {
		row.Parents = d.parent.heads
		below, prefer = d.parent.layers, d.parent.prefer
	}
	id := newID()
	s.mu.Lock()
	l := s.newLayer(id, row)
	l.uses++
	for _, p := range below {
		p.uses++
	}
	s.mu.Unlock()
	l.setFiles(d.slot)
	l.persist(true, l.measure)
	d.done = true
	ref := newRef(s, append(slices.Clip(slices.Clone(below)), l), append(slices.Clone(prefer), ""), []string{id})
	if d.parent != nil {
		d.parent.Release()
	}
	return ref, nil
}

// Discard removes what was written. It does nothing after Commit.
func (d *Draft) Discard() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done {
		return nil
	}
	err := d.releaseLocked()
	d.done = true
	if d.parent != nil {
		d.parent.Release()
	}
	if err != nil {
		return err // still mounted somewhere: the next Open sweeps it
	}
	return d.s.alloc.discard(d.slot)
}

// measure records how much the files take. It runs before the row is first written.
func (l *layer) measure() {
	dir := l.here()
	if dir == "" {
		return
	}
	size, err := diskUsage(dir)
	if err != nil {
		return // only du is the poorer for it
	}
	l.mu.Lock()
	l.row.Size = size
	l.mu.Unlock()
}

func copyRootAttributes(from, to string) error {
	var a, b unix.Stat_t
	if err := unix.Lstat(from, &a); err != nil {
		return &os.PathError{Op: "lstat", Path: from, Err: err}
	}
	if err := unix.Lstat(to, &b); err != nil {
		return &os.PathError{Op: "lstat", Path: to, Err: err}
	}
	if a.Uid != b.Uid || a.Gid != b.Gid {
		if err := os.Lchown(to, int(a.Uid), int(a.Gid)); err != nil {
			return err
		}
	}
	if a.Mode != b.Mode {
		return unix.Chmod(to, a.Mode&0o7777)
	}
	return nil
}

// diskUsage is what a tree takes on disk, in bytes; hard links count once.
func diskUsage(root string) (int64, error) {
	var size int64
	seen := map[uint64]bool{}
	var walk func(dir string) error
	walk = func(dir string) error {
		entries, err := readDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := dir + "/" + e.Name()
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				if err == unix.ENOENT {
					continue // a directory in use
				}
				return &os.PathError{Op: "lstat", Path: path, Err: err}
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				size += st.Blocks * 512
				if err := walk(path); err != nil {
					return err
				}
				continue
			}
			if st.Nlink > 1 {
				if seen[st.Ino] {
					continue
				}
				seen[st.Ino] = true
			}
			size += st.Blocks * 512
		}
		return nil
	}
	err := walk(root)
	return size, err
}
