package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// A DirInfo is what is known of a mutable directory without opening it.
type DirInfo struct {
	Meta     map[string][]byte
	Based    bool // it has something beneath it
	LastUsed time.Time
	Size     int64 // on disk, in bytes
	Empty    bool

	name string
}

// Dirs returns the directories that were opened with a type and a key, whatever they are
// based on, with those that stood in for them (see Private); the one used last first.
func (s *Store) Dirs(ctx context.Context, key, typ string) ([]DirInfo, error) {
	if err := s.commit.settle(ctx); err != nil {
		return nil, err
	}
	series := dirSeries(key, typ, nil)
	var out []DirInfo
	var rows []dirRow
	if err := s.db.View(func(tx *bolt.Tx) error {
		each(bucket(tx, bucketDirs), func(k, v []byte) {
			name := string(k)
			var row dirRow
			if (name == series || strings.HasPrefix(name, series+"\x00")) && json.Unmarshal(v, &row) == nil && row.Slot != nil {
				out = append(out, DirInfo{Meta: row.Meta, Based: len(row.Base) > 0, LastUsed: row.LastUsed, Size: row.Size, name: name})
				rows = append(rows, row)
			}
		})
		return nil
	}); err != nil {
		return nil, err
	}
	for i := range out {
		path := s.alloc.path(rows[i].Slot)
		if out[i].Empty = isEmpty(path); out[i].Size < 0 {
			out[i].Size, _ = diskUsage(path) // 0 if it is gone by now
		}
	}
	slices.SortStableFunc(out, func(a, b DirInfo) int { return b.LastUsed.Compare(a.LastUsed) })
	return out, nil
}

// metaCopied is where the last copy of a directory is remembered.
const metaCopied = "copied"

// copied is the last copy of a directory, and how often it had been used by then.
type copied struct {
	Uses   int                `json:"uses"`
	Blob   ocispec.Descriptor `json:"blob"`
	DiffID digest.Digest      `json:"diffID"`
}

// A DirCopy is what was in a mutable directory, as a layer blob. It is to be closed.
type DirCopy struct {
	Blob   ocispec.Descriptor
	DiffID digest.Digest

	s       *Store
	of      DirInfo
	sharing Sharing

	mu   sync.Mutex // guards path
	path string     // of the bytes; "" while nobody has asked for them
}

// ErrBusy says that a private directory is in use.
var ErrBusy = errors.New("the directory is in use")

// CopyDir makes a blob of what is in a directory. Nobody else has it open meanwhile, unless
// it is Shared: then others go on, and what they write may or may not be in the copy. One
// that is Private is not waited for: ErrBusy.
//
// The bytes of a directory that was not opened since its last copy are written only if
// somebody asks for them.
func (s *Store) CopyDir(ctx context.Context, i DirInfo, sharing Sharing, line *progress.Tracker) (*DirCopy, error) {
	c := &DirCopy{s: s, of: i, sharing: sharing}
	dir, alone, err := s.holdDir(ctx, i, sharing)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var last copied
	if alone && json.Unmarshal(dir.Meta(metaCopied), &last) == nil && last.Uses == dir.uses() {
		c.Blob, c.DiffID = last.Blob, last.DiffID
		return c, nil
	}
	uses := dir.uses()
	if err := c.write(ctx, dir, line); err != nil {
		return nil, err
	}
	if alone && dir.uses() == uses {
		b, err := json.Marshal(copied{uses, c.Blob, c.DiffID})
		if err != nil {
			c.Close()
			return nil, err
		}
		dir.SetMeta(metaCopied, b)
	}
	return c, nil
}

func (d *Dir) uses() int {
	d.st.mu.Lock()
	defer d.st.mu.Unlock()
	return d.st.row.UsageCount
}

// holdDir opens a directory that there is, to look at the files that it has of its own:
// that is no use of it. alone says that nobody has it open already.
func (s *Store) holdDir(ctx context.Context, i DirInfo, sharing Sharing) (_ *Dir, alone bool, err error) {
	first := sharing
	if i.Based {
		first = Locked // who joined would lack the base
	}
	for {
		s.mu.Lock()
		if s.closing.Load() {
			s.mu.Unlock()
			return nil, false, errClosed
		}
		st := s.dirStateLocked(i.name)
		if st.users == 0 {
			dying := s.claimLocked(st, first)
			s.mu.Unlock()
			dir, err := s.holdFirst(st, dying)
			return dir, true, err
		}
		freed, ready := st.freed, st.ready
		if sharing == Private {
			s.mu.Unlock()
			return nil, false, ErrBusy
		}
		joined := sharing == Shared && st.sharing == Shared
		if joined {
			st.users++
		}
		s.mu.Unlock()
		if joined {
			dir := &Dir{s: s, st: st}
			select {
			case <-ready:
				if !st.failed {
					dir.Path = s.upperOf(st)
					return dir, false, nil
				}
			case <-ctx.Done():
			}
			dir.Close()
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
}

// holdFirst makes ready what the caller has claimed.
func (s *Store) holdFirst(st *dirState, dying bool) (*Dir, error) {
	dir := &Dir{s: s, st: st}
	known, err := s.loadDir(st, dying)
	if err == nil && !known {
		err = fmt.Errorf("the directory is not there any more: %w", errdefs.ErrNotFound)
	}
	if st.failed = err != nil; !st.failed {
		dir.Path = s.upperOf(st)
		st.path, st.unmount, st.base = dir.Path, nil, nil
	}
	close(st.ready)
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// upperOf is where the files of a directory are that are not of its base.
func (s *Store) upperOf(st *dirState) string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return s.alloc.path(st.row.Slot)
}

// write makes the bytes.
func (c *DirCopy) write(ctx context.Context, dir *Dir, line *progress.Tracker) (err error) {
	f, err := os.CreateTemp(c.s.work, "copy-")
	if err != nil {
		return err
	}
	defer func() {
		if err1 := f.Close(); err == nil {
			err = err1
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	sum := digest.Canonical.Digester()
	out := &counter{w: io.MultiWriter(f, sum.Hash())}
	c.DiffID, err = pack(ctx, out, Compression{Type: zstdType}, line, func(ctx context.Context, w io.Writer) error {
		return writeLiveTar(ctx, w, dir.Path, c.s.mnt.xattr()+"opaque")
	})
	if err != nil {
		return fmt.Errorf("copy the directory: %w", err)
	}
	c.Blob = ocispec.Descriptor{MediaType: ociTypes[zstdType], Digest: sum.Digest(), Size: out.n}
	c.path = f.Name()
	return nil
}

// Open reads the blob.
func (c *DirCopy) Open(ctx context.Context) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path == "" {
		if err := c.again(ctx); err != nil {
			return nil, err
		}
	}
	return os.Open(c.path)
}

// again makes the bytes of a copy that was made before.
func (c *DirCopy) again(ctx context.Context) error {
	dir, _, err := c.s.holdDir(ctx, c.of, c.sharing)
	if err != nil {
		return err
	}
	defer dir.Close()
	now := &DirCopy{s: c.s}
	if err := now.write(ctx, dir, nil); err != nil {
		return err
	}
	if now.Blob.Digest != c.Blob.Digest {
		dir.SetMeta(metaCopied, nil)
		now.Close()
		return errors.New("the directory has changed while it was copied")
	}
	c.path = now.path
	return nil
}

// Close removes the bytes. Readers that are open go on.
func (c *DirCopy) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	path := c.path
	if c.path = ""; path == "" {
		return nil
	}
	return os.Remove(path)
}
