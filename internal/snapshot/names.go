package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// An Image is a name in the image store. Target is the manifest or index it stands for.
type Image struct {
	Name    string
	Target  ocispec.Descriptor
	Created time.Time
	// Recall is what is remembered of how the image was made, in a form that this package
	// does not read; nil if nothing is.
	Recall []byte
}

// PutImage points name at target, whose manifest, config (and index) bytes are given in
// blobs, and which needs the layers of refs. It is durable when it returns.
func (s *Store) PutImage(ctx context.Context, img Image, blobs map[digest.Digest][]byte, refs []*Ref) error {
	if img.Name == "" {
		return fmt.Errorf("an image needs a name: %w", errdefs.ErrInvalidArgument)
	}
	row := imageRow{Target: img.Target, Created: img.Created, Blobs: slices.Sorted(maps.Keys(blobs))}
	if row.Created.IsZero() {
		row.Created = time.Now()
	}
	for d, b := range blobs {
		if err := d.Validate(); err != nil || d.Algorithm().FromBytes(b) != d {
			return fmt.Errorf("store image %s: bytes of %s do not match: %w", img.Name, short(d.String()), errdefs.ErrInvalidArgument)
		}
		row.Size += int64(len(b))
	}
	for _, r := range refs {
		if r != nil {
			row.Layers = append(row.Layers, r.LayerIDs()...)
		}
	}
	slices.Sort(row.Layers)
	row.Layers = slices.Compact(row.Layers)

	var err error
	for range 2 { // again if a collection came between writing and naming
		if err = s.writeBlobs(ctx, blobs); err != nil {
			break
		}
		if err = s.do(ctx, true, func(tx *bolt.Tx) error { return s.nameImage(tx, img, &row) }); !errors.Is(err, errCollected) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("store image %s: %w", img.Name, err)
	}
	return nil
}

func (s *Store) writeBlobs(ctx context.Context, blobs map[digest.Digest][]byte) error {
	ctx = leases.WithLease(s.ctx(ctx), workLease)
	for d, b := range blobs {
		desc := ocispec.Descriptor{Digest: d, Size: int64(len(b))}
		if err := content.WriteBlob(ctx, s.cs, "image-"+newID(), bytes.NewReader(b), desc); err != nil {
			return err
		}
	}
	return nil
}

var errCollected = errors.New("a blob was collected")

// nameImage replaces the rows and the lease of an image.
func (s *Store) nameImage(tx *bolt.Tx, img Image, row *imageRow) error {
	ctx := boltutil.WithTransaction(s.ctx(context.Background()), tx)
	lease := leases.Lease{ID: imageLease(img.Name)}
	if err := s.leases.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if _, err := s.leases.Create(ctx, leases.WithID(lease.ID)); err != nil {
		return err
	}
	for _, d := range row.Blobs {
		if _, err := s.cs.Info(ctx, d); err != nil {
			return fmt.Errorf("%w: %w", errCollected, err)
		}
		r := leases.Resource{ID: d.String(), Type: "content"}
		if err := s.leases.AddResource(ctx, lease, r); err != nil {
			return err
		}
		if err := s.leases.DeleteResource(ctx, leases.Lease{ID: workLease}, r); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	for _, l := range row.Layers {
		if bucket(tx, bucketLayers).Get([]byte(l)) == nil {
			return fmt.Errorf("layer %s: %w", short(l), errdefs.ErrNotFound)
		}
	}
	if err := putRecall(tx, img.Name, img.Recall); err != nil {
		return err
	}
	return putRow(bucket(tx, bucketImages), img.Name, row)
}

// putRecall replaces what is remembered of an image; nil forgets it. States that were
// made before there was anything to remember have no bucket.
func putRecall(tx *bolt.Tx, name string, data []byte) error {
	b, err := tx.Bucket(bucketRoot).CreateBucketIfNotExists(bucketRecall)
	if err != nil {
		return err
	}
	if data == nil {
		return b.Delete([]byte(name))
	}
	return b.Put([]byte(name), data)
}

func recallOf(tx *bolt.Tx, name string) []byte {
	b := tx.Bucket(bucketRoot).Bucket(bucketRecall)
	if b == nil {
		return nil
	}
	return bytes.Clone(b.Get([]byte(name)))
}

// RemoveImage forgets a name. That there is none is no error.
func (s *Store) RemoveImage(ctx context.Context, name string) error {
	return s.do(ctx, true, func(tx *bolt.Tx) error {
		ctx := boltutil.WithTransaction(s.ctx(context.Background()), tx)
		if err := s.leases.Delete(ctx, leases.Lease{ID: imageLease(name)}); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if err := putRecall(tx, name, nil); err != nil {
			return err
		}
		return bucket(tx, bucketImages).Delete([]byte(name))
	})
}

// GetImage returns an image by its name, or errdefs.ErrNotFound.
func (s *Store) GetImage(ctx context.Context, name string) (*Image, error) {
	var img *Image
	err := s.db.View(func(tx *bolt.Tx) error {
		var row imageRow
		if !getRow(bucket(tx, bucketImages), name, &row) {
			return fmt.Errorf("image %s: %w", name, errdefs.ErrNotFound)
		}
		img = &Image{Name: name, Target: row.Target, Created: row.Created, Recall: recallOf(tx, name)}
		return nil
	})
	return img, err
}

// Images returns all images, sorted by name, without what is remembered of them.
func (s *Store) Images(ctx context.Context) ([]Image, error) {
	var out []Image
	err := s.db.View(func(tx *bolt.Tx) error {
		return bucket(tx, bucketImages).ForEach(func(k, v []byte) error {
			var row imageRow
			if json.Unmarshal(v, &row) == nil {
				out = append(out, Image{Name: string(k), Target: row.Target, Created: row.Created})
			}
			return nil
		})
	})
	return out, err
}
