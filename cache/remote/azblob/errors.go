package azblob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/containerd/errdefs"
)

// String names the container for people.
func (c *Container) String() string {
	return fmt.Sprintf("azblob container %s at %s", c.opts.container, c.opts.host)
}

// missing reports whether an answer says that there is no such blob.
func missing(err error) bool {
	return bloberror.HasCode(err, bloberror.BlobNotFound, bloberror.ContainerNotFound)
}

// explain says what is wrong in a sentence, and what to do about it. What the SDK says has
// several lines, with URLs.
func (c *Container) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if missing(err) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s does not have it", c))
	}
	var resp *azcore.ResponseError
	var at *url.Error
	switch {
	case errors.As(err, &resp):
		detail := strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, resp.ErrorCode))
		switch {
		case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
			return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s denies access; check account_name and secret_access_key, and what they may do (%s)", c, detail))
		case resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests:
			return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%s: the server is in trouble; try again later (%s)", c, detail))
		}
		return fmt.Errorf("%s: %s", c, detail)
	case strings.Contains(err.Error(), "DefaultAzureCredential"):
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s: there are no credentials; give secret_access_key, or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET in the environment of the daemon", c))
	case errors.As(err, &at):
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%s: %v", c, at.Err))
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("%s: %s", c, line)
}
