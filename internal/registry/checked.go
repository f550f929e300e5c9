package registry

import (
	"fmt"
	"hash"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// reportEvery is how many bytes pass between two calls of Target.Progress.
const reportEvery = 1 << 20

// checked reads a blob and fails before its last byte is delivered if it is not what it
// should be, so that no upload of something else is ever completed.
type checked struct {
	rc     io.ReadCloser
	desc   ocispec.Descriptor
	hash   hash.Hash
	report func(ocispec.Descriptor, int64, bool)

	told int64

	mu    sync.Mutex // the transport may read after the request has failed
	n     int64
	err   error
	marks []mark // in order
}

// A mark is the sum of the first bytes of a blob.
type mark struct {
	at  int64
	sum hash.Hash // nil at 0; cloned before it is written to
}

// markEvery is how many bytes are read again at most to go on somewhere. It bounds what is
// kept for a blob: a sum has some hundred bytes.
const markEvery = 4 << 20

func newChecked(rc io.ReadCloser, desc ocispec.Descriptor, report func(ocispec.Descriptor, int64, bool)) *checked {
	return &checked{rc: rc, desc: desc, hash: desc.Digest.Algorithm().Hash(), report: report}
}

func (c *checked) Read(p []byte) (int, error) {
	if err := c.failed(); err != nil {
		return 0, err
	}
	if c.n == c.desc.Size {
		return 0, io.EOF
	}
	n, err := c.rc.Read(p[:min(int64(len(p)), c.desc.Size-c.n)])
	c.hash.Write(p[:n])
	c.note(n)
	switch {
	case c.n == c.desc.Size:
		if got := fmt.Sprintf("%x", c.hash.Sum(nil)); got != c.desc.Digest.Encoded() {
			return 0, c.fail(&sourceError{&Error{Op: "read", Ref: c.desc.Digest.String(), Class: ErrCorrupt,
				Cause: fmt.Sprintf("what was read has another digest (%s)", got[:12])}})
		}
		err = nil
	case err == io.EOF:
		return 0, c.fail(&sourceError{fmt.Errorf("%s ends after %d of %d bytes: %w", short(c.desc.Digest), c.n, c.desc.Size, io.ErrUnexpectedEOF)})
	case err != nil:
		return 0, c.fail(&sourceError{err})
	}
	if c.report != nil && c.n-c.told >= reportEvery {
		c.told = c.n
		c.report(c.desc, c.n, false)
	}
	return n, err
}

func (c *checked) Close() error { return c.rc.Close() }

func (c *checked) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	return err
}

func (c *checked) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// note counts what was read, and remembers the sum now and then.
func (c *checked) note(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += int64(n)
	last := int64(0)
	if len(c.marks) > 0 {
		last = c.marks[len(c.marks)-1].at
	}
	if c.n-last < markEvery {
		return
	}
	if sum, err := c.hash.(hash.Cloner).Clone(); err == nil {
		c.marks = append(c.marks, mark{c.n, sum})
	}
}

// read is how many bytes were read.
func (c *checked) read() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// markBefore returns the last mark at or before an offset; that at 0 is the zero mark.
func (c *checked) markBefore(at int64) (m mark) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.marks {
		if k.at <= at {
			m = k
		}
	}
	return m
}

// goOn makes c, which is new and reads from a mark of an earlier reader, continue it.
func (c *checked) goOn(earlier *checked, from mark) {
	if from.at == 0 {
		return
	}
	sum, err := from.sum.(hash.Cloner).Clone()
	if err != nil {
		return // then the digest will not match, and the blob is sent anew
	}
	earlier.mu.Lock()
	defer earlier.mu.Unlock()
	c.hash, c.n, c.told = sum, from.at, from.at
	for _, k := range earlier.marks {
		if k.at <= from.at {
			c.marks = append(c.marks, k)
		}
	}
}
