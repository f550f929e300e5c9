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

	n, told int64

	mu  sync.Mutex // the transport may read after the request has failed
	err error
}

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
	c.n += int64(n)
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
