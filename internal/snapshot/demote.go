package snapshot

import (
	"container/heap"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Demotion turns a layer back into a promise. Its files and blobs go, the record stays, so
// that what was made of it is still found and costs a pull and not a build. The layers that
// it is of no use without must stay, too, as promises at least.

// promiseFor is how long a promise that nobody uses is kept.
const promiseFor = 30 * 24 * time.Hour

// promises are the blobs from which the layer can be had again, as it was.
func (r *layerRow) promises() []blobRow {
	var out []blobRow
	for _, b := range r.Blobs {
		if len(b.From) > 0 && (b.Epoch != nil || b.DiffID == r.DiffID) {
			b.Local = false
			out = append(out, b)
		}
	}
	for _, b := range out {
		if b.Epoch == nil {
			return out
		}
	}
	return nil
}

// demotes reports whether taking r's bytes leaves a promise that is of use.
func (p *pruner) demotes(r *record) bool {
	return p.o.Demote && !r.lazy && p.may(r)
}

// may reports whether r and all that it needs have a source.
func (p *pruner) may(r *record) bool {
	if known, ok := p.stays[r]; ok {
		return known
	}
	p.stays[r] = false // for rows that name each other
	if r.kind != layerRecord || !r.sourced {
		return false
	}
	for _, id := range r.needs {
		if need := p.byID[id]; need == nil || !p.may(need) {
			return false
		}
	}
	p.stays[r] = true
	return true
}

// spared reports whether r is a promise that may as well stay: it takes no space.
func (p *pruner) spared(r *record) bool {
	return p.demoted[r] || p.o.Demote && r.lazy && time.Since(lastUsed(r)) < promiseFor
}

// demote puts r on the list, and considers those that only it needed with their bytes.
func (p *pruner) demote(r *record) {
	r.lazy, p.demoted[r] = true, true
	p.batch = append(p.batch, r)
	for _, id := range r.needs {
		need := p.byID[id]
		need.lazyAbove++
		if p.eligible(need) {
			heap.Push(&p.heap, need)
		}
	}
}

// demoteRow makes the row of a layer that of a promise, and gives up what it kept.
func (s *Store) demoteRow(tx *bolt.Tx, r *record) error {
	var row layerRow
	rows := bucket(tx, bucketLayers)
	if !getRow(rows, r.key, &row) {
		return nil
	}
	if err := leaveIndex(tx, r.key, &row); err != nil {
		return err
	}
	row.Blobs, row.Slot, row.Size, row.Links = row.promises(), nil, 0, nil
	if err := putRow(rows, r.key, &row); err != nil {
		return err
	}
	if err := enterIndex(tx, r.key, &row); err != nil {
		return err
	}
	return s.letGo(tx, r, r.ID)
}
