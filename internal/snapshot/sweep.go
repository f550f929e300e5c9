package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// sweepOrphans removes everything that no row names, and makes workLease afresh.
func (s *Store) sweepOrphans(ctx context.Context) error {
	all, err := s.leases.List(s.ctx(ctx))
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	err = s.mdb.Update(func(tx *bolt.Tx) error {
		named := leaseNames(tx)
		ctx := boltutil.WithTransaction(s.ctx(ctx), tx)
		for _, l := range all {
			if named[l.ID] {
				continue
			}
			if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		if err := s.dropStray(ctx, tx); err != nil {
			return err
		}
		_, err := s.leases.Create(ctx, leases.WithID(workLease))
		return err
	})
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	if err := s.alloc.collect(ctx); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	// What the snapshotter has and the metadata database does not was being removed.
	known := map[string]bool{}
	if err := s.db.View(func(tx *bolt.Tx) error {
		for _, sl := range rowSlots(tx) {
			known[sl.Inner] = true
		}
		return nil
	}); err != nil {
		return err
	}
	var orphans []string
	if err := s.alloc.inner.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if !known[i.Name] {
			orphans = append(orphans, i.Name)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	if len(orphans) > 0 {
		if err := s.alloc.inner.ms.batch(ctx, func(ctx context.Context) error {
			for _, o := range orphans {
				if err := s.alloc.inner.Remove(ctx, o); err != nil && !errdefs.IsNotFound(err) {
					return err
				}
			}
			return nil
		}); err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
	}
	if err := s.alloc.inner.Cleanup(ctx); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}

// dropStray takes out of the leases of layers what their rows do not name: blobs that
// were complete when the daemon died, but not yet recorded.
func (s *Store) dropStray(ctx context.Context, tx *bolt.Tx) error {
	return bucket(tx, bucketLayers).ForEach(func(k, v []byte) error {
		var row layerRow
		if json.Unmarshal(v, &row) != nil {
			return nil
		}
		lease := leases.Lease{ID: string(k)}
		rs, err := s.leases.ListResources(ctx, lease)
		if errdefs.IsNotFound(err) {
			return nil // a promise: nothing is here
		}
		if err != nil {
			return err
		}
		for _, r := range rs {
			if row.names(r) {
				continue
			}
			if err := s.leases.DeleteResource(ctx, lease, r); err != nil {
				return err
			}
		}
		return nil
	})
}

func (row *layerRow) names(r leases.Resource) bool {
	if row.Slot != nil && r == snapshotResource(row.Slot) {
		return true
	}
	for _, b := range row.Blobs {
		if b.Local && r.Type == "content" && r.ID == b.Digest.String() {
			return true
		}
	}
	return false
}

// each calls fn for every row of a bucket. What fn is given is good until it returns.
func each(b *bolt.Bucket, fn func(k, v []byte)) {
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		fn(k, v)
	}
}

// leaseNames are the leases that rows account for.
func leaseNames(tx *bolt.Tx) map[string]bool {
	named := map[string]bool{}
	each(bucket(tx, bucketLayers), func(k, _ []byte) { named[string(k)] = true })
	each(bucket(tx, bucketImages), func(k, _ []byte) { named[imageLease(string(k))] = true })
	each(bucket(tx, bucketDirs), func(_, v []byte) {
		var row dirRow
		if json.Unmarshal(v, &row) == nil {
			named[row.ID] = true
		}
	})
	return named
}

// imageLease is the lease that holds the blobs of an image name.
func imageLease(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "image-" + hex.EncodeToString(sum[:])
}

// rowSlots are the slots that rows name, by the record that does.
func rowSlots(tx *bolt.Tx) map[string]*slot {
	slots := map[string]*slot{}
	each(bucket(tx, bucketLayers), func(k, v []byte) {
		var row layerRow
		if json.Unmarshal(v, &row) == nil && row.Slot != nil {
			slots["layer "+string(k)] = row.Slot
		}
	})
	each(bucket(tx, bucketDirs), func(_, v []byte) {
		var row dirRow
		if json.Unmarshal(v, &row) == nil && row.Slot != nil {
			slots["directory "+row.ID] = row.Slot
		}
	})
	return slots
}

// Check verifies that rows, snapshots and blobs agree: every row has what it names, and
// everything on disk is named by a row or being written. It reads no file contents. The
// error joins all faults found.
func (s *Store) Check(ctx context.Context) error {
	if err := s.Flush(ctx); err != nil {
		return err
	}
	s.alloc.snapMu.Lock() // nothing is between the two databases now
	defer s.alloc.snapMu.Unlock()
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	nctx := s.ctx(ctx)
	held := map[leases.Resource]bool{}
	var named map[string]bool
	slots := map[string]*slot{}
	blobs := map[digest.Digest]string{}
	rows := map[string]layerRow{}
	type use struct{ who, layer string }
	var uses []use
	if err := s.db.View(func(tx *bolt.Tx) error {
		named, slots = leaseNames(tx), rowSlots(tx)
		if err := bucket(tx, bucketLayers).ForEach(func(k, v []byte) error {
			var row layerRow
			if err := json.Unmarshal(v, &row); err != nil {
				bad("layer %s: unreadable row: %w", k, err)
				return nil
			}
			rows[string(k)] = row
			if row.Slot == nil && len(row.Blobs) == 0 {
				bad("layer %s: neither files nor a blob", k)
			}
			for _, b := range row.Blobs {
				if b.Local {
					blobs[b.Digest] = "layer " + string(k)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if err := bucket(tx, bucketImages).ForEach(func(k, v []byte) error {
			var row imageRow
			if err := json.Unmarshal(v, &row); err != nil {
				bad("image %s: unreadable row: %w", k, err)
				return nil
			}
			for _, d := range row.Blobs {
				blobs[d] = "image " + string(k)
			}
			for _, l := range row.Layers {
				uses = append(uses, use{"image " + string(k), l})
			}
			return nil
		}); err != nil {
			return err
		}
		return bucket(tx, bucketDiffIDs).ForEach(func(k, v []byte) error {
			uses = append(uses, use{"diff ID " + string(k), string(v)})
			return nil
		})
	}); err != nil {
		return err
	}
	for _, u := range uses {
		if _, ok := rows[u.layer]; !ok {
			bad("%s: layer %s does not exist", u.who, u.layer)
		}
	}

	all, err := s.leases.List(nctx)
	if err != nil {
		return err
	}
	for _, l := range all {
		if !named[l.ID] && l.ID != workLease && !s.isLoaded(l.ID) {
			bad("lease %s: no row of this name", l.ID)
		}
		rs, err := s.leases.ListResources(nctx, l)
		if err != nil {
			return err
		}
		row, isLayer := rows[l.ID]
		for _, r := range rs {
			held[r] = true
			if isLayer && !row.names(r) && !s.isLoaded(l.ID) {
				bad("lease %s: holds %s, which its layer does not have", l.ID, r.ID)
			}
		}
	}

	inner := map[string]bool{}
	nums := map[string]bool{}
	for who, sl := range slots {
		if !isDir(s.alloc.path(sl)) {
			bad("%s: directory %s is missing", who, sl.Num)
		}
		if _, err := s.alloc.outer.Stat(nctx, sl.Key); err != nil {
			bad("%s: %w", who, err)
		}
		if !held[snapshotResource(sl)] {
			bad("%s: snapshot %s is not leased", who, sl.Key)
		}
		inner[sl.Inner], nums[sl.Num] = true, true
	}
	if err := s.alloc.outer.Walk(nctx, func(_ context.Context, i snapshots.Info) error {
		if !held[leases.Resource{ID: i.Name, Type: "snapshots/" + snapshotterName}] {
			bad("snapshot %s: nothing refers to it", i.Name)
		}
		return nil
	}); err != nil {
		return err
	}

	for d, who := range blobs {
		info, err := s.cs.Info(nctx, d)
		if err != nil {
			bad("%s: blob %s: %w", who, d, err)
			continue
		}
		ra, err := s.cs.ReaderAt(nctx, ocispec.Descriptor{Digest: d, Size: info.Size})
		if err != nil {
			bad("%s: blob %s: %w", who, d, err)
			continue
		}
		if ra.Size() != info.Size {
			bad("%s: blob %s has %d bytes, expected %d", who, d, ra.Size(), info.Size)
		}
		ra.Close()
		if !held[leases.Resource{ID: d.String(), Type: "content"}] {
			bad("%s: blob %s is not leased", who, d)
		}
	}
	if err := s.cs.Walk(nctx, func(i content.Info) error {
		if !held[leases.Resource{ID: i.Digest.String(), Type: "content"}] {
			bad("blob %s: nothing refers to it", i.Digest)
		}
		return nil
	}); err != nil {
		return err
	}

	// Directories on disk: those of rows, and those waiting to be used.
	entries, err := os.ReadDir(s.alloc.inner.dir)
	if err != nil {
		return err
	}
	waiting := 0
	if err := s.alloc.inner.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if !inner[i.Name] {
			waiting++
		}
		return nil
	}); err != nil {
		return err
	}
	extra := 0
	for _, e := range entries {
		if !nums[e.Name()] && e.Name() != emptyDirName {
			extra++
		}
	}
	if extra > waiting {
		bad("%d directories in %s belong to no snapshot", extra-waiting, filepath.Base(s.alloc.inner.dir))
	}
	return errors.Join(faults...)
}

// isLoaded says whether a layer may be ahead of its row.
func (s *Store) isLoaded(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.layers[id] != nil
}
