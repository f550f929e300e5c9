package snapshot

import (
	"bytes"

	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// The index finds a layer by the diff ID of its tar. Different steps may make the same
// files: then one layer stands in the index and the others are its twins, one of which
// takes its place when it goes.

// twinKey is the row of a layer that could stand in the index under name, too.
func twinKey(name digest.Digest, layer string) []byte {
	return []byte(string(name) + "\x00" + layer)
}

// twins is the bucket of those rows. States that are older than it have none.
func twins(tx *bolt.Tx) (*bolt.Bucket, error) {
	return tx.Bucket(bucketRoot).CreateBucketIfNotExists(bucketTwins)
}

// enterIndex makes a layer be found under its names, now or when its twin has gone.
func enterIndex(tx *bolt.Tx, layer string, row *layerRow) error {
	rows, index := bucket(tx, bucketLayers), bucket(tx, bucketDiffIDs)
	for _, name := range row.indexNames() {
		other := index.Get([]byte(name))
		if string(other) == layer {
			continue
		}
		if other == nil || rows.Get(other) == nil {
			if err := index.Put([]byte(name), []byte(layer)); err != nil {
				return err
			}
			continue
		}
		b, err := twins(tx)
		if err != nil {
			return err
		}
		if err := b.Put(twinKey(name, layer), nil); err != nil {
			return err
		}
	}
	return nil
}

// leaveIndex undoes enterIndex.
func leaveIndex(tx *bolt.Tx, layer string, row *layerRow) error {
	b, err := twins(tx)
	if err != nil {
		return err
	}
	index := bucket(tx, bucketDiffIDs)
	for _, name := range row.indexNames() {
		if err := b.Delete(twinKey(name, layer)); err != nil {
			return err
		}
		if string(index.Get([]byte(name))) != layer {
			continue
		}
		prefix := twinKey(name, "")
		key, _ := b.Cursor().Seek(prefix)
		heir, found := bytes.CutPrefix(key, prefix)
		if !found {
			if err := index.Delete([]byte(name)); err != nil {
				return err
			}
			continue
		}
		if err := index.Put([]byte(name), bytes.Clone(heir)); err != nil {
			return err
		}
		if err := b.Delete(bytes.Clone(key)); err != nil {
			return err
		}
	}
	return nil
}
