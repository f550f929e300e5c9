package gha

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/containerd/errdefs"
	actionscache "github.com/tonistiigi/go-actions-cache"
)

// String names the cache for people.
func (c *Cache) String() string { return fmt.Sprintf("gha cache with scope %s", c.opts.scope) }

// explain says what is wrong in a sentence, and what to do about it.
func (c *Cache) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var answer actionscache.HTTPError
	var blob *azcore.ResponseError
	status := 0
	switch {
	case errors.As(err, &answer):
		status = answer.StatusCode
	case errors.As(err, &blob):
		status = blob.StatusCode
	}
	switch {
	case status == http.StatusNotFound:
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s does not have it", c))
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s: the service denies access; the token is good for one run of a workflow, and for what that may do (%s)", c, detail(err)))
	case status == http.StatusTooManyRequests || status >= http.StatusInternalServerError:
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%s: the service is in trouble; try again later, or set ignore-error=true (%s)", c, detail(err)))
	}
	return fmt.Errorf("%s: %s", c, detail(err))
}

// addresses may have signatures, which are as good as a password.
var addresses = regexp.MustCompile(`https?://[^\s"']+`)

// detail is the innermost reason, in one line and without addresses.
func detail(err error) string {
	var blob *azcore.ResponseError
	if errors.As(err, &blob) {
		return fmt.Sprintf("%d %s", blob.StatusCode, blob.ErrorCode)
	}
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
	}
	return addresses.ReplaceAllString(err.Error(), "the service")
}
