package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	digest "github.com/opencontainers/go-digest"
)

// content is a file on its way.
type content struct {
	r     io.Reader
	size  int64         // 0 if unknown
	from  string        // what usage records say
	want  digest.Digest // "" is any
	mtime time.Time
}

// store writes the content to a new layer, if it is what it should be, and returns its
// digest.
func (s *Source) store(ctx context.Context, file File, name string, in content, log *progress.Log) (*snapshot.Ref, digest.Digest, error) {
	draft, err := s.cfg.Store.NewDraft(ctx, nil, snapshot.Desc{Description: in.from})
	if err != nil {
		return nil, "", err
	}
	defer draft.Discard()
	f, err := os.OpenFile(filepath.Join(draft.Upper(), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	algo := digest.SHA256
	if in.want != "" {
		algo = in.want.Algorithm()
	}
	digester := algo.Digester()
	track := log.Track("downloading " + name)
	defer track.Done()
	w := &counter{w: io.MultiWriter(f, digester.Hash()), size: max(in.size, 0), track: track}
	if _, err := io.Copy(w, in.r); err != nil {
		return nil, "", err
	}
	w.flush()
	got := digester.Digest()
	if in.want != "" && got != in.want {
		return nil, "", fmt.Errorf("digest mismatch %s: %s", got, in.want) // in the words that clients know
	}
	if err := errors.Join(f.Chown(file.UID, file.GID), f.Chmod(file.Mode), f.Close(), os.Chtimes(f.Name(), in.mtime, in.mtime)); err != nil {
		return nil, "", err
	}
	ref, err := draft.Commit(ctx)
	return ref, got, err
}

// open reads what was pinned.
func (s *Source) open(ctx context.Context, g session.Group, p *Pin, log *progress.Log) (io.ReadCloser, error) {
	ref, err := s.Fetch(ctx, g, p, log)
	if err != nil {
		return nil, err
	}
	view, err := ref.View(ctx, snapshot.Access{Group: g, Log: log})
	if err != nil {
		ref.Release()
		return nil, err
	}
	f, err := view.Open(p.Filename)
	if err != nil {
		ref.Release()
		return nil, err
	}
	return &held{f, ref}, nil
}

// held is a file of a layer that must not go before it is closed.
type held struct {
	io.ReadCloser
	ref *snapshot.Ref
}

func (h *held) Close() error {
	defer h.ref.Release()
	return h.ReadCloser.Close()
}

// A Blob is a file that comes from somewhere else than a URL.
type Blob struct {
	File
	Digest digest.Digest
	From   string // for people
	Open   func(context.Context) (r io.ReadCloser, size int64, err error)
}

// Blob returns a file that is known by its digest, alone in a filesystem. It is called as
// its digest unless it has a name. The caller releases it.
func (s *Source) Blob(ctx context.Context, b Blob, log *progress.Log) (*snapshot.Ref, error) {
	name := b.Filename
	if name == "" {
		name = b.Digest.Encoded()
	}
	if ref, err := s.stored(ctx, b.File, b.Digest, name); ref != nil || err != nil {
		return ref, err
	}
	r, size, err := b.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	ref, _, err := s.store(ctx, b.File, name, content{r: r, size: size, from: b.From, want: b.Digest, mtime: time.Unix(0, 0)}, log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.From, err)
	}
	s.setRow(fileKey(b.File, b.Digest, name), row{Digest: b.Digest, Filename: name, Layers: ref.LayerIDs()})
	return ref, nil
}

// A counter shows how much was written, ten times a second at most.
type counter struct {
	w       io.Writer
	n, size int64
	track   *progress.Tracker
	last    time.Time
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if now := time.Now(); now.Sub(c.last) >= 100*time.Millisecond {
		c.last = now
		c.flush()
	}
	return n, err
}

func (c *counter) flush() { c.track.Set(c.n, c.size) }
