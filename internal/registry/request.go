package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// A request is what send sends. body, if set, is called for each try.
type request struct {
	method string
	path   string   // of a URL at the host; or else
	url    *url.URL // where the registry told us to go
	query  url.Values
	header http.Header
	body   func() (io.ReadCloser, error)
	size   int64
	once   bool // the body cannot be read twice
}

func scope(loc Location, actions string) string {
	return "repository:" + loc.path() + ":" + actions
}

func repoPath(h docker.RegistryHost, loc Location, parts ...string) string {
	return path.Join(append([]string{h.Path, loc.path()}, parts...)...)
}

// send sends a request with authorization for the scopes in ctx, learning what the
// registry wants from its first refusal. Any status but 401 is a response.
func (c *Client) send(ctx context.Context, h docker.RegistryHost, r request) (*http.Response, error) {
	u := r.url
	if u == nil {
		u = &url.URL{Scheme: h.Scheme, Host: h.Host, Path: r.path}
	}
	if len(r.query) > 0 {
		v := *u
		q := v.Query()
		for k, s := range r.query {
			q[k] = s
		}
		v.RawQuery = q.Encode()
		u = &v
	}
	var refused []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, r.method, u.String(), nil)
		if err != nil {
			return nil, err
		}
		for k, v := range h.Header {
			req.Header[k] = v
		}
		for k, v := range r.header {
			req.Header[k] = v
		}
		if err := h.Authorizer.Authorize(ctx, req); err != nil {
			return nil, err
		}
		if r.body != nil {
			if req.Body, err = r.body(); err != nil {
				return nil, err
			}
			req.ContentLength = r.size
			if r.size == 0 {
				req.Body.Close()
				req.Body = http.NoBody
			} else if !r.once {
				req.GetBody = r.body
			}
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized {
			return resp, nil
		}
		refused = append(refused, resp)
		err = h.Authorizer.AddResponses(ctx, refused)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if r.body != nil && r.once {
			return nil, errAgain
		}
	}
}

// errAgain says that a request with a body was refused for want of a token that is
// known now.
var errAgain = errors.New("authorization was renewed while the body was sent")
