package http

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	"github.com/moby/buildkit/session/upload"
)

const (
	stall    = 30 * time.Second // longest time without a byte
	attempts = 4
	maxWait  = 30 * time.Second // longest pause between attempts a server may ask for
)

// A transient error is worth another attempt, not before wait.
type transient struct {
	err  error
	wait time.Duration
}

func (t *transient) Error() string { return t.err.Error() }
func (t *transient) Unwrap() error { return t.err }

// download gets the content of a URL, or finds that what is here is still right.
func (s *Source) download(ctx context.Context, g session.Group, req Request, log *progress.Log) (*Pin, error) {
	u, err := parseURL(req.URL)
	if err != nil {
		return nil, err
	}
	if u.Host == SessionHost {
		p, err := s.pull(ctx, g, req, u, log)
		if err != nil {
			return nil, fmt.Errorf("upload from the client: %w", err)
		}
		return p, nil
	}
	for try := 1; ; try++ {
		p, err := s.attempt(ctx, g, req, u, log)
		if err == nil {
			return p, nil
		}
		var t *transient
		if ctx.Err() != nil || try == attempts || !errors.As(err, &t) {
			return nil, fmt.Errorf("%s: %w", redact(u), plain(err))
		}
		wait := max(t.wait, time.Duration(float64(int(200)<<try)*(0.5+rand.Float64()))*time.Millisecond)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// plain takes the URL, which may hold credentials, out of an error of net/http.
func plain(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// attempt asks once.
func (s *Source) attempt(ctx context.Context, g session.Group, req Request, u *url.URL, log *progress.Log) (*Pin, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header, err := s.headers(ctx, g, req, u)
	if err != nil {
		return nil, err
	}
	key := urlKey(req)
	var old *snapshot.Ref
	oldRow, known := s.row(key)
	if known = known && req.Checksum == "" && (oldRow.ETag != "" || oldRow.Modified != ""); known {
		switch old, err = s.load(ctx, oldRow); {
		case errdefs.IsNotFound(err):
			known = false
			s.setRow(key, row{})
		case err != nil:
			return nil, err
		}
	}
	keep := func() *Pin {
		return &Pin{Digest: oldRow.Digest, Filename: oldRow.Filename, ModTime: oldRow.modTime(), req: req, ref: old}
	}
	if known {
		if oldRow.ETag != "" {
			header.Set("If-None-Match", oldRow.ETag)
		} else {
			header.Set("If-Modified-Since", oldRow.Modified)
		}
		// Some servers send the body although the tag is the same.
		if resp, err := s.do(ctx, http.MethodHead, u, header); err == nil {
			resp.Body.Close()
			if oldRow.same(resp) {
				return keep(), nil
			}
		}
	}
	resp, err := s.do(ctx, http.MethodGet, u, header)
	if err == nil && resp.StatusCode == http.StatusNotModified && known {
		resp.Body.Close()
		return keep(), nil
	}
	if known {
		old.Release()
	}
	if err != nil {
		return nil, &transient{err: err}
	}
	defer resp.Body.Close()
	if err := checkStatus(resp); err != nil {
		return nil, err
	}
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer timer.Stop()
	body := &body{ctx: ctx, r: resp.Body, timer: timer}
	content, size, err := decoded(resp, body)
	if err != nil {
		return nil, err
	}
	p, err := s.keep(ctx, req, u, resp.Header, content, size, log)
	if err != nil && body.err != nil {
		err = &transient{err: err}
	}
	return p, err
}

// decoded returns the file itself of what was sent, compressed for the way or not, and its
// size, 0 if that is not known.
func decoded(resp *http.Response, body io.Reader) (io.Reader, int64, error) {
	switch e := strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))); e {
	case "gzip", "x-gzip":
		r, err := gzip.NewReader(body)
		if err != nil {
			return nil, 0, fmt.Errorf("the content is said to be compressed, but is not: %w", err)
		}
		return r, 0, nil
	default:
		return body, resp.ContentLength, nil
	}
}

// same reports whether a response to HEAD is about the content that is remembered.
func (r row) same(resp *http.Response) bool {
	if resp.StatusCode == http.StatusNotModified {
		return true
	}
	return resp.StatusCode == http.StatusOK && r.ETag != "" && tag(resp.Header) == r.ETag
}

// tag returns the entity tag of a response.
func tag(h http.Header) string { return strings.TrimSpace(h.Get("ETag")) }

