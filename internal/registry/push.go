package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	bksession "github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// A Blob is something to push: what it is, and where its bytes are.
type Blob struct {
	Desc ocispec.Descriptor
	From []Location // repositories that hold it; one at the target's registry is mounted
	// Open reads the blob if it must be sent. If nil, it is streamed from From.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// A Pushed says how a blob came to be in a repository.
type Pushed int

// Ways to be there, the cheapest first.
const (
	Existed Pushed = iota
	Mounted
	Sent
)

// A Target is a repository or image to push to.
type Target struct {
	Ref      string // "repo", "repo:tag" or "repo@digest"
	Insecure bool   // accept any certificate, or none
	NoMount  bool   // for registries that get mounting across repositories wrong
	// Progress, if set, is told of bytes sent for a blob, and of its end. It is called
	// from several goroutines.
	Progress func(desc ocispec.Descriptor, sent int64, done bool)
}

// Push sees that the repository of ref holds all blobs. For each, the first that works:
// it is there; it is mounted from another repository of the registry; it is sent, read
// from Open or streamed from another registry through memory, its digest verified on
// the way. Blobs go in parallel.
func (c *Client) Push(ctx context.Context, g bksession.Group, ref string, blobs ...Blob) error {
	return c.PushTo(ctx, g, Target{Ref: ref}, blobs...)
}

// probes bounds the questions asked at once; what is sent is bounded by Config.Parallel.
const probes = 16

// PushTo is Push with more to say about the target.
func (c *Client) PushTo(ctx context.Context, g bksession.Group, t Target, blobs ...Blob) error {
	loc, err := LocationOf(t.Ref)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(probes)
	for _, b := range blobs {
		if seen[b.Desc.Digest.String()] {
			continue
		}
		seen[b.Desc.Digest.String()] = true
		eg.Go(func() error {
			_, err := c.PushBlob(ctx, g, t, b)
			return explain("push", loc.Repo, loc.Host(), err)
		})
	}
	return eg.Wait()
}

// PushBlob is PushTo for one blob, and says how it was done.
func (c *Client) PushBlob(ctx context.Context, g bksession.Group, t Target, b Blob) (Pushed, error) {
	loc, err := LocationOf(t.Ref)
	if err != nil {
		return 0, err
	}
	h, err := c.host(g, loc.Host(), t.Insecure)
	if err != nil {
		return 0, err
	}
	p := &push{c: c, g: g, t: t, h: h, loc: loc, blob: b}
	how, err := p.run(quiet(ctx))
	if err != nil {
		return 0, explain("push", loc.Repo, loc.Host(), err)
	}
	c.holdings.note(holding{Location{Repo: loc.Repo, Insecure: t.Insecure}, b.Desc.Digest})
	if t.Progress != nil {
		t.Progress(b.Desc, b.Desc.Size, true)
	}
	return how, nil
}

// A push is one blob on its way.
type push struct {
	c    *Client
	g    bksession.Group
	t    Target
	h    docker.RegistryHost
	loc  Location
	blob Blob
}

func (p *push) run(ctx context.Context) (Pushed, error) {
	own := docker.WithScope(ctx, scope(p.loc, "pull,push"))
	resp, err := p.c.send(own, p.h, request{method: http.MethodHead, path: repoPath(p.h, p.loc, "blobs", p.blob.Desc.Digest.String())})
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode < 300:
		return Existed, nil
	case resp.StatusCode == http.StatusUnauthorized:
		return 0, statusOf("push", p.loc.Repo, p.loc.Host(), resp)
	}
	// Some registries answer 403 to HEAD in a repository that does not exist yet.

	upload, done := p.mount(ctx)
	if done {
		return Mounted, nil
	}
	return Sent, p.send(own, upload)
}

// maxMounts is how many source repositories are tried.
const maxMounts = 3

// mount asks for the blob to be mounted from a repository beside the target. A registry
// that will not opens an upload instead, which is returned. Failure of any kind means
// that the blob is sent.
func (p *push) mount(ctx context.Context) (upload *url.URL, done bool) {
	if p.t.NoMount {
		return nil, false
	}
	tried := 0
	for _, from := range p.blob.From {
		if from.Host() != p.loc.Host() || from == p.loc || tried == maxMounts {
			continue
		}
		tried++
		both := docker.WithScope(docker.WithScope(ctx, scope(p.loc, "pull,push")), scope(from, "pull"))
		resp, err := p.c.send(both, p.h, request{
			method: http.MethodPost, path: repoPath(p.h, p.loc, "blobs", "uploads") + "/",
			query: url.Values{"mount": {p.blob.Desc.Digest.String()}, "from": {from.path()}},
		})
		if err != nil {
			continue
		}
		resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusCreated:
			return nil, true
		case http.StatusAccepted:
			if u, err := resp.Location(); err == nil {
				return u, false
			}
		}
	}
	return nil, false
}

// PushManifest stores a manifest or index whose blobs are there. ref says under which
// tag, or by digest only if it has none ("repo" alone means the tag latest).
func (c *Client) PushManifest(ctx context.Context, g bksession.Group, ref string, desc ocispec.Descriptor, b []byte) error {
	return c.PushManifestTo(ctx, g, Target{Ref: ref}, desc, b)
}

// PushManifestTo is PushManifest with more to say about the target.
func (c *Client) PushManifestTo(ctx context.Context, g bksession.Group, t Target, desc ocispec.Descriptor, b []byte) error {
	_, err := c.putManifest(ctx, g, t, desc, b)
	return err
}

// putManifest is PushManifestTo, and returns what the registry said in the header.
func (c *Client) putManifest(ctx context.Context, g bksession.Group, t Target, desc ocispec.Descriptor, b []byte) (http.Header, error) {
	named, err := ParseRef(t.Ref)
	if err != nil {
		return nil, err
	}
	loc := Location{Repo: named.Name()}
	name := reference.FamiliarString(named)
	object := desc.Digest.String()
	if tagged, ok := named.(reference.Tagged); ok {
		if _, digested := named.(reference.Digested); !digested {
			object = tagged.Tag()
		}
	}
	h, err := c.host(g, loc.Host(), t.Insecure)
	if err != nil {
		return nil, err
	}
	ctx = docker.WithScope(quiet(ctx), scope(loc, "pull,push"))
	resp, err := c.send(ctx, h, request{
		method: http.MethodPut, path: repoPath(h, loc, "manifests", object), size: int64(len(b)),
		header: http.Header{"Content-Type": {desc.MediaType}},
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
	})
	if err != nil {
		return nil, explain("push", name, loc.Host(), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return nil, statusOf("push", name, loc.Host(), resp)
	}
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != desc.Digest.String() {
		return nil, &Error{Op: "push", Ref: name, Host: loc.Host(), Class: ErrCorrupt, Cause: "it stored the manifest under another digest, " + got}
	}
	return resp.Header, nil
}
