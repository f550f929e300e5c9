package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// checked is a blob on its way to a store. It ends with an error unless it was what its
// digest says, and before its last byte was delivered.
type checked struct {
	io.ReadCloser
	blob  ocispec.Descriptor
	sum   digest.Verifier
	line  *progress.Tracker
	n     int64
	cause *error // what was wrong with it
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	_, _ = c.sum.Write(p[:n]) // never fails
	switch {
	case err != nil && err != io.EOF:
	case c.n > c.blob.Size, c.n == c.blob.Size && !c.sum.Verified():
		err = fmt.Errorf("%s holds something else: %w", c.blob.Digest, errdefs.ErrDataLoss)
	case err == io.EOF && c.n < c.blob.Size:
		err = fmt.Errorf("%s: %w", c.blob.Digest, io.ErrUnexpectedEOF)
	default:
		c.line.Set(c.n, c.blob.Size)
		return n, err
	}
	*c.cause = err
	return 0, err
}

// How a stream from a store is mended.
const (
	maxTries = 4                      // to go on at one place
	pause    = 200 * time.Millisecond // before the second try; it doubles
	stall    = 30 * time.Second       // without a byte, then it is cut
)

var errStalled = errors.New("no data for too long")

// resume streams size bytes from what open returns. If that breaks or stalls, it goes on
// where it was. A blob that is not there is known at once.
func resume(ctx context.Context, size int64, open func(ctx context.Context, offset int64) (io.ReadCloser, error)) (io.ReadCloser, error) {
	s := &stream{ctx: ctx, size: size, open: open}
	if err := s.connect(); err != nil {
		return nil, err
	}
	return s, nil
}

// A stream is read by one goroutine.
type stream struct {
	ctx  context.Context
	size int64
	open func(ctx context.Context, offset int64) (io.ReadCloser, error)

	rc     io.ReadCloser // nil: to be opened
	cancel context.CancelCauseFunc
	dog    *time.Timer // cuts rc off
	at     int64
	tries  int // since at was advanced
	err    error
}

// connect opens the stream where it is to go on. What is missing or refused is not asked
// for again, and a store's client has its own patience with what may pass.
func (s *stream) connect() error {
	ctx, cancel := context.WithCancelCause(s.ctx)
	dog := time.AfterFunc(stall, func() { cancel(errStalled) })
	rc, err := s.open(ctx, s.at)
	dog.Stop()
	if err != nil {
		if s.ctx.Err() == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		cancel(nil)
		return err
	}
	s.rc, s.cancel, s.dog = rc, cancel, dog
	return nil
}

func (s *stream) Read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), s.size-s.at)]
	for s.err == nil {
		if s.at == s.size {
			s.err = io.EOF
			break
		}
		if s.rc == nil {
			if s.err = s.connect(); s.err != nil {
				break
			}
		}
		s.dog.Reset(stall)
		n, err := s.rc.Read(p)
		s.dog.Stop()
		s.at += int64(n)
		if n > 0 {
			s.tries = 0
			return n, nil
		}
		if err != nil {
			s.err = s.mend(err)
		}
	}
	return 0, s.err
}

// mend waits before the stream is opened again, unless it broke too often.
func (s *stream) mend(err error) error {
	s.hangUp()
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if s.tries++; s.tries >= maxTries {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("after %d of %d bytes: %w", s.at, s.size, err)
	}
	t := time.NewTimer(pause << (s.tries - 1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func (s *stream) hangUp() {
	if s.rc != nil {
		s.rc.Close()
		s.cancel(nil)
		s.rc = nil
	}
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.hangUp()
	if s.err == nil {
		s.err = io.ErrClosedPipe
	}
	return nil
}
