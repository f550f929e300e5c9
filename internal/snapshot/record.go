package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// A Record is a line of du. Size is bytes on disk, without parents.
type Record struct {
	ID          string
	Parents     []string
	Created     time.Time
	LastUsed    *time.Time
	UsageCount  int
	Size        int64
	RemoteSize  int64 // bytes of a promised layer that are not here
	InUse       bool
	Shared      bool // a child that is kept needs it
	Mutable     bool
	Description string
	Type        string
}

// A record is a Record and what is behind it.
type record struct {
	Record
	kind recordKind
	key  string // of the row
	slot *slot
	// needs are records that are of no use to this one's owner once they are gone: parents
	// of a layer, layers of an image, base of a directory.
	needs []string
	// children counts kept records that need this one.
	children int
	images   []string // ids of images that name this layer

	lazy      bool // of a layer: no bytes of it are here
	sourced   bool // of a layer: a registry is known to hold it
	lazyAbove int  // those of the children that are lazy
}

type recordKind int

const (
	layerRecord recordKind = iota
	dirRecord
	imageRecord
)

// Usage lists records that match any of the containerd-syntax filters.
func (s *Store) Usage(ctx context.Context, filter []string) ([]Record, error) {
	match, err := filters.ParseAll(filter...)
	if err != nil {
		return nil, fmt.Errorf("filter: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	recs, err := s.records(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Record, 0, len(recs))
	for _, r := range recs {
		if match.Match(r.adapt()) {
			out = append(out, r.Record)
		}
	}
	return out, nil
}

// records reads all rows, oldest first.
func (s *Store) records(ctx context.Context) ([]*record, error) {
	if err := s.commit.settle(ctx); err != nil {
		return nil, err
	}
	var recs []*record
	unmeasured := map[*record]bool{}
	if err := s.db.View(func(tx *bolt.Tx) error {
		if err := bucket(tx, bucketLayers).ForEach(func(k, v []byte) error {
			var row layerRow
			if json.Unmarshal(v, &row) == nil {
				recs = append(recs, layerToRecord(string(k), &row))
			}
			return nil
		}); err != nil {
			return err
		}
		if err := bucket(tx, bucketDirs).ForEach(func(k, v []byte) error {
			var row dirRow
			if json.Unmarshal(v, &row) == nil {
				r := dirToRecord(string(k), &row)
				unmeasured[r] = row.Size < 0
				recs = append(recs, r)
			}
			return nil
		}); err != nil {
			return err
		}
		return bucket(tx, bucketImages).ForEach(func(k, v []byte) error {
			var row imageRow
			if json.Unmarshal(v, &row) == nil {
				recs = append(recs, imageToRecord(string(k), &row))
			}
			return nil
		})
	}); err != nil {
		return nil, err
	}

	byID := make(map[string]*record, len(recs))
	for _, r := range recs {
		byID[r.ID] = r
	}
	for _, r := range recs {
		for _, n := range r.needs {
			if need := byID[n]; need != nil {
				need.children++
				need.Shared = true
				if r.lazy {
					need.lazyAbove++
				}
				if r.kind == imageRecord {
					need.images = append(need.images, r.ID)
				}
			}
		}
	}
	s.mu.Lock()
	for _, r := range recs {
		switch r.kind {
		case layerRecord:
			l := s.layers[r.key]
			r.InUse = l != nil && l.uses > 0
		case dirRecord:
			st := s.dirs[r.key]
			r.InUse = st != nil && st.users > 0
		}
	}
	s.mu.Unlock()
	for r, yes := range unmeasured {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if yes {
			s.measureDir(r)
		}
	}
	slices.SortStableFunc(recs, func(a, b *record) int { return a.Created.Compare(b.Created) })
	return recs, nil
}

// measureDir finds out how big a mutable directory is, and remembers it while nobody
// writes to it.
func (s *Store) measureDir(r *record) {
	size, err := diskUsage(s.alloc.path(r.slot))
	if err != nil {
		return
	}
	r.Size = size
	if r.InUse {
		return
	}
	s.mu.Lock()
	st := s.dirs[r.key]
	free := st == nil || st.users == 0
	s.mu.Unlock()
	if !free {
		return
	}
	if st != nil {
		st.mu.Lock()
		st.row.Size = size
		st.mu.Unlock()
	}
	last := r.LastUsed
	s.Later(func(tx *bolt.Tx) error {
		var row dirRow
		b := bucket(tx, bucketDirs)
		// Unless it was opened again: then the size is unknown again.
		if getRow(b, r.key, &row) && row.ID == r.ID && row.LastUsed.Equal(*last) {
			row.Size = size
			return putRow(b, r.key, &row)
		}
		return nil
	})
}

func layerToRecord(id string, row *layerRow) *record {
	r := &record{
		Record: Record{
			ID: id, Parents: row.Parents, Created: row.Created, UsageCount: row.UsageCount, Size: row.Size,
			Description: row.Description, Type: row.Type,
		},
		kind: layerRecord, key: id, slot: row.Slot, needs: row.Parents,
	}
	if !row.LastUsed.IsZero() {
		r.LastUsed = &row.LastUsed
	}
	if r.Type == "" {
		r.Type = TypeRegular
	}
	here := row.Slot != nil
	seen := map[digest.Digest]bool{}
	for _, b := range row.Blobs {
		if b.Local && !seen[b.Digest] {
			seen[b.Digest] = true
			r.Size += b.Size
			here = true
		}
	}
	r.sourced = len(row.promises()) > 0
	if r.lazy = !here && len(row.Blobs) > 0; r.lazy {
		r.RemoteSize = row.Blobs[0].Size
	}
	return r
}

func dirToRecord(key string, row *dirRow) *record {
	return &record{
		Record: Record{
			ID: row.ID, Parents: row.Base[max(0, len(row.Base)-1):], Created: row.Created, LastUsed: &row.LastUsed,
			UsageCount: row.UsageCount, Size: max(row.Size, 0), Mutable: true, Description: row.Description, Type: row.Type,
		},
		kind: dirRecord, key: key, slot: row.Slot, needs: row.Base,
	}
}

func imageToRecord(name string, row *imageRow) *record {
	return &record{
		Record: Record{
			ID: imageLease(name)[:len("image-")+25], Created: row.Created, LastUsed: &row.Created,
			Size: row.Size, Description: name, Type: TypeImage,
		},
		kind: imageRecord, key: name, needs: row.Layers,
	}
}

// adapt shows the fields that filters can name.
func (r *record) adapt() filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) != 1 {
			return "", false
		}
		switch path[0] {
		case "id":
			return r.ID, true
		case "parents":
			return strings.Join(r.Parents, ";"), len(r.Parents) > 0
		case "description":
			return r.Description, r.Description != ""
		case "type":
			return r.Type, r.Type != ""
		case "inuse":
			return "", r.InUse
		case "mutable":
			return "", r.Mutable
		case "immutable":
			return "", !r.Mutable
		case "shared":
			return "", r.Shared
		case "private":
			return "", !r.Shared
		}
		return "", false
	})
}
