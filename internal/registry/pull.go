package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifest is the largest manifest, index or config that is read, in bytes.
const MaxManifest = 4 << 20

// accepted are the media types of what a reference may point to.
var accepted = []string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
	images.MediaTypeDockerSchema2ManifestList, images.MediaTypeDockerSchema2Manifest, "*/*",
}

// Resolve asks what ref points to, now. name is the normalised reference.
func (c *Client) Resolve(ctx context.Context, g bksession.Group, ref string) (name string, desc ocispec.Descriptor, err error) {
	named, err := ParseRef(ref)
	if err != nil {
		return "", desc, err
	}
	desc, err = c.ResolveAt(ctx, g, Location{Repo: named.Name()}, named)
	return named.String(), desc, err
}

// ResolveAt is Resolve for a name in a given repository.
func (c *Client) ResolveAt(ctx context.Context, g bksession.Group, loc Location, named reference.Named) (ocispec.Descriptor, error) {
	_, desc, err := c.resolver(g, loc.Insecure).Resolve(quiet(ctx), fetchable(named))
	if err != nil {
		err = explain("pull", reference.FamiliarString(named), loc.Host(), err)
		var e *Error
		if errors.As(err, &e) && e.Class == ErrNotFound && e.Cause == "" {
			e.Cause = c.missing(ctx, g, loc, named)
		}
		return desc, err
	}
	return desc, nil
}

// missing says what a registry lacks that has not found a name.
func (c *Client) missing(ctx context.Context, g bksession.Group, loc Location, named reference.Named) string {
	h, err := c.host(g, loc.Host(), loc.Insecure)
	if err != nil {
		return ""
	}
	h.Client = hasty(h.Client)
	ctx, cancel := context.WithTimeout(docker.WithScope(quiet(ctx), scope(loc, "pull")), holdsTimeout)
	defer cancel()
	resp, err := c.send(ctx, h, request{method: http.MethodGet, path: repoPath(h, loc, "tags", "list"), query: url.Values{"n": {"1"}}})
	if err != nil {
		return ""
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return "it has no repository " + loc.path()
	case resp.StatusCode >= 300:
		return ""
	}
	if d, ok := named.(reference.Digested); ok {
		return "its repository " + loc.path() + " has no image " + short(d.Digest())
	}
	if t, ok := named.(reference.Tagged); ok {
		return "its repository " + loc.path() + " has no tag " + t.Tag()
	}
	return ""
}

func (c *Client) resolver(g bksession.Group, insecure bool) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: c.hosts(g, insecure), Headers: http.Header{"Accept": accepted}})
}

// fetchable is the reference as containerd reads it: with a digest the tag says nothing.
func fetchable(named reference.Named) string {
	if d, ok := named.(reference.Digested); ok {
		return named.Name() + "@" + d.Digest().String()
	}
	return named.String()
}

// Bytes returns a manifest, index or config of the repository of ref, at most
// MaxManifest, with its digest verified.
func (c *Client) Bytes(ctx context.Context, g bksession.Group, ref string, desc ocispec.Descriptor) ([]byte, error) {
	loc, err := LocationOf(ref)
	if err != nil {
		return nil, err
	}
	return c.BytesAt(ctx, g, loc, desc)
}

// BytesAt is Bytes for a given repository.
func (c *Client) BytesAt(ctx context.Context, g bksession.Group, loc Location, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > MaxManifest {
		return nil, &Error{Op: "pull", Ref: loc.Repo, Host: loc.Host(), Class: ErrInvalid,
			Cause: fmt.Sprintf("%s %s has %d bytes, more than the %d allowed", desc.MediaType, short(desc.Digest), desc.Size, MaxManifest)}
	}
	for try := 1; ; try++ {
		b, err := c.bytes(ctx, g, loc, desc)
		if err == nil || !errors.Is(err, ErrCorrupt) || try == 2 {
			return b, err
		}
	}
}

