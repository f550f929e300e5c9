package gha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	actionscache "github.com/tonistiigi/go-actions-cache"
	"golang.org/x/sync/semaphore"
)

// A Cache is a cache in the service of GitHub Actions. It is a remote.Objects.
type Cache struct {
	opts    options
	client  actionscache.Opt
	uploads *semaphore.Weighted
	// patience is how long another writer of a config is waited for that has taken a number
	// and not finished. It may never finish.
	patience time.Duration

	mu    sync.Mutex // guards what follows
	api   *actionscache.Cache
	keys  map[string]struct{} // of all blobs; nil if they cannot be listed
	asked bool                // for keys
}

// thinking is how long the service may take for a request that it has received.
const thinking = 5 * time.Minute

// parallel is how many blobs are uploaded at a time.
const parallel = 4

// New takes what attrs say of a cache. Nothing is asked of the service yet.
func New(attrs *exporter.Attrs) (*Cache, error) {
	o, err := parse(attrs)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = thinking
	return &Cache{
		opts:     o,
		patience: 15 * time.Second,
		uploads:  semaphore.NewWeighted(parallel),
		client: actionscache.Opt{
			Client:      &http.Client{Transport: &patient{transport}},
			Timeout:     o.timeout,
			BackoffPool: &actionscache.BackoffPool{},
			UserAgent:   "dbuild",
		},
	}, nil
}

// service returns the client of the service, once the token has turned out to be one.
func (c *Cache) service() (*actionscache.Cache, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.api == nil {
		api, err := actionscache.New(c.opts.token, c.opts.url, c.opts.v2, c.client)
		if err != nil {
			return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s: the token is not good: %s", c, detail(err)))
		}
		c.api = api
	}
	return c.api, nil
}

func blobKey(d digest.Digest) string { return blobPrefix + d.String() }

const blobPrefix = "buildkit-blob-1-"

// blob finds the entry of a blob; nil if there is none.
func (c *Cache) blob(ctx context.Context, d digest.Digest) (*actionscache.Entry, error) {
	e, err := c.load(ctx, blobKey(d))
	if e != nil && e.Key != blobKey(d) {
		return nil, nil // such as its signature
	}
	return e, err
}

// load finds the entry of a key, or the newest of those that begin with it; nil if there is
// none.
func (c *Cache) load(ctx context.Context, key string) (*actionscache.Entry, error) {
	api, err := c.service()
	if err != nil {
		return nil, err
	}
	e, err := api.Load(ctx, key)
	if err != nil {
		return nil, c.explain(err)
	}
	return e, nil
}

// Open implements remote.Objects.
func (c *Cache) Open(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	e, err := c.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s does not have it", c))
	}
	return c.read(ctx, e, offset), nil
}

func (c *Cache) read(ctx context.Context, e *actionscache.Entry, offset int64) io.ReadCloser {
	ra := e.Download(ctx)
	return &download{io.NewSectionReader(ra, offset, math.MaxInt64-offset), ra, c}
}

// A download reads a blob in order.
type download struct {
	r io.Reader
	io.Closer
	c *Cache
}

func (d *download) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && err != io.EOF {
		err = d.c.explain(err)
	}
	return n, err
}

// Has implements remote.Objects.
func (c *Cache) Has(ctx context.Context, d digest.Digest) (bool, error) {
	e, err := c.blob(ctx, d)
	return e != nil, err
}

// Put implements remote.Objects.
func (c *Cache) Put(ctx context.Context, d ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	if err := c.uploads.Acquire(ctx, 1); err != nil {
		return err
	}
	defer c.uploads.Release(1)
	if there, err := c.holds(ctx, d.Digest); there || err != nil {
		return err
	}
	b, err := spool(ctx, open)
	if err != nil {
		return err
	}
	defer b.Close()
	api, err := c.service()
	if err != nil {
		return err
	}
	// Somebody else may be at it.
	if err := api.Save(ctx, blobKey(d.Digest), b); err != nil && !errors.Is(err, os.ErrExist) {
		return c.explain(err)
	}
	return nil
}

// holds reports whether a blob is there, without a request for each if keys can be listed.
func (c *Cache) holds(ctx context.Context, d digest.Digest) (bool, error) {
	api, err := c.service()
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.asked && c.opts.repository != "" && c.opts.gh != "" {
		if rest, err := actionscache.NewRestAPI(c.opts.repository, c.opts.gh, c.client); err == nil {
			// Without the list, the service is asked for each.
			c.keys, _ = api.AllKeys(ctx, rest, blobPrefix)
		}
	}
	c.asked = true
	if c.keys != nil {
		_, ok := c.keys[blobKey(d)]
		return ok, nil
	}
	c.mu.Unlock()
	defer c.mu.Lock()
	return c.Has(ctx, d)
}

// A spooled blob is in a file without a name, since the service's client reads it in any
// order and more than once.
type spooled struct {
	*os.File
	size int64
}

func (s *spooled) Size() int64 { return s.size }

func spool(ctx context.Context, open func(context.Context) (io.ReadCloser, error)) (_ *spooled, err error) {
	rc, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	f, err := os.CreateTemp("", "dbuild-gha-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	n, err := io.Copy(f, rc)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &spooled{f, n}, nil
}

var _ actionscache.Blob = (*spooled)(nil)

// readAll reads an entry of at most limit bytes.
func (c *Cache) readAll(ctx context.Context, e *actionscache.Entry, limit int64) ([]byte, error) {
	rc := c.read(ctx, e, 0)
	defer rc.Close()
	var b bytes.Buffer
	n, err := b.ReadFrom(io.LimitReader(rc, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("%s: the cache has more than the %d bytes allowed: %w", c, limit, errdefs.ErrInvalidArgument)
	}
	return b.Bytes(), err
}
