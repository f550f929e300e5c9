package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// maxSmall is the size up to which a blob is kept in the database, in bytes.
const maxSmall = 64 << 10

// A blob is what records refer to.
type blob struct {
	size    int64
	created time.Time
	in      map[*row]bool // that hold it; true if as a file
}

// hold notes that r has a blob. j.mu is held, or the Journal is not open yet.
func (j *Journal) hold(r *row, h held) {
	b := j.blobs[h.digest]
	if b == nil {
		b = &blob{size: h.size, created: r.completed, in: map[*row]bool{}}
		j.blobs[h.digest] = b
	}
	b.in[r] = h.file
}

// letGo notes that r has a blob no longer. j.mu is held.
func (j *Journal) letGo(r *row, h held) {
	b := j.blobs[h.digest]
	if b == nil {
		return
	}
	delete(b.in, r)
	for _, file := range b.in {
		if file {
			return
		}
	}
	if h.file {
		_ = os.Remove(j.path(h.digest)) // if not, Open will
	}
	if len(b.in) == 0 {
		delete(j.blobs, h.digest)
	}
}

func (j *Journal) path(d digest.Digest) string { return filepath.Join(j.cfg.Root, d.Encoded()) }

func (j *Journal) hasFile(h held) bool {
	st, err := os.Lstat(j.path(h.digest))
	return err == nil && st.Mode().IsRegular() && st.Size() == h.size
}

// sweepFiles removes files that no record names.
func (j *Journal) sweepFiles() error {
	entries, err := os.ReadDir(j.cfg.Root)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for d := range j.blobs {
		named[d.Encoded()] = true
	}
	for _, e := range entries {
		if !named[e.Name()] {
			if err := os.RemoveAll(filepath.Join(j.cfg.Root, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Info describes a blob, or returns errdefs.ErrNotFound.
func (j *Journal) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b := j.blobs[d]
	if b == nil {
		return content.Info{}, fmt.Errorf("content %s: %w", d, errdefs.ErrNotFound)
	}
	return content.Info{Digest: d, Size: b.size, CreatedAt: b.created, UpdatedAt: b.created}, nil
}

// Infos describes all blobs.
func (j *Journal) Infos() []content.Info {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]content.Info, 0, len(j.blobs))
	for d, b := range j.blobs {
		out = append(out, content.Info{Digest: d, Size: b.size, CreatedAt: b.created, UpdatedAt: b.created})
	}
	return out
}

// ReaderAt opens a blob, or returns errdefs.ErrNotFound.
func (j *Journal) ReaderAt(_ context.Context, d digest.Digest) (content.ReaderAt, error) {
	j.mu.Lock()
	b := j.blobs[d]
	var refs []string
	if b != nil {
		for r, file := range b.in {
			if file {
				defer j.mu.Unlock()
				f, err := os.Open(j.path(d))
				if err != nil {
					return nil, err
				}
				return fileAt{f, b.size}, nil
			}
			if r.mem != nil && r.mem.small[d] != nil {
				defer j.mu.Unlock()
				return bytesAt{bytes.NewReader(r.mem.small[d])}, nil
			}
			refs = append(refs, r.ref)
		}
	}
	j.mu.Unlock()
	for _, ref := range refs {
		var data []byte
		if err := j.viewRow(ref, func(b *bolt.Bucket) error {
			data = bytes.Clone(b.Get(append(prefixBlob[:len(prefixBlob):len(prefixBlob)], d...)))
			return nil
		}); err == nil && digest.FromBytes(data) == d {
			return bytesAt{bytes.NewReader(data)}, nil
		}
	}
	return nil, fmt.Errorf("content %s: %w", d, errdefs.ErrNotFound)
}

// viewRow reads the bucket of a record.
func (j *Journal) viewRow(ref string, fn func(*bolt.Bucket) error) error {
	return j.cfg.DB.ViewDB(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketRoot)
		if b != nil {
			b = b.Bucket([]byte(ref))
		}
		if b == nil {
			return errNoRecord(ref)
		}
		return fn(b)
	})
}

type fileAt struct {
	*os.File
	size int64
}

func (f fileAt) Size() int64 { return f.size }

type bytesAt struct{ *bytes.Reader }

func (bytesAt) Close() error { return nil }

// A sink takes the bytes of a new blob: a small one in memory, a large one in a file that
// gets its name with place.
type sink struct {
	j      *Journal
	hash   hash.Hash
	buf    bytes.Buffer
	file   *os.File
	size   int64
	digest digest.Digest // once finished
}

func (j *Journal) newSink() *sink { return &sink{j: j, hash: digest.Canonical.Hash()} }

func (s *sink) Write(p []byte) (int, error) {
	if s.file == nil && s.buf.Len()+len(p) > maxSmall {
		f, err := os.CreateTemp(s.j.cfg.Root, "new-")
		if err != nil {
			return 0, err
		}
		s.file = f
	}
	s.hash.Write(p)
	s.size += int64(len(p))
	n, err := s.buf.Write(p)
	if s.file != nil && s.buf.Len() > maxSmall {
		err = s.spill()
	}
	return n, err
}

func (s *sink) spill() error {
	_, err := s.buf.WriteTo(s.file)
	return err
}

// finish makes what was written durable, and knows its digest.
func (s *sink) finish() error {
	s.digest = digest.NewDigest(digest.Canonical, s.hash)
	if s.file == nil {
		return nil
	}
	err := s.spill()
	if err == nil {
		err = s.file.Sync()
	}
	return errors.Join(err, s.file.Close())
}

// place gives the file its name.
func (s *sink) place() error {
	if s.file == nil {
		return nil
	}
	return os.Rename(s.file.Name(), s.j.path(s.digest))
}

// syncNames makes the names of files durable.
func (j *Journal) syncNames() error {
	dir, err := os.Open(j.cfg.Root)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (s *sink) discard() {
	if s.file != nil {
		_ = s.file.Close() // it may be closed already
		if err := os.Remove(s.file.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.j.cfg.Report(err)
		}
	}
}
