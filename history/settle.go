package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

// Media types of blobs, as clients know them.
const (
	MediaTypeStatus = "application/vnd.buildkit.status.v0"
	MediaTypeTrace  = "application/vnd.buildkit.otlp.json.v0"
	MediaTypeError  = "application/vnd.googeapis.google.rpc.status+proto" // misspelt on the wire
)

var (
	bucketRoot = []byte("history")
	keyRecord  = []byte("record")
	prefixBlob = []byte("blob/")
	prefixFile = []byte("file/")
)

// settle completes the record of a finished build and makes it part of the history.
func (j *Journal) settle(e *Entry) {
	defer close(e.done)
	j.mu.Lock()
	before := e.before
	j.mu.Unlock()
	for _, fn := range before {
		fn(e)
	}
	// Nobody else changes the record any more.
	rec := e.record
	rec.ExporterResponse = e.outcome.Response
	rec.Generation = 1
	made := &collector{j: j}
	seen := newSummary()
	if e.outcome.Log != nil {
		log := j.newSink()
		frames := &frameWriter{w: log}
		for msg := range e.outcome.Log {
			seen.add(msg)
			if !e.hidden {
				frames.write(msg)
			}
		}
		if !e.hidden {
			rec.Logs = made.keep(MediaTypeStatus, log, frames.err)
		}
	}
	seen.count(rec)
	spans := j.spans(e, seen)
	if j.cfg.Spans != nil {
		for _, s := range spans.Snapshots() {
			j.cfg.Spans(s)
		}
	}
	if e.hidden {
		return
	}
	trace := j.newSink()
	enc := json.NewEncoder(trace)
	var err error
	for _, s := range spans {
		if err == nil {
			err = enc.Encode(s)
		}
	}
	rec.Trace = made.keep(MediaTypeTrace, trace, err)
	if st := e.outcome.Error; st != nil {
		rec.Error = &spb.Status{Code: st.Code, Message: st.Message}
		if len(st.Details) > 0 {
			full, err := proto.Marshal(st)
			rec.ExternalError = made.keepBytes(MediaTypeError, full, err)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(e.blobs)) {
		made.keepBytes("", e.blobs[d], nil)
	}
	if made.err != nil {
		j.cfg.Report(fmt.Errorf("the history of build %s is not complete: %w", rec.Ref, made.err))
	}
	j.insert(e, made)
}

// insert makes a settled record of e.
func (j *Journal) insert(e *Entry, made *collector) {
	rec := e.record
	r := &row{
		ref: rec.Ref, created: rec.CreatedAt.AsTime(), completed: rec.CompletedAt.AsTime(), digests: made.held,
	}
	small := map[digest.Digest][]byte{}
	var files int
	var errs []error
	// A file is held before it has its name, so that it is not removed with a record that
	// had the same.
	j.mu.Lock()
	for _, h := range r.digests {
		j.hold(r, h)
	}
	for _, s := range made.sinks {
		if s.file == nil {
			small[s.digest] = s.buf.Bytes()
			continue
		}
		files++
		errs = append(errs, s.place())
	}
	j.mu.Unlock()
	if files > 0 {
		errs = append(errs, j.syncNames())
	}
	if err := errors.Join(errs...); err != nil {
		j.cfg.Report(fmt.Errorf("the history of build %s: %w", rec.Ref, err))
	}

	j.mu.Lock()
	defer j.mu.Unlock()
	j.drop(rec.Ref) // of an earlier build with the same ref
	j.rows[r.ref] = r
	if j.active[r.ref] == e {
		delete(j.active, r.ref)
	}
	j.put(r, &memory{rec, small})
}

// put has the database take m as the contents of r, and tells listeners. j.mu is held.
func (j *Journal) put(r *row, m *memory) {
	j.unwait(r)
	r.mem = m
	j.waiting = append(j.waiting, r)
	for len(j.waiting) > maxPending { // the disk is full, or very slow
		j.drop(j.waiting[0].ref)
	}
	j.cfg.DB.Later(func(tx *bolt.Tx) error {
		if err := write(tx, r, m); err != nil {
			return fmt.Errorf("history of build %s: %w", r.ref, err)
		}
		tx.OnCommit(func() {
			j.mu.Lock()
			defer j.mu.Unlock()
			if r.mem == m {
				j.unwait(r)
			}
		})
		return nil
	})
	j.tell(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: m.record})
}