func (c *Client) bytes(ctx context.Context, g bksession.Group, loc Location, desc ocispec.Descriptor) ([]byte, error) {
	rc, err := c.Open(ctx, g, []Location{loc}, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, MaxManifest))
	if err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return nil, corrupt(loc, desc, got)
	}
	return b, nil
}

func corrupt(loc Location, desc ocispec.Descriptor, got digest.Digest) error {
	return &Error{Op: "pull", Ref: loc.Repo, Host: loc.Host(), Class: ErrCorrupt,
		Cause: fmt.Sprintf("it sent something else for %s (%s)", short(desc.Digest), short(got))}
}

func short(d digest.Digest) string {
	if d.Validate() != nil {
		return d.String()
	}
	return d.Algorithm().String() + ":" + d.Encoded()[:min(12, len(d.Encoded()))]
}

// Blob describes the blob that a reference with a digest names, which need not be part of
// an image.
func (c *Client) Blob(ctx context.Context, g bksession.Group, ref string) (Location, ocispec.Descriptor, error) {
	named, err := ParseRef(ref)
	if err != nil {
		return Location{}, ocispec.Descriptor{}, err
	}
	loc := Location{Repo: named.Name()}
	digested, ok := named.(reference.Digested)
	if !ok {
		return loc, ocispec.Descriptor{}, &Error{Op: "pull", Ref: ref, Host: loc.Host(), Class: ErrInvalid, Cause: "a blob has no tag: its digest is needed"}
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digested.Digest()}
	hosts, err := c.hosts(g, false)(loc.Host())
	if err != nil {
		return loc, desc, err
	}
	ctx = docker.WithScope(quiet(ctx), scope(loc, "pull"))
	var first error
	for _, h := range hosts {
		resp, err := c.send(ctx, h, request{method: http.MethodHead, path: repoPath(h, loc, "blobs", desc.Digest.String())})
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode < 300 && resp.ContentLength >= 0 {
				desc.Size = resp.ContentLength
				return loc, desc, nil
			}
			err = statusOf("pull", loc.Repo+"@"+short(desc.Digest), loc.Host(), resp)
		}
		if first == nil {
			first = explain("pull", loc.Repo+"@"+short(desc.Digest), loc.Host(), err)
		}
	}
	return loc, desc, first
}

// Referrers lists the manifests in the repository of ref that refer to the one with a
// digest. A registry that does not know has none.
func (c *Client) Referrers(ctx context.Context, g bksession.Group, ref string, d digest.Digest) ([]ocispec.Descriptor, error) {
	loc, err := LocationOf(ref)
	if err != nil {
		return nil, err
	}
	f, err := c.resolver(g, false).Fetcher(quiet(ctx), loc.Repo+"@"+d.String())
	if err != nil {
		return nil, explain("pull", ref, loc.Host(), err)
	}
	rf, ok := f.(remotes.ReferrersFetcher)
	if !ok {
		return nil, nil
	}
	list, err := rf.FetchReferrers(quiet(ctx), d)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, explain("pull", loc.Repo+"@"+short(d), loc.Host(), err)
	}
	return list, nil
}

// Exists asks whether a repository holds a blob, or a manifest if that is what desc is.
func (c *Client) Exists(ctx context.Context, g bksession.Group, loc Location, desc ocispec.Descriptor) (bool, error) {
	h, err := c.host(g, loc.Host(), loc.Insecure)
	if err != nil {
		return false, err
	}
	return c.existsAt(ctx, h, loc, desc)
}

func (c *Client) existsAt(ctx context.Context, h docker.RegistryHost, loc Location, desc ocispec.Descriptor) (bool, error) {
	ctx = docker.WithScope(quiet(ctx), scope(loc, "pull"))
	resp, err := c.send(ctx, h, request{method: http.MethodHead, path: repoPath(h, loc, kind(desc), desc.Digest.String()), header: http.Header{"Accept": {desc.MediaType, "*/*"}}})
	if err != nil {
		return false, explain("pull", loc.Repo, loc.Host(), err)
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode < 300:
		return true, nil
	case resp.StatusCode == http.StatusNotFound:
		return false, nil
	}
	return false, statusOf("pull", loc.Repo, loc.Host(), resp)
}

