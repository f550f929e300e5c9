package s3

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// maxCopy is how much S3 copies at once, in bytes.
const maxCopy = 5 << 30

// touch makes an object of size bytes young by copying it onto itself, by limit bytes.
func (b *Bucket) touch(ctx context.Context, key string, size, limit int64) error {
	api, err := b.client(ctx)
	if err != nil {
		return err
	}
	source := (&url.URL{Path: b.opts.bucket + "/" + key}).EscapedPath()
	if size <= limit {
		_, err = api.CopyObject(ctx, &s3.CopyObjectInput{
			Bucket: &b.opts.bucket, Key: &key, CopySource: &source,
			// Without a change S3 refuses to copy an object onto itself.
			MetadataDirective: types.MetadataDirectiveReplace,
			Metadata:          map[string]string{"updated-at": time.Now().UTC().Format(time.RFC3339)},
		})
	} else {
		err = b.touchParts(ctx, api, key, source, size, limit)
	}
	if err != nil {
		return fmt.Errorf("keep a blob that is there: %w", b.explain(err))
	}
	return nil
}

func (b *Bucket) touchParts(ctx context.Context, api *s3.Client, key, source string, size, limit int64) (err error) {
	up, err := api.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b.opts.bucket, Key: &key})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
			defer cancel()
			_, _ = api.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.opts.bucket, Key: &key, UploadId: up.UploadId})
		}
	}()
	var parts []types.CompletedPart
	for at := int64(0); at < size; at += limit {
		n := aws.Int32(int32(len(parts) + 1))
		out, err := api.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
			Bucket: &b.opts.bucket, Key: &key, UploadId: up.UploadId, PartNumber: n, CopySource: &source,
			CopySourceRange: aws.String(fmt.Sprintf("bytes=%d-%d", at, min(at+limit, size)-1)),
		})
		if err != nil {
			return err
		}
		parts = append(parts, types.CompletedPart{ETag: out.CopyPartResult.ETag, PartNumber: n})
	}
	_, err = api.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &b.opts.bucket, Key: &key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return err
}
