package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// A Seed is what a mutable directory may start with: what CopyDir made of one somewhere
// else.
type Seed struct {
	Name   string // of the directory, for the display
	Blob   ocispec.Descriptor
	DiffID digest.Digest
	// Open reads the blob from wherever it is, unverified.
	Open func(context.Context) (io.ReadCloser, error)
}

// SeedDir makes the directory that OpenDir would make, with the content of a seed, unless
// there is one already that is not empty: then nothing is read. Until it is complete
// whoever opens it waits; if it cannot be completed, or the daemon dies, there is none.
func (s *Store) SeedDir(ctx context.Context, key string, d Desc, base *Ref, seed Seed, a Access) error {
	if err := validSeed(seed); err != nil {
		return err
	}
	name := dirSeries(key, d.Type, base)
	// Not claimed for that: somebody who wants it private would take another one.
	if there, err := s.hasDir(name); err != nil || there {
		return err
	}
	dir, err := s.claimDir(ctx, name)
	if err != nil || dir == nil {
		return err
	}
	defer dir.Close()
	if there, err := s.hasDir(name); err != nil || there {
		return err // somebody was faster
	}
	return s.fillDir(ctx, dir.st, d, base, seed, a)
}

// hasDir reports whether there is a directory that is not empty.
func (s *Store) hasDir(name string) (bool, error) {
	s.mu.Lock()
	st := s.dirs[name]
	s.mu.Unlock()
	var row dirRow
	if st != nil {
		st.mu.Lock()
		row = st.row
		st.mu.Unlock()
	}
	if row.Slot == nil {
		if err := s.db.View(func(tx *bolt.Tx) error {
			getRow(bucket(tx, bucketDirs), name, &row)
			return nil
		}); err != nil {
			return false, err
		}
	}
	if row.Slot == nil {
		return false, nil
	}
	path := s.alloc.path(row.Slot)
	return isDir(path) && !isEmpty(path), nil
}

func validSeed(seed Seed) error {
	for _, d := range []digest.Digest{seed.Blob.Digest, seed.DiffID} {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("the copy of %s has no valid digest: %w: %w", seed.Name, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// claimDir takes a directory for the caller alone, to fill it. It is nil if somebody uses
// it; somebody who fills it is waited for.
func (s *Store) claimDir(ctx context.Context, name string) (*Dir, error) {
	for {
		s.mu.Lock()
		if s.closing.Load() {
			s.mu.Unlock()
			return nil, errClosed
		}
		st := s.dirStateLocked(name)
		if st.users == 0 {
			dying := s.claimLocked(st, Locked)
			st.seeding = true
			s.mu.Unlock()
			dir := &Dir{s: s, st: st}
			if _, err := s.loadDir(st, dying); err != nil {
				dir.Close()
				return nil, err
			}
			return dir, nil
		}
		freed, seeding := st.freed, st.seeding
		s.mu.Unlock()
		if !seeding {
			return nil, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// fillDir unpacks a seed into a new slot, which becomes the directory of st when it is
// complete: the row that says so is written after the files.
func (s *Store) fillDir(ctx context.Context, st *dirState, d Desc, base *Ref, seed Seed, a Access) error {
	line := a.Log.Track("importing cache mount " + seed.Name)
	defer line.Done()
	sl, err := s.unpackSeed(ctx, seed, line)
	if err != nil {
		return err
	}
	now := time.Now()
	row := dirRow{ID: newID(), Created: now, LastUsed: now, Description: d.Description, Type: d.Type, Slot: sl, Size: -1}
	if base != nil {
		row.Base = base.LayerIDs()
	}
	moves := []leases.Resource{snapshotResource(sl)}
	st.mu.Lock()
	empty := st.row
	if empty.Slot == nil {
		st.row, st.moves = row, moves
	}
	st.mu.Unlock()
	if empty.Slot == nil {
		s.persistDir(st, true)
		return nil
	}
	// Somebody was here who left nothing: the record stays, with other files.
	row.ID, row.Created, row.UsageCount = empty.ID, empty.Created, empty.UsageCount
	err = s.do(context.WithoutCancel(ctx), true, func(tx *bolt.Tx) error {
		if err := s.moveToLease(tx, row.ID, moves); err != nil {
			return err
		}
		if err := s.alloc.unname(s.ctx(context.Background()), tx, row.ID, empty.Slot); err != nil {
			return err
		}
		return putRow(bucket(tx, bucketDirs), st.name, &row)
	})
	if err != nil {
		return errors.Join(err, s.alloc.discard(sl))
	}
	st.mu.Lock()
	st.row = row
	st.mu.Unlock()
	return s.alloc.remove([]*slot{empty.Slot})
}

// unpackSeed makes a slot with the files of a seed.
func (s *Store) unpackSeed(ctx context.Context, seed Seed, line *progress.Tracker) (*slot, error) {
	rc, err := seed.Open(ctx)
	if err != nil {
		return nil, err
	}
	in := &blobReader{
		b:  blobRow{MediaType: seed.Blob.MediaType, Digest: seed.Blob.Digest, Size: seed.Blob.Size, DiffID: seed.DiffID},
		rc: rc, sum: seed.Blob.Digest.Algorithm().Hash(), line: line, ctx: ctx,
	}
	defer in.Close()
	sl, err := s.alloc.take(ctx)
	if err != nil {
		return nil, err
	}
	if _, _, err := in.extract(s, sl); err != nil {
		return nil, errors.Join(err, s.alloc.discard(sl))
	}
	return sl, nil
}

// isEmpty reports whether there is nothing in a directory.
func isEmpty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return err == io.EOF
}
