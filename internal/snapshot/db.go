package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/registry"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// schemaVersion grows whenever an older daemon could misread the rows.
const schemaVersion = 1

// Buckets. Everything of this package is beneath bucketRoot; containerd's metadata is
// beneath "v1" in the same file, and other packages keep buckets of their own.
var (
	bucketRoot    = []byte("snapshot")
	bucketLayers  = []byte("layers")  // layer id → layerRow
	bucketDiffIDs = []byte("diffids") // diff ID → layer id
	bucketTwins   = []byte("twins")   // diff ID, layer id → nothing; see enterIndex
	bucketDirs    = []byte("dirs")    // name of a Dir → dirRow
	bucketImages  = []byte("images")  // image name → imageRow
	bucketRecall  = []byte("recall")  // image name → what is remembered of how it was made
	keySchema     = []byte("schema")
)

// A layerRow is what the database knows about a layer.
type layerRow struct {
	Created     time.Time `json:"created"`
	LastUsed    time.Time `json:"lastUsed,omitzero"`
	UsageCount  int       `json:"usageCount,omitempty"`
	Description string    `json:"description,omitempty"`
	Type        string    `json:"type,omitempty"`
	// Parents are the layers it was built on; it does not need them to exist as itself,
	// but nobody has a use for it without them.
	Parents []string `json:"parents,omitempty"`
	// Slot is where its files are; nil if they are not here.
	Slot *slot `json:"slot,omitempty"`
	Size int64 `json:"size,omitempty"` // of the files, in bytes on disk
	// Links are the directories of the store whose files are also files of this layer.
	Links []string `json:"links,omitempty"`
	// Implicit are directories that the layer's tar had no entry for; they take their
	// owner and mode from the first stack the layer is part of.
	Implicit   []string      `json:"implicit,omitempty"`
	OpaqueRoot bool          `json:"opaqueRoot,omitempty"` // hides everything beneath
	DiffID     digest.Digest `json:"diffID,omitempty"`
	Note       []byte        `json:"note,omitempty"`     // see Draft.Annotate
	Promised   bool          `json:"promised,omitempty"` // came from an image, not from a Draft
	// Given says that an image which a build named has the layer: nothing makes it again.
	Given bool      `json:"given,omitempty"`
	Blobs []blobRow `json:"blobs,omitempty"`
}

// A blobRow is one form of a layer as a blob.
type blobRow struct {
	MediaType string              `json:"mediaType"`
	Digest    digest.Digest       `json:"digest"`
	Size      int64               `json:"size"`
	DiffID    digest.Digest       `json:"diffID"`
	Epoch     *int64              `json:"epoch,omitempty"` // clamped to this time, in Unix seconds
	Level     *int                `json:"level,omitempty"` // if somebody asked for one
	Local     bool                `json:"local,omitempty"` // in the content store
	From      []registry.Location `json:"from,omitempty"`
	// URLs are where an image says that it is to be had from, instead of from registries.
	URLs []string `json:"urls,omitempty"`
}

func (b *blobRow) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size, URLs: b.URLs}
}

// A slot is a directory handed out by containerd's snapshotter: Key names it in the
// metadata database, Inner in the snapshotter's own, Num is its directory.
type slot struct {
	Key   string `json:"key"`
	Inner string `json:"inner"`
	Num   string `json:"num"`
}

// A dirRow is a mutable directory.
type dirRow struct {
	ID          string            `json:"id"`
	Created     time.Time         `json:"created"`
	LastUsed    time.Time         `json:"lastUsed"`
	UsageCount  int               `json:"usageCount"`
	Description string            `json:"description,omitempty"`
	Type        string            `json:"type"`
	Slot        *slot             `json:"slot"`
	Base        []string          `json:"base,omitempty"` // layers beneath
	Size        int64             `json:"size"`           // -1: not measured since it was last open
	Meta        map[string][]byte `json:"meta,omitempty"`
}

// An imageRow is a name in the image store.
type imageRow struct {
	Target  ocispec.Descriptor `json:"target"`
	Created time.Time          `json:"created"`
	Blobs   []digest.Digest    `json:"blobs"`
	Size    int64              `json:"size"` // of Blobs
	Layers  []string           `json:"layers"`
}

// checkSchema says whether the database has the schema of this version. It is an error
// if it is newer.
func checkSchema(tx *bolt.Tx) (current bool, err error) {
	root := tx.Bucket(bucketRoot)
	if root == nil {
		return false, nil
	}
	v := root.Get(keySchema)
	if v == nil {
		return false, nil
	}
	var have int
	if err := json.Unmarshal(v, &have); err != nil {
		return false, fmt.Errorf("state database: unreadable schema version %q", v)
	}
	if have > schemaVersion {
		return false, fmt.Errorf("the state directory was written by a newer dbuild (schema %d, this one knows %d); use that version or another directory: %w",
			have, schemaVersion, errdefs.ErrFailedPrecondition)
	}
	return have == schemaVersion, nil
}

func initSchema(tx *bolt.Tx) error {
	root, err := tx.CreateBucketIfNotExists(bucketRoot)
	if err != nil {
		return err
	}
	v, err := json.Marshal(schemaVersion)
	if err != nil {
		return err
	}
	if err := root.Put(keySchema, v); err != nil {
		return err
	}
	for _, b := range [][]byte{bucketLayers, bucketDiffIDs, bucketDirs, bucketImages, bucketRecall} {
		if _, err := root.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	return nil
}

func bucket(tx *bolt.Tx, name []byte) *bolt.Bucket {
	return tx.Bucket(bucketRoot).Bucket(name)
}

// getRow decodes the value of key into row and says whether there was one. A value that
// cannot be decoded is as good as none.
func getRow(b *bolt.Bucket, key string, row any) bool {
	v := b.Get([]byte(key))
	return v != nil && json.Unmarshal(v, row) == nil
}

func putRow(b *bolt.Bucket, key string, row any) error {
	v, err := json.Marshal(row)
	if err != nil {
		return err
	}
	if err := b.Put([]byte(key), v); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// A LostError says that a layer exists neither as files nor as a blob that can be had:
// the registry that promised it no longer serves it. Whoever holds an answer that needs
// it forgets the answer and computes it again.
type LostError struct {
	LayerID string
	Err     error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("layer %s is lost: %v", short(e.LayerID), e.Err)
}

func (e *LostError) Unwrap() error { return e.Err }

// short is an ID for people.
func short(id string) string {
	if d, err := digest.Parse(id); err == nil {
		id = d.Encoded()
	}
	if len(id) > 12 {
		id = id[:12]
	}
	return id
}

var errClosed = errors.New("the store is closed")
