package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// root is the bucket that holds the tables. Its name changes with their format or with
// the meaning of what is in them; other versions are deleted.
var root = []byte("cache/1")

// rootPrefix begins the names of the buckets of all versions.
var rootPrefix = []byte("cache/")

// A database is the part of Store that a table needs.
type database interface {
	ViewDB(func(*bolt.Tx) error) error
	Later(func(*bolt.Tx) error)
}

// A table is one bucket, with what is not committed yet on top. Every value begins
// with the time at which it was last used.
type table struct {
	db   database
	name []byte

	mu      sync.Mutex
	pending map[string]*pending // by key
}

// A pending is the newest value of a key, until it is committed. It does not change.
type pending struct{ value []byte } // nil: deleted

func newTable(db database, name string) *table {
	return &table{db: db, name: []byte(name), pending: make(map[string]*pending)}
}

// get returns the value of key without its time, which it returns apart.
func (t *table) get(key []byte) (value []byte, used time.Time, ok bool) {
	t.mu.Lock()
	p := t.pending[string(key)]
	t.mu.Unlock()
	var raw []byte
	if p != nil {
		raw = p.value
	} else {
		// An error is a miss, like everything else that goes wrong here.
		_ = t.db.ViewDB(func(tx *bolt.Tx) error {
			if b := t.bucket(tx); b != nil {
				raw = bytes.Clone(b.Get(key))
			}
			return nil
		})
	}
	if len(raw) < 8 {
		return nil, time.Time{}, false
	}
	return raw[8:], timeOf(raw), true
}

// put sets the value of key, used now.
func (t *table) put(key, value []byte) {
	raw := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(value)), uint64(time.Now().Unix()))
	t.write(key, append(raw, value...))
}

// delete removes key.
func (t *table) delete(key []byte) { t.write(key, nil) }

func (t *table) write(key, raw []byte) {
	p := &pending{raw}
	k := string(key)
	// Under mu, so that the order of commits is that of the overlay.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending[k] = p
	t.db.Later(func(tx *bolt.Tx) error {
		b, err := t.create(tx)
		if err != nil {
			return err
		}
		if raw == nil {
			err = b.Delete([]byte(k))
		} else {
			err = b.Put([]byte(k), raw)
		}
		tx.OnCommit(func() { t.committed(k, p) })
		return err
	})
}

// committed removes from the overlay what the database now has.
func (t *table) committed(key string, p *pending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pending[key] == p {
		delete(t.pending, key)
	}
}

func (t *table) bucket(tx *bolt.Tx) *bolt.Bucket {
	b := tx.Bucket(root)
	if b == nil {
		return nil
	}
	return b.Bucket(t.name)
}

func (t *table) create(tx *bolt.Tx) (*bolt.Bucket, error) {
	b, err := tx.CreateBucketIfNotExists(root)
	if err == nil {
		b, err = b.CreateBucketIfNotExists(t.name)
	}
	if err != nil {
		return nil, fmt.Errorf("cache table %s: %w", t.name, err)
	}
	return b, nil
}

// trimBatch is how many keys are deleted in one change.
const trimBatch = 1000

// trim deletes what was not used since a time, and returns how much that is.
func (t *table) trim(olderThan time.Time) int {
	var old [][]byte
	_ = t.db.ViewDB(func(tx *bolt.Tx) error {
		b := t.bucket(tx)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if len(v) < 8 || timeOf(v).Before(olderThan) {
				old = append(old, bytes.Clone(k))
			}
			return nil
		})
	})
	for rest := old; len(rest) > 0; {
		batch := rest[:min(len(rest), trimBatch)]
		rest = rest[len(batch):]
		t.db.Later(func(tx *bolt.Tx) error {
			b, err := t.create(tx)
			for _, k := range batch {
				if err != nil {
					break
				}
				// It may have been used since.
				if v := b.Get(k); len(v) < 8 || timeOf(v).Before(olderThan) {
					err = b.Delete(k)
				}
			}
			return err
		})
	}
	return len(old)
}

func timeOf(raw []byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(raw)), 0)
}
