package azblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// A Container is a cache in a container. It is a remote.Objects.
type Container struct {
	opts    options
	api     *container.Client
	uploads *semaphore.Weighted
}

// Blocks of an upload are in memory until they have been sent.
const (
	blockSize      = 8 << 20
	blocksInFlight = 3
	parallel       = 4 // uploads
)

// patience is how long a server may think about a request that it has received.
const patience = 5 * time.Minute

// New takes what attrs say of a container. Nothing is asked of it yet.
func New(attrs *exporter.Attrs) (*Container, error) {
	o, err := parse(attrs)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = patience
	how := &service.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: &http.Client{Transport: transport}}}
	var account *service.Client
	if o.key != "" {
		cred, err := service.NewSharedKeyCredential(o.name, o.key)
		if err != nil {
			return nil, errors.New("secret_access_key is not the key of an account, which is in base64")
		}
		account, err = service.NewClientWithSharedKeyCredential(o.account, cred, how)
		if err != nil {
			return nil, err
		}
	} else {
		cred, err := azidentity.NewDefaultAzureCredential(nil)
		if err != nil {
			return nil, err
		}
		if account, err = service.NewClient(o.account, cred, how); err != nil {
			return nil, err
		}
	}
	return &Container{opts: o, api: account.NewContainerClient(o.container), uploads: semaphore.NewWeighted(parallel)}, nil
}

func (c *Container) blobKey(d digest.Digest) string { return path.Join(c.opts.blobs, d.String()) }

// Open implements remote.Objects.
func (c *Container) Open(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	return c.get(ctx, c.blobKey(d), offset)
}

func (c *Container) get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	resp, err := c.api.NewBlobClient(key).DownloadStream(ctx, &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: offset}})
	if err != nil {
		return nil, c.explain(err)
	}
	return resp.Body, nil
}

// Has implements remote.Objects.
func (c *Container) Has(ctx context.Context, d digest.Digest) (bool, error) {
	_, err := c.api.NewBlobClient(c.blobKey(d)).GetProperties(ctx, nil)
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, c.explain(err)
	}
	return true, nil
}

// Put implements remote.Objects.
func (c *Container) Put(ctx context.Context, d ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	if err := c.uploads.Acquire(ctx, 1); err != nil {
		return err
	}
	defer c.uploads.Release(1)
	api := c.api.NewBlockBlobClient(c.blobKey(d.Digest))
	opts := &blockblob.UploadStreamOptions{BlockSize: blockSize, Concurrency: blocksInFlight}
	switch was, err := api.GetProperties(ctx, nil); {
	case err == nil && was.ContentLength != nil && *was.ContentLength == d.Size:
		return nil
	case err == nil: // it is not what it should be
	case bloberror.HasCode(err, bloberror.ContainerNotFound):
		if _, err := c.api.Create(ctx, nil); err != nil && !bloberror.HasCode(err, bloberror.ContainerAlreadyExists) {
			return c.explain(err)
		}
	case !missing(err):
		return c.explain(err)
	default:
		// Whoever is the first wins; the blocks of two writers would mix.
		opts.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}}
	}
	rc, err := open(ctx)
	if err != nil {
		return err
	}
	defer rc.Close()
	_, err = api.UploadStream(ctx, rc, opts)
	if err != nil && !bloberror.HasCode(err, bloberror.BlobAlreadyExists) {
		return c.explain(err)
	}
	return nil
}

// Configs implements remote.Objects.
func (c *Container) Configs(ctx context.Context, limit int64) (all [][]byte, err error) {
	for _, name := range c.opts.names {
		rc, err := c.get(ctx, path.Join(c.opts.configs, name), 0)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(rc, limit+1))
		rc.Close()
		if err != nil {
			return nil, c.explain(err)
		}
		if int64(len(data)) > limit {
			return nil, fmt.Errorf("%s: cache %q has more than the %d bytes allowed: %w", c, name, limit, errdefs.ErrInvalidArgument)
		}
		all = append(all, data)
	}
	return all, nil
}

// PutConfig implements remote.Objects.
func (c *Container) PutConfig(ctx context.Context, data []byte) error {
	for _, name := range c.opts.names {
		// One request, so that the last writer wins.
		body := struct {
			io.ReadSeeker
			io.Closer
		}{bytes.NewReader(data), io.NopCloser(nil)}
		if _, err := c.api.NewBlockBlobClient(path.Join(c.opts.configs, name)).Upload(ctx, body, nil); err != nil {
			return c.explain(err)
		}
	}
	return nil
}
