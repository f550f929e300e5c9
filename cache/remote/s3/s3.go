package s3

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	"github.com/dbuild/dbuild/exporter"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// A Bucket is a cache in a bucket. It is a remote.Objects.
type Bucket struct {
	opts    options
	uploads *semaphore.Weighted

	mu  sync.Mutex // guards api
	api *s3.Client // nil before it is first needed
}

// New takes what attrs say of a bucket. Nothing is asked of it yet.
func New(attrs *exporter.Attrs) (*Bucket, error) {
	o, err := parse(attrs)
	if err != nil {
		return nil, err
	}
	return &Bucket{opts: o, uploads: semaphore.NewWeighted(int64(o.parallel))}, nil
}

// patience is how long a server may think about a request that it has received.
const patience = 5 * time.Minute

// client returns the SDK's client, which finds credentials when it sends something.
func (b *Bucket) client(ctx context.Context) (*s3.Client, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.api != nil {
		return b.api, nil
	}
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithRegion(b.opts.region),
		config.WithLogger(logging.Nop{}),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.ResponseHeaderTimeout = patience })),
		// Digests are verified here, and not every store knows the SDK's checksums.
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	)
	if err != nil {
		return nil, b.explain(err)
	}
	b.api = s3.NewFromConfig(cfg, func(o *s3.Options) {
		if b.opts.id != "" && b.opts.secret != "" {
			o.Credentials = credentials.NewStaticCredentialsProvider(b.opts.id, b.opts.secret, b.opts.token)
		}
		if b.opts.endpoint != "" {
			o.BaseEndpoint, o.UsePathStyle = &b.opts.endpoint, b.opts.pathStyle
		}
		if b.opts.retryMode != "" {
			o.RetryMode = b.opts.retryMode
		}
		if b.opts.attempts > 0 {
			o.RetryMaxAttempts = b.opts.attempts
		}
		if b.opts.unsignedEncoding {
			// Google's front end changes the header after it was signed.
			o.APIOptions = append(o.APIOptions, func(s *middleware.Stack) error {
				_, _ = s.Finalize.Remove("DisableAcceptEncodingGzip") // not there: as wanted
				return nil
			})
		}
	})
	return b.api, nil
}

func (b *Bucket) blobKey(d digest.Digest) string { return b.opts.blobs + d.String() }

// Open implements remote.Objects.
func (b *Bucket) Open(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	return b.get(ctx, b.blobKey(d), offset)
}

func (b *Bucket) get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	api, err := b.client(ctx)
	if err != nil {
		return nil, err
	}
	in := &s3.GetObjectInput{Bucket: &b.opts.bucket, Key: &key}
	if offset > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := api.GetObject(ctx, in)
	if err != nil {
		return nil, b.explain(err)
	}
	if offset > 0 && out.ContentRange == nil {
		out.Body.Close()
		return nil, fmt.Errorf("%s sends objects from their beginning only", b)
	}
	return out.Body, nil
}

// Has implements remote.Objects.
func (b *Bucket) Has(ctx context.Context, d digest.Digest) (bool, error) {
	head, err := b.head(ctx, b.blobKey(d))
	return head != nil, err
}

// head describes an object; nil if there is none.
func (b *Bucket) head(ctx context.Context, key string) (*s3.HeadObjectOutput, error) {
	api, err := b.client(ctx)
	if err != nil {
		return nil, err
	}
	out, err := api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.opts.bucket, Key: &key})
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, b.explain(err)
	}
	return out, nil
}

// Put implements remote.Objects. A blob that is there already is made young, so that what
// removes old objects leaves it.
func (b *Bucket) Put(ctx context.Context, d ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	if err := b.uploads.Acquire(ctx, 1); err != nil {
		return err
	}
	defer b.uploads.Release(1)
	key := b.blobKey(d.Digest)
	head, err := b.head(ctx, key)
	if err != nil {
		return err
	}
	if head != nil && aws.ToInt64(head.ContentLength) == d.Size {
		if head.LastModified != nil && time.Since(*head.LastModified) > b.opts.refresh {
			return b.touch(ctx, key, d.Size, maxCopy)
		}
		return nil
	}
	rc, err := open(ctx)
	if err != nil {
		return err
	}
	defer rc.Close()
	return b.upload(ctx, key, d.Size, rc)
}

// Parts of an upload are in memory until they have been sent.
const (
	partSize      = 8 << 20
	partsInFlight = 3
	abortTimeout  = 30 * time.Second // to take back what was cancelled
)

func (b *Bucket) upload(ctx context.Context, key string, size int64, r io.Reader) error {
	api, err := b.client(ctx)
	if err != nil {
		return err
	}
	_, err = transfermanager.New(api, func(o *transfermanager.Options) {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.PartSizeBytes, o.MultipartUploadThreshold, o.Concurrency = partSize, partSize, partsInFlight
		o.FailTimeout = abortTimeout
	}).UploadObject(ctx, &transfermanager.UploadObjectInput{
		// Only a reader: what is read must be read once and in order.
		Bucket: &b.opts.bucket, Key: &key, ContentLength: &size, Body: struct{ io.Reader }{r},
	})
	if err != nil {
		return b.explain(err)
	}
	return nil
}
