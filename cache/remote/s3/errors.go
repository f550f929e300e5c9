package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	"github.com/containerd/errdefs"
)

// String names the bucket for people.
func (b *Bucket) String() string { return fmt.Sprintf("s3 bucket %s", b.opts.bucket) }

// missing reports whether an answer says that there is no such object.
func missing(err error) bool {
	code, status := answer(err)
	switch code {
	case "NoSuchKey", "NotFound":
		return true
	case "": // to a HEAD there is no more than a status
		return status == http.StatusNotFound
	}
	return false
}

func answer(err error) (code string, status int) {
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var resp *awshttp.ResponseError
	if errors.As(err, &resp) {
		status = resp.HTTPStatusCode()
	}
	return code, status
}

// explain says what is wrong in a sentence, and what to do about it.
func (b *Bucket) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if missing(err) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s does not have it", b))
	}
	code, status := answer(err)
	switch {
	case strings.Contains(err.Error(), "get credentials"): // all that the SDK says of it
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s: there are no credentials; give access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment", b))
	case code == "NoSuchBucket":
		return fmt.Errorf("%s does not exist; make it, or check bucket and region", b)
	case code == "PermanentRedirect" || code == "AuthorizationHeaderMalformed" || status == http.StatusMovedPermanently:
		return fmt.Errorf("%s is not in region %s; check region and endpoint_url (%s)", b, b.opts.region, detail(err))
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s denies access; check access_key_id and secret_access_key, and what they may do (%s)", b, detail(err)))
	case status >= http.StatusInternalServerError || status == http.StatusTooManyRequests:
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%s: the server is in trouble; try again later (%s)", b, detail(err)))
	case status == 0:
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%s: %s", b, detail(err)))
	}
	return fmt.Errorf("%s: %s", b, detail(err))
}

// detail is the innermost reason, without the names of what it went through, and without
// URLs.
func detail(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		if m := api.ErrorMessage(); m != "" && m != api.ErrorCode() {
			return api.ErrorCode() + ": " + m
		}
		return api.ErrorCode()
	}
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	var sign *smithy.OperationError
	if errors.As(err, &sign) {
		return sign.Err.Error()
	}
	return err.Error()
}