func kind(desc ocispec.Descriptor) string {
	if images.IsManifestType(desc.MediaType) || images.IsIndexType(desc.MediaType) {
		return "manifests"
	}
	return "blobs"
}

// Open streams a blob from the first place that has it. A connection that drops or
// stalls is resumed where it was, at the same place or the next. The reader yields
// exactly desc.Size bytes or an error; the caller verifies the digest. That nobody has
// the blob is an ErrNotFound.
func (c *Client) Open(ctx context.Context, g bksession.Group, from []Location, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return c.openAt(ctx, g, from, desc, 0)
}

// openAt is Open from an offset on.
func (c *Client) openAt(ctx context.Context, g bksession.Group, from []Location, desc ocispec.Descriptor, at int64) (io.ReadCloser, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, &Error{Op: "pull", Ref: desc.Digest.String(), Class: ErrInvalid, Cause: err.Error()}
	}
	urls := slices.DeleteFunc(slices.Clone(desc.URLs), func(u string) bool {
		return !strings.HasPrefix(u, "https://") && !strings.HasPrefix(u, "http://")
	})
	if len(from) == 0 && len(urls) == 0 {
		return nil, &Error{Op: "pull", Ref: short(desc.Digest), Class: ErrNotFound, Host: "(none)", Cause: "no registry is known to hold it"}
	}
	desc.URLs = nil // or containerd would ask there first
	b := &blob{c: c, ctx: quiet(ctx), g: g, from: from, urls: urls, desc: desc, at: at, last: at}
	err := b.open()
	if errors.Is(err, errDropped) || errors.Is(err, errStalled) {
		err = b.mend(err)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// A blob is a stream that heals.
type blob struct {
	c    *Client
	ctx  context.Context
	g    bksession.Group
	from []Location
	urls []string // asked if none of from has it
	desc ocispec.Descriptor

	rc    io.ReadCloser
	head  []byte // read already
	first [1]byte
	at    int64 // bytes delivered
	last  int64 // at, when it broke last
	tries int   // times it broke without much progress
	err   error
}

// open goes through the places until one delivers.
func (b *blob) open() error {
	var first error
	for _, loc := range b.from {
		err := b.openAt(loc)
		if err == nil {
			return nil
		}
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		err = explain("pull", loc.Repo+"@"+short(b.desc.Digest), loc.Host(), err)
		if errdefs.IsNotFound(err) {
			b.c.holdings.forget(holding{loc, b.desc.Digest})
		}
		// That one place lost it matters less than that another is down for now.
		if first == nil || errdefs.IsNotFound(first) {
			first = err
		}
	}
	if first != nil && !errdefs.IsNotFound(first) {
		return first
	}
	for _, u := range b.urls {
		err := b.openURL(u)
		if err == nil {
			return nil
		}
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		first = err
	}
	return first
}

// openURL reads the blob from where its image says that it is to be had. Nobody's
// credentials are shown there.
func (b *blob) openURL(from string) error {
	u, err := url.Parse(from)
	if err != nil {
		return &Error{Op: "pull", Ref: short(b.desc.Digest), Class: ErrInvalid, Cause: "its image names an address that is none: " + err.Error()}
	}
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", b.c.cfg.UserAgent)
	if b.at > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
	}
	resp, err := b.c.auth.client.Do(req)
	if err != nil {
		return explain("pull", short(b.desc.Digest)+" from "+u.Redacted(), u.Host, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return statusOf("pull", short(b.desc.Digest)+" from "+u.Redacted(), u.Host, resp)
	}
	if b.at > 0 && resp.StatusCode != http.StatusPartialContent {
		if _, err := io.CopyN(io.Discard, resp.Body, b.at); err != nil {
			resp.Body.Close()
			return err
		}
	}
	b.rc = resp.Body
	return nil
}

func (b *blob) openAt(loc Location) error {
	f, err := b.c.resolver(b.g, loc.Insecure).Fetcher(b.ctx, loc.Repo+"@"+b.desc.Digest.String())
	if err != nil {
		return err
	}
	rc, err := f.Fetch(b.ctx, b.desc)
	if err != nil {
		return err
	}
	if s, ok := rc.(io.Seeker); ok && b.at > 0 {
		if _, err = s.Seek(b.at, io.SeekStart); err != nil {
			rc.Close()
			return err
		}
	}
	// containerd sends the request with the first read, and a missing blob should be
	// known now.
	n, err := io.ReadFull(rc, b.first[:min(1, b.desc.Size-b.at)])
	if err != nil && !(err == io.EOF && b.at == b.desc.Size) {
		rc.Close()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	b.rc, b.head = rc, b.first[:n]
	return nil
}

// progressBytes is how much must arrive for a break not to count as a repeated one.
const progressBytes = 256 << 10

func (b *blob) Read(p []byte) (int, error) {
	for {
		n, err := b.read(p)
		b.at += int64(n)
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if b.at == b.desc.Size {
			return 0, io.EOF
		}
		if b.err != nil {
			return 0, b.err
		}
		if err == nil {
			continue
		}
		if err := b.mend(err); err != nil {
			b.err = err
			return 0, err
		}
	}
}

// read never delivers more than there should be: what follows is not ours.
func (b *blob) read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), b.desc.Size-b.at)]
	if len(b.head) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	if b.rc == nil || len(p) == 0 {
		return 0, nil
	}
	return b.rc.Read(p)
}

