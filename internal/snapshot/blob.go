package snapshot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Compression says how layer blobs are made.
type Compression struct {
	Type             string // "gzip" (default), "zstd", "uncompressed"
	Level            *int
	Force            bool // convert blobs of another compression
	DockerMediaTypes bool
	// Epoch, if set, is the latest modification time an entry of the tar keeps. It does not
	// apply to layers of images, which are somebody else's.
	Epoch *time.Time
}

// A Blob is a layer as a descriptor (with DiffID), and where its bytes are.
type Blob struct {
	ocispec.Descriptor
	DiffID digest.Digest
	URLs   []string            // where its image says that it is to be had from
	Local  bool                // the bytes are in the content store
	From   []registry.Location // repositories known to hold it
	// Open reads the blob from wherever it is. The caller verifies the digest. If nobody
	// has it any more the error is a *LostError.
	Open func(ctx context.Context, g bksession.Group) (io.ReadCloser, error)
	// Held takes note that a repository holds the blob now, from where it can be mounted.
	Held        func(registry.Location)
	Created     time.Time
	Description string
}

// A variant is one way to make a blob of a layer.
type variant struct {
	typ      string
	level    int
	hasLevel bool
	epoch    int64
	hasEpoch bool
}

// Blobs returns every layer as a blob, oldest first. A layer that is only promised stays
// so: no bytes move. A layer that exists as files only is compressed now (or the work
// already under way is joined). Unless c.Force, an existing blob of another compression
// is used as it is.
func (r *Ref) Blobs(ctx context.Context, a Access, c Compression) ([]Blob, error) {
	typ, err := compressionType(c.Type)
	if err != nil {
		return nil, err
	}
	c.Type = typ
	out := make([]Blob, len(r.layers))
	g, gctx := errgroup.WithContext(ctx)
	for i, l := range r.layers {
		if b, ok := l.pick(c, r.prefer[i]); ok {
			out[i] = l.blob(b, c, r.prefer[i])
			continue
		}
		g.Go(func() error {
			b, err := l.make(gctx, a, c, r.prefer[i])
			if err != nil {
				return err
			}
			out[i] = l.blob(b, c, r.prefer[i])
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// BlobsNamed returns every layer as the blob of that digest, oldest first, or
// errdefs.ErrNotFound if a layer has no such blob. Nothing is compressed.
func (r *Ref) BlobsNamed(digests []digest.Digest) ([]Blob, error) {
	if len(digests) != len(r.layers) {
		return nil, fmt.Errorf("%d blobs are asked for of %d layers: %w", len(digests), len(r.layers), errdefs.ErrInvalidArgument)
	}
	out := make([]Blob, len(r.layers))
	for i, l := range r.layers {
		l.mu.Lock()
		at := slices.IndexFunc(l.row.Blobs, func(b blobRow) bool { return b.Digest == digests[i] })
		var row blobRow
		if at >= 0 {
			row = l.row.Blobs[at]
		}
		l.mu.Unlock()
		if at < 0 {
			return nil, fmt.Errorf("layer %s: %w", short(digests[i].String()), errdefs.ErrNotFound)
		}
		out[i] = l.blob(row, Compression{}, digests[i])
	}
	return out, nil
}

// Warm starts making blobs in the background, at low priority; Blobs joins it. Layers
// that are only promised are left alone.
func (r *Ref) Warm(c Compression) {
	typ, err := compressionType(c.Type)
	if err != nil || !r.s.enter() {
		return
	}
	c.Type = typ
	r.Retain()
	go func() {
		defer r.s.bg.Done()
		defer r.Release()
		for _, l := range r.layers {
			if _, ok := l.pick(c, ""); ok || l.here() == "" {
				continue
			}
			// Waiting here and not inside make: Blobs must not queue behind other Warms.
			if r.s.warmSem.Acquire(r.s.life, 1) != nil {
				return
			}
			_, err := l.make(r.s.life, Access{}, c, "")
			r.s.warmSem.Release(1)
			if err != nil {
				return // whoever calls Blobs will see it
			}
		}
	}()
}

// pick chooses among the blobs the layer has.
func (l *layer) pick(c Compression, prefer digest.Digest) (blobRow, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	epoch := l.epochLocked(c)
	best, score := -1, 0
	for i, b := range l.row.Blobs {
		// What an image has in this place is taken as it is, whatever times its files have.
		if !equal(b.Epoch, epoch) && (b.Digest != prefer || c.Force) {
			continue
		}
		s := 1
		typed := typeOf(b.MediaType) == c.Type
		if typed && (!c.Force || c.Level == nil || equal(b.Level, c.Level)) {
			s += 8
		} else if c.Force {
			continue
		}
		// Whoever names a time wants the same bytes, whatever was exported before.
		if epoch != nil && b.Digest != prefer && (!typed || !equal(b.Level, c.Level)) {
			continue
		}
		if b.Digest == prefer {
			s += 4
		}
		if b.Local {
			s += 2
		}
		if s > score {
			best, score = i, s
		}
	}
	if best < 0 {
		return blobRow{}, false
	}
	return l.row.Blobs[best], true
}

// epochLocked is the clamp that applies to this layer, in Unix seconds.
func (l *layer) epochLocked(c Compression) *int64 {
	if c.Epoch == nil || l.row.Promised {
		return nil
	}
	e := c.Epoch.Unix()
	return &e
}

func equal[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// make writes the blob that c asks for, once for all who want it.
func (l *layer) make(ctx context.Context, a Access, c Compression, prefer digest.Digest) (blobRow, error) {
	l.mu.Lock()
	epoch := l.epochLocked(c)
	l.mu.Unlock()
	v := variant{typ: c.Type}
	if c.Level != nil {
		v.level, v.hasLevel = *c.Level, true
	}
	if epoch != nil {
		v.epoch, v.hasEpoch = *epoch, true
	}
	return l.blobs.do(ctx, l.s, v, a, func(ctx context.Context, a Access) (blobRow, error) {
		if b, ok := l.pick(c, prefer); ok {
			return b, nil
		}
		if err := l.s.compressSem.Acquire(ctx, 1); err != nil {
			return blobRow{}, err
		}
		defer l.s.compressSem.Release(1)
		l.mu.Lock()
		promised, dir := l.row.Promised, l.dir
		l.mu.Unlock()
		if !promised && dir == "" && epoch != nil {
			// It was made here and demoted: the times to clamp are those of its files.
			var err error
			if dir, err = l.materialise(ctx, a, prefer); err != nil {
				return blobRow{}, err
			}
		}
		if promised || dir == "" {
			return l.convert(ctx, a, c, prefer)
		}
		var clamp *time.Time
		if epoch != nil {
			t := time.Unix(*epoch, 0)
			clamp = &t
		}
		line := a.Log.Track("compressing layer " + short(l.id))
		defer line.Done()
		b, err := l.write(ctx, c, line, func(ctx context.Context, w io.Writer) error {
			return writeTar(ctx, w, dir, l.s.mnt.xattr()+"opaque", clamp)
		})
		if err != nil {
			return b, fmt.Errorf("make layer blob: %w", err)
		}
		b.Epoch, b.Level = epoch, c.Level
		return l.addBlob(b), nil
	})
}

// convert makes a blob from one of another compression, without unpacking it.
func (l *layer) convert(ctx context.Context, a Access, c Compression, prefer digest.Digest) (_ blobRow, err error) {
	log, done := l.show(a)
	defer func() { done(err) }()
	errs := []error{errors.New("nobody is known to hold it")}
	for _, from := range l.candidates(prefer) {
		for try := 0; ; try++ {
			b, err := l.convertFrom(ctx, a, log, c, from)
			if err == nil {
				b.Level = c.Level
				return l.addBlob(b), nil
			}
			if ctx.Err() != nil {
				return blobRow{}, ctx.Err()
			}
			var here *localError
			if errors.As(err, &here) {
				return blobRow{}, here.err
			}
			if errors.Is(err, errCorrupt) && try == 0 || l.distrust(from.Digest) {
				continue
			}
			errs = append(errs, err)
			break
		}
	}
	return blobRow{}, &LostError{LayerID: l.id, Err: errs[len(errs)-1]}
}

func (l *layer) convertFrom(ctx context.Context, a Access, log *progress.Log, c Compression, from blobRow) (blobRow, error) {
	in, err := l.fetch(ctx, a, log, from)
	if err != nil {
		return blobRow{}, err
	}
	defer in.Close()
	plain, err := decompressor(in)
	if err != nil {
		return blobRow{}, in.verdict(err)
	}
	defer plain.Close()
	line := log.Track("converting " + from.Digest.String())
	defer line.Done()
	b, err := l.write(ctx, c, line, func(ctx context.Context, w io.Writer) error {
		_, err := io.CopyBuffer(w, onlyReader{plain}, make([]byte, 128<<10))
		if err != nil {
			return in.verdict(err)
		}
		return in.finish()
	})
	if err != nil {
		return b, err
	}
	if b.DiffID != from.DiffID {
		return b, fmt.Errorf("failed to verify layer %s: it unpacks to something else than its image says: %w", short(from.Digest.String()), errCorrupt)
	}
	return b, nil
}

type onlyReader struct{ io.Reader }

// write runs produce, compresses what it writes and stores that under the layer's lease.
func (l *layer) write(ctx context.Context, c Compression, line *progress.Tracker, produce func(context.Context, io.Writer) error) (_ blobRow, err error) {
	if err := l.ensureLease(); err != nil {
		return blobRow{}, err
	}
	lctx := l.leaseCtx(ctx)
	ref := "blob-" + newID()
	w, err := l.s.cs.Writer(lctx, content.WithRef(ref))
	if err != nil {
		return blobRow{}, err
	}
	defer func() {
		w.Close()
		if err != nil {
			l.s.cs.Abort(context.WithoutCancel(lctx), ref)
		}
	}()
	out := &counter{w: w}
	diffID, err := pack(ctx, out, c, line, produce)
	if err != nil {
		return blobRow{}, err
	}
	d := w.Digest()
	if diffID == "" {
		diffID = d
	}
	if err := w.Commit(lctx, out.n, d); err != nil && !errdefs.IsAlreadyExists(err) {
		return blobRow{}, err
	}
	return blobRow{
		MediaType: ociTypes[c.Type], Digest: d, Size: out.n, Local: true,
		DiffID: diffID,
	}, nil
}

// pack compresses what produce writes, and returns the digest of that, or "" if it is
// written to w as it is, whose digest the caller has.
func pack(ctx context.Context, w io.Writer, c Compression, line *progress.Tracker, produce func(context.Context, io.Writer) error) (digest.Digest, error) {
	buf := bufio.NewWriterSize(w, 256<<10)
	comp, err := compressor(buf, c.Type, c.Level)
	if err != nil {
		return "", err
	}

	// Four workers: reading files, hashing, compressing, and hashing and writing the result.
	pr, pw := io.Pipe()
	var g errgroup.Group
	g.Go(func() error {
		tar := bufio.NewWriterSize(pw, 256<<10)
		err := produce(ctx, tar)
		if err == nil {
			err = tar.Flush()
		}
		pw.CloseWithError(err)
		return err
	})
	var in io.Reader = pr
	diffID := digest.Canonical.Hash()
	if c.Type != noneType {
		in = io.TeeReader(pr, diffID)
	}
	plain := readAhead(in)
	n, err := io.CopyBuffer(onlyWriter{&tracked{comp, line, 0}}, onlyReader{plain}, make([]byte, aheadSize))
	pr.CloseWithError(err) // ends produce if compressing failed
	plain.Close()
	if err1 := g.Wait(); err1 != nil && (err == nil || !errors.Is(err1, io.ErrClosedPipe)) {
		err = err1
	}
	// Always closed: a compressor has goroutines.
	if err1 := comp.Close(); err == nil {
		err = err1
	}
	if err == nil {
		err = buf.Flush()
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", err
	}
	line.Set(n, n)
	if c.Type == noneType {
		return "", nil
	}
	return digest.NewDigest(digest.Canonical, diffID), nil
}

type onlyWriter struct{ io.Writer }

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

type tracked struct {
	w    io.Writer
	line *progress.Tracker
	n    int64
}

func (t *tracked) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.n += int64(n)
	t.line.Set(t.n, 0)
	return n, err
}

// addBlob records a blob that is in the content store.
func (l *layer) addBlob(b blobRow) blobRow {
	l.s.mu.Lock()
	l.mu.Lock()
	l.row.Blobs = slices.Clone(l.row.Blobs)
	i := slices.IndexFunc(l.row.Blobs, func(o blobRow) bool { return o.Digest == b.Digest && equal(o.Epoch, b.Epoch) })
	if i >= 0 {
		l.row.Blobs[i].Local = true
	} else {
		l.row.Blobs = append(l.row.Blobs, b)
	}
	if l.row.DiffID == "" && b.Epoch == nil {
		l.row.DiffID = b.DiffID
	}
	for _, name := range l.row.indexNames() {
		if _, taken := l.s.byDiff[name]; !taken {
			l.s.byDiff[name] = l.id
		}
	}
	l.mu.Unlock()
	l.s.mu.Unlock()
	l.persist(false, nil)
	return b
}

// rewritten is the annotation of a layer whose times were clamped.
const rewritten = "buildkit/rewritten-timestamp"

// blob describes a row's blob to the outside; prefer is what an image has in its place.
func (l *layer) blob(b blobRow, c Compression, prefer digest.Digest) Blob {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := b.descriptor()
	d.URLs = nil // for those only who ask
	d.MediaType = mediaType(b.MediaType, c.DockerMediaTypes)
	if c.Epoch != nil && b.Epoch != nil && b.Digest != prefer {
		d.Annotations = maps.Clone(d.Annotations)
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[rewritten] = strconv.FormatInt(*b.Epoch, 10)
	}
	return Blob{
		Descriptor:  d,
		DiffID:      b.DiffID,
		URLs:        slices.Clone(b.URLs),
		Local:       b.Local,
		From:        slices.Clone(b.From),
		Open:        func(ctx context.Context, g bksession.Group) (io.ReadCloser, error) { return l.read(ctx, g, b) },
		Held:        func(loc registry.Location) { l.held(b.Digest, loc) },
		Created:     l.row.Created,
		Description: l.row.Description,
	}
}

// maxHolders bounds how many repositories are remembered for a blob: those who push under
// names that are never used again add one each time.
const maxHolders = 8

// held remembers that a repository holds a blob. That is a hint like any other location:
// who asks there and finds nothing does without.
func (l *layer) held(d digest.Digest, loc registry.Location) {
	l.mu.Lock()
	news := false
	for i := range l.row.Blobs {
		b := &l.row.Blobs[i]
		if b.Digest != d || slices.Contains(b.From, loc) {
			continue
		}
		if !news {
			// The rows may be being encoded: do not write into the shared array.
			l.row.Blobs = slices.Clone(l.row.Blobs)
			b, news = &l.row.Blobs[i], true
		}
		from := slices.Clone(b.From)
		if len(from) >= maxHolders {
			from = slices.Delete(from, 1, 2) // the first is where an image came from
		}
		b.From = append(from, loc)
	}
	l.mu.Unlock()
	if news {
		l.persist(false, nil)
	}
}

// read opens a blob from wherever it is, unverified.
func (l *layer) read(ctx context.Context, g bksession.Group, b blobRow) (io.ReadCloser, error) {
	rc, err := l.s.openLocal(ctx, b.descriptor())
	if err == nil {
		return rc, nil
	}
	from, open := l.source(b.Digest)
	if open != nil {
		rc, err = open(ctx, g)
	}
	if err != nil && len(from) > 0 && l.s.fetch != nil {
		rc, err = l.s.fetch(ctx, g, from, b.descriptor())
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &LostError{LayerID: l.id, Err: err}
	}
	return rc, nil
}
