package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// errCorrupt says that bytes were not what their name promises.
var errCorrupt = errors.New("content does not match its digest")

// materialise makes the layer files and returns their directory.
func (l *layer) materialise(ctx context.Context, a Access, prefer digest.Digest) (dir string, err error) {
	if dir := l.here(); dir != "" {
		return dir, nil
	}
	work, done := l.show(a)
	defer func() { done(err) }()
	return l.files.do(ctx, l.s, struct{}{}, a, func(ctx context.Context, a Access) (string, error) {
		if dir := l.here(); dir != "" {
			return dir, nil
		}
		if err := l.s.unpackSem.Acquire(ctx, 1); err != nil {
			return "", err
		}
		defer l.s.unpackSem.Release(1)
		return l.unpackAny(ctx, a, work, prefer)
	})
}

// candidates are the blobs to try, best first.
func (l *layer) candidates(prefer digest.Digest) []blobRow {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(l.row.Blobs), func(b blobRow) bool {
		// A clamped blob has other times than the files had.
		return b.Epoch != nil || b.DiffID != l.row.DiffID
	})
	rank := func(b blobRow) int {
		switch {
		case b.Local:
			return 0
		case b.Digest == prefer:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(list, func(a, b blobRow) int { return rank(a) - rank(b) })
	return list
}

func (l *layer) unpackAny(ctx context.Context, a Access, log *progress.Log, prefer digest.Digest) (string, error) {
	var errs []error
	for _, b := range l.candidates(prefer) {
		for try := 0; ; try++ {
			dir, err := l.unpack(ctx, a, log, b)
			if err == nil {
				return dir, nil
			}
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			var here *localError
			if errors.As(err, &here) {
				return "", here.err // no other blob would fare better
			}
			if b.Local {
				// Damaged here: forget the copy and ask those who promised it.
				l.demote(b.Digest)
				b.Local = false
				errs = append(errs, err)
				continue
			}
			if errors.Is(err, errCorrupt) && try == 0 || l.distrust(b.Digest) {
				continue
			}
			errs = append(errs, err)
			break
		}
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("nobody is known to hold it"))
	}
	return "", &LostError{LayerID: l.id, Err: errs[len(errs)-1]}
}

// distrust forgets that a blob can be had from elsewhere than a registry, if there is a
// registry that has it, and says whether that was news.
func (l *layer) distrust(d digest.Digest) bool {
	from, open := l.source(d)
	if open == nil || len(from) == 0 {
		return false
	}
	l.mu.Lock()
	delete(l.open, d)
	l.mu.Unlock()
	return true
}

// demote forgets that a blob is in the content store.
func (l *layer) demote(d digest.Digest) {
	l.mu.Lock()
	l.row.Blobs = slices.Clone(l.row.Blobs)
	for i := range l.row.Blobs {
		if l.row.Blobs[i].Digest == d {
			l.row.Blobs[i].Local = false
		}
	}
	l.mu.Unlock()
	// The name must go too, or the content store would refuse to write the blob again.
	if err := l.s.cs.Delete(l.s.ctx(context.Background()), d); err == nil {
		_ = l.s.alloc.collect(context.Background()) // or the next collection does
	}
	l.persist(false, nil)
}

// A localError is a failure of this machine, such as a full disk, and not of a blob.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// unpack makes the files from blob b, verifying everything on the way.
func (l *layer) unpack(ctx context.Context, a Access, log *progress.Log, b blobRow) (_ string, err error) {
	in, err := l.fetch(ctx, a, log, b)
	if err != nil {
		return "", err
	}
	defer in.Close()
	sl, err := l.s.alloc.take(ctx)
	if err != nil {
		return "", &localError{err}
	}
	keep := false
	defer func() {
		if !keep {
			if err1 := l.s.alloc.discard(sl); err1 != nil && err == nil {
				err = &localError{err1}
			}
		}
	}()

	line := log.Track("extracting " + b.Digest.String())
	defer line.Done()
	x, size, err := in.extract(l.s, sl)
	if err != nil {
		return "", err
	}
	line.Set(size, size)

	l.mu.Lock()
	done := l.dir
	if done == "" {
		l.row.Implicit, l.row.OpaqueRoot = x.implicit(), x.opaqueRoot
	}
	l.mu.Unlock()
	if done != "" || l.gone.Load() {
		return done, nil // abandoned work of somebody else was faster
	}
	keep = true
	dir := l.setFiles(sl)
	l.persist(true, l.measure)
	return dir, nil
}

// extract unpacks the blob into an empty slot, and verifies everything on the way. size is
// that of the archive, in bytes.
func (r *blobReader) extract(s *Store, sl *slot) (x *extractor, size int64, err error) {
	plain, err := decompressor(r)
	if err != nil {
		if errdefs.IsNotImplemented(err) {
			return nil, 0, err
		}
		return nil, 0, r.verdict(err)
	}
	defer plain.Close()
	name, want := short(r.b.Digest.String()), r.b.DiffID
	diffID := want.Algorithm().Hash()
	ahead := readAhead(io.TeeReader(plain, diffID))
	defer ahead.Close()
	x = &extractor{root: s.alloc.path(sl), opaque: s.mnt.xattr() + "opaque"}
	size, err = x.apply(r.ctx, ahead)
	if err == nil {
		_, err = io.Copy(io.Discard, ahead) // what follows the end of the tar is hashed too
	}
	ahead.Close() // before anybody else reads r
	if err != nil {
		return nil, 0, r.verdict(fmt.Errorf("unpack %s: %w", name, err))
	}
	if err := r.finish(); err != nil {
		return nil, 0, err
	}
	if got := digest.NewDigest(want.Algorithm(), diffID); got != want {
		return nil, 0, fmt.Errorf("failed to verify layer %s: it unpacks to %s, its image says %s: %w", name, short(got.String()), short(want.String()), errCorrupt)
	}
	return x, size, nil
}