// mend opens the stream again after it broke with err.
func (b *blob) mend(err error) error {
	if b.rc != nil {
		b.rc.Close()
		b.rc = nil
	}
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if b.at-b.last >= progressBytes {
		b.tries = 0
	}
	b.last = b.at
	for {
		b.tries++
		if b.tries >= b.c.cfg.Attempts {
			return b.broke(err)
		}
		if err := sleep(b.ctx, max(b.c.cfg.Backoff, backoff(b.c.cfg.Backoff, b.tries))); err != nil {
			return err
		}
		again := b.open()
		if again == nil {
			return nil
		}
		if errdefs.IsNotFound(again) || errors.Is(again, ErrDenied) || b.ctx.Err() != nil {
			return again
		}
		err = again
	}
}

// Seek has the next Read begin elsewhere, for who resumes what he did with the blob.
func (b *blob) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart || offset < 0 || offset > b.desc.Size {
		return 0, fmt.Errorf("a blob of %d bytes cannot be read from %d: %w", b.desc.Size, offset, ErrInvalid)
	}
	if b.err != nil {
		return 0, b.err
	}
	if b.rc != nil {
		b.rc.Close()
		b.rc = nil
	}
	b.at, b.last, b.tries, b.head = offset, offset, 0, nil
	if err := b.open(); err != nil {
		if err = b.mend(err); err != nil {
			b.err = err
			return 0, err
		}
	}
	return offset, nil
}

// broke is that it cannot be mended.
func (b *blob) broke(err error) error {
	if len(b.from) == 0 {
		return explain("pull", short(b.desc.Digest)+" from "+b.urls[0], "", err)
	}
	return explain("pull", b.from[0].Repo+"@"+short(b.desc.Digest), b.from[0].Host(), err)
}

func (b *blob) Close() error {
	if b.rc == nil {
		return nil
	}
	rc := b.rc
	b.rc = nil
	if b.err == nil {
		b.err = io.ErrClosedPipe
	}
	return rc.Close()
}