// write puts one record into its bucket.
func write(tx *bolt.Tx, r *row, m *memory) error {
	root, err := tx.CreateBucketIfNotExists(bucketRoot)
	if err != nil {
		return err
	}
	b, err := root.CreateBucketIfNotExists([]byte(r.ref))
	if err != nil {
		return err
	}
	raw, err := m.record.MarshalVT()
	if err != nil {
		return err
	}
	if err := b.Put(keyRecord, raw); err != nil {
		return err
	}
	for _, h := range r.digests {
		key, value := append(prefixBlob[:len(prefixBlob):len(prefixBlob)], h.digest...), m.small[h.digest]
		if h.file {
			key, value = append(prefixFile[:len(prefixFile):len(prefixFile)], h.digest...), fmt.Append(nil, h.size)
		} else if value == nil {
			continue // it is there already
		}
		if err := b.Put(key, value); err != nil {
			return err
		}
	}
	return nil
}

// load reads what there is. What cannot be read, or lacks a blob, is dropped.
func (j *Journal) load() error {
	var broken []string
	if err := j.cfg.DB.ViewDB(func(tx *bolt.Tx) error {
		root := tx.Bucket(bucketRoot)
		if root == nil {
			return nil
		}
		return root.ForEachBucket(func(k []byte) error {
			r, ok := j.readRow(string(k), root.Bucket(k))
			if !ok {
				broken = append(broken, string(k))
				return nil
			}
			j.rows[r.ref] = r
			for _, h := range r.digests {
				j.hold(r, h)
			}
			return nil
		})
	}); err != nil {
		return err
	}
	for _, ref := range broken {
		j.cfg.Report(fmt.Errorf("the history of build %s is damaged and was dropped", ref))
		j.cfg.DB.Later(func(tx *bolt.Tx) error {
			if b := tx.Bucket(bucketRoot); b != nil && b.Bucket([]byte(ref)) != nil {
				return b.DeleteBucket([]byte(ref))
			}
			return nil
		})
	}
	return nil
}

func (j *Journal) readRow(ref string, b *bolt.Bucket) (*row, bool) {
	var rec controlapi.BuildHistoryRecord
	if rec.UnmarshalVT(b.Get(keyRecord)) != nil || rec.Ref != ref || rec.CompletedAt == nil {
		return nil, false
	}
	r := &row{ref: ref, created: rec.CreatedAt.AsTime(), completed: rec.CompletedAt.AsTime(), pinned: rec.Pinned}
	c := b.Cursor()
	for k, v := c.Seek(prefixBlob); bytes.HasPrefix(k, prefixBlob); k, v = c.Next() {
		d := digest.Digest(k[len(prefixBlob):])
		if d.Validate() != nil {
			return nil, false
		}
		r.digests = append(r.digests, held{digest: d, size: int64(len(v))})
	}
	for k, v := c.Seek(prefixFile); bytes.HasPrefix(k, prefixFile); k, v = c.Next() {
		h := held{digest: digest.Digest(k[len(prefixFile):]), file: true}
		if _, err := fmt.Sscan(string(v), &h.size); err != nil || h.digest.Validate() != nil || !j.hasFile(h) {
			return nil, false
		}
		r.digests = append(r.digests, h)
	}
	return r, true
}

// A collector gathers the blobs of one record.
type collector struct {
	j     *Journal
	sinks []*sink
	held  []held
	err   error // the first
}

// keep makes a blob of what was written to s and returns its descriptor, or nil if err or
// what it comes upon is an error.
func (c *collector) keep(mediaType string, s *sink, err error) *controlapi.Descriptor {
	if err1 := s.finish(); err == nil {
		err = err1
	}
	if err != nil {
		s.discard()
		if c.err == nil {
			c.err = err
		}
		return nil
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: s.digest, Size: s.size}
	if slices.ContainsFunc(c.held, func(h held) bool { return h.digest == s.digest }) {
		s.discard()
		return descriptor(d)
	}
	c.sinks = append(c.sinks, s)
	c.held = append(c.held, held{s.digest, s.size, s.file != nil})
	return descriptor(d)
}

func (c *collector) keepBytes(mediaType string, b []byte, err error) *controlapi.Descriptor {
	s := c.j.newSink()
	if _, err1 := s.Write(b); err == nil {
		err = err1
	}
	return c.keep(mediaType, s, err)
}