func checkStatus(resp *http.Response) error {
	switch c := resp.StatusCode; {
	case c == http.StatusOK:
		return nil
	case c == http.StatusTooManyRequests || c >= 500 && c != http.StatusNotImplemented:
		wait := time.Duration(0)
		if sec, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && sec > 0 {
			wait = min(time.Duration(sec)*time.Second, maxWait)
		}
		return &transient{err: fmt.Errorf("invalid response status %s", status(resp)), wait: wait}
	default:
		return fmt.Errorf("invalid response status %s", status(resp))
	}
}

func status(resp *http.Response) string {
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", http.StatusText(resp.StatusCode)))
}

// userAgent has the part by which servers know builders.
const userAgent = "dbuild buildkit/v0.33"

// headers returns the request headers, with credentials of the client if it has any.
func (s *Source) headers(ctx context.Context, g session.Group, req Request, u *url.URL) (http.Header, error) {
	h := http.Header{"User-Agent": {userAgent}, "Accept-Encoding": {"gzip"}}
	for k, v := range req.Header {
		h.Set(k, v)
	}
	type candidate struct{ secret, prefix string }
	list := []candidate{{req.AuthHeaderSecret, ""}}
	if req.AuthHeaderSecret == "" {
		host := u.Hostname()
		list = []candidate{
			{"HTTP_AUTH_HEADER_" + host, ""}, {"HTTP_AUTH_HEADER." + host, ""},
			{"HTTP_AUTH_TOKEN_" + host, "Bearer "}, {"HTTP_AUTH_TOKEN." + host, "Bearer "},
		}
	}
	for _, c := range list {
		v, err := s.cfg.Sessions.Secret(ctx, g, c.secret)
		switch {
		case errors.Is(err, session.ErrNoSecret) && req.AuthHeaderSecret == "":
			continue
		case errors.Is(err, session.ErrNoSession) && req.AuthHeaderSecret == "":
			return h, nil
		case err != nil:
			return nil, err
		}
		h.Set("Authorization", c.prefix+strings.TrimSpace(string(v)))
		break
	}
	return h, nil
}

func (s *Source) do(ctx context.Context, method string, u *url.URL, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	c := http.Client{Transport: s.cfg.Transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Host == SessionHost || r.URL.Scheme != "http" && r.URL.Scheme != "https" {
			return errors.New("redirected to what is not an http or https URL")
		}
		if len(via) >= 10 {
			return errors.New("more than 10 redirects")
		}
		return nil
	}}
	return c.Do(req)
}

// A body is read with a limit on the time between two bytes.
type body struct {
	ctx   context.Context
	r     io.Reader
	timer *time.Timer
	err   error // of reading
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.timer.Reset(stall)
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
		b.err = err
	}
	return n, err
}

// pull gets a file that a client uploads. That works once.
func (s *Source) pull(ctx context.Context, g session.Group, req Request, u *url.URL, log *progress.Log) (p *Pin, err error) {
	err = s.cfg.Sessions.Any(ctx, g, func(ctx context.Context, _ string, c session.Caller) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		up, err := upload.New(ctx, c, u)
		if err != nil {
			return err
		}
		r, w := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := up.WriteTo(w)
			w.CloseWithError(err)
		}()
		defer func() {
			cancel()
			r.Close()
			<-done
		}()
		p, err = s.keep(ctx, req, u, nil, r, 0, log)
		return err
	})
	return p, err
}

// keep stores what was downloaded and remembers it.
func (s *Source) keep(ctx context.Context, req Request, u *url.URL, header http.Header, r io.Reader, size int64, log *progress.Log) (*Pin, error) {
	rw := row{ETag: tag(header), Modified: header.Get("Last-Modified"), Filename: filename(req, u, header)}
	mtime := time.Unix(0, 0)
	if t := rw.modTime(); t != nil {
		mtime = *t
	}
	in := content{r: r, size: size, from: "http url " + redact(u), want: req.Checksum, mtime: mtime}
	ref, got, err := s.store(ctx, req.File, rw.Filename, in, log)
	if err != nil {
		return nil, err
	}
	rw.Digest, rw.Layers = got, ref.LayerIDs()
	s.setRow(fileKey(req.File, rw.Digest, rw.Filename), rw)
	if u.Host != SessionHost && req.Checksum == "" && (rw.ETag != "" || rw.modTime() != nil) {
		s.setRow(urlKey(req), rw)
	}
	return &Pin{Digest: rw.Digest, Filename: rw.Filename, ModTime: rw.modTime(), req: req, ref: ref}, nil
}