// A blobReader reads a blob, checks it, shows how far it got and may keep a copy.
type blobReader struct {
	l    *layer // nil if it is of none; then no copy is kept
	b    blobRow
	rc   io.ReadCloser
	sum  hash.Hash
	n    int64
	err  error // of rc, other than EOF
	line *progress.Tracker
	copy content.Writer // nil unless it is to be kept
	ctx  context.Context
}

// fetch opens b wherever it is.
func (l *layer) fetch(ctx context.Context, a Access, log *progress.Log, b blobRow) (*blobReader, error) {
	r := &blobReader{l: l, b: b, sum: b.Digest.Algorithm().Hash(), ctx: ctx}
	if b.Local {
		rc, err := l.s.openLocal(ctx, b.descriptor())
		if err != nil {
			return nil, err
		}
		r.rc = rc
		return r, nil
	}
	from, open := l.source(b.Digest)
	var err error
	switch {
	case open != nil:
		if r.rc, err = open(ctx, a.Group); err == nil {
			err = r.keep()
		}
		if err != nil && len(from) > 0 && l.s.fetch != nil && r.rc == nil {
			r.rc, err = l.s.fetch(ctx, a.Group, from, b.descriptor())
		}
	case len(from) > 0 && l.s.fetch != nil:
		r.rc, err = l.s.fetch(ctx, a.Group, from, b.descriptor())
	default:
		err = fmt.Errorf("nobody is known to hold blob %s: %w", short(b.Digest.String()), errdefs.ErrNotFound)
	}
	if err != nil {
		if r.rc != nil {
			r.rc.Close()
		}
		return nil, err
	}
	r.line = log.Track("pulling " + b.Digest.String())
	return r, nil
}

// keep makes the reader write the blob to the content store: its source is a client who
// may not come back.
func (r *blobReader) keep() error {
	if err := r.l.ensureLease(); err != nil {
		return &localError{err}
	}
	w, err := r.l.s.cs.Writer(r.l.leaseCtx(r.ctx), content.WithRef("keep-"+newID()), content.WithDescriptor(r.b.descriptor()))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return &localError{err}
	}
	r.copy = w
	return nil
}

// leaseCtx makes what is written belong to the layer.
func (l *layer) leaseCtx(ctx context.Context) context.Context {
	return leases.WithLease(l.s.ctx(ctx), l.id)
}

func (r *blobReader) Read(p []byte) (int, error) {
	if r.b.Size > 0 {
		// One byte more than promised is enough to see that it is too long.
		if left := r.b.Size + 1 - r.n; int64(len(p)) > left {
			p = p[:max(left, 1)]
		}
	}
	n, err := r.rc.Read(p)
	r.n += int64(n)
	r.sum.Write(p[:n])
	if r.copy != nil && n > 0 {
		if _, err := r.copy.Write(p[:n]); err != nil {
			return n, &localError{err}
		}
	}
	r.line.Set(r.n, r.b.Size)
	if r.b.Size > 0 && r.n > r.b.Size {
		r.err = fmt.Errorf("blob %s is longer than the %d bytes promised: %w", short(r.b.Digest.String()), r.b.Size, errCorrupt)
		return n, r.err
	}
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// verdict says what an error while unpacking is about. If the bytes are not those promised
// then that is why they made no sense; if they are, fetching them again does not help.
func (r *blobReader) verdict(err error) error {
	if r.err != nil {
		return r.err
	}
	var here *localError
	if errors.As(err, &here) || isLocal(err) || r.ctx.Err() != nil {
		return &localError{err}
	}
	if err1 := r.finish(); err1 != nil {
		return err1
	}
	return &localError{err}
}

// isLocal tells failures of this machine from nonsense in an archive.
func isLocal(err error) bool {
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS, unix.EMFILE, unix.ENFILE, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// finish reads to the end, verifies, and commits the copy.
func (r *blobReader) finish() error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	if r.b.Size > 0 && r.n != r.b.Size {
		return fmt.Errorf("blob %s has %d bytes, %d were promised: %w", short(r.b.Digest.String()), r.n, r.b.Size, errCorrupt)
	}
	if got := digest.NewDigest(r.b.Digest.Algorithm(), r.sum); got != r.b.Digest {
		return fmt.Errorf("blob %s is something else (%s): %w", short(r.b.Digest.String()), short(got.String()), errCorrupt)
	}
	if r.copy != nil {
		w := r.copy
		r.copy = nil
		defer w.Close()
		if err := w.Commit(r.l.leaseCtx(r.ctx), r.n, r.b.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
			return &localError{err}
		}
		r.l.setLocal(r.b.Digest)
	}
	return nil
}

func (l *layer) setLocal(d digest.Digest) {
	l.mu.Lock()
	l.row.Blobs = slices.Clone(l.row.Blobs)
	for i := range l.row.Blobs {
		if l.row.Blobs[i].Digest == d {
			l.row.Blobs[i].Local = true
		}
	}
	l.mu.Unlock()
	l.persist(false, nil)
}

func (r *blobReader) Close() error {
	r.line.Done()
	if r.copy != nil {
		st, err := r.copy.Status()
		r.copy.Close()
		if err == nil {
			r.l.s.cs.Abort(r.l.leaseCtx(context.WithoutCancel(r.ctx)), st.Ref)
		}
		r.copy = nil
	}
	return r.rc.Close()
}
