package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// An upload is what is known of the bytes of a blob that are on their way.
type upload struct {
	url  *url.URL // where they go; nil if the registry has not been asked
	at   int64    // how many of them the registry has
	body *checked // what was read of the blob by the last try; nil if nothing
}

// send uploads the blob. If the connection breaks it goes on where the registry says that
// it stands, or from the start if it does not say.
func (p *push) send(ctx context.Context, to *url.URL) error {
	slots := p.c.slots(p.loc.Host())
	if err := slots.Acquire(ctx, 1); err != nil {
		return err
	}
	defer slots.Release(1)
	u := &upload{url: to}
	for try, last := 1, int64(0); ; try++ {
		if u.at-last >= progressBytes {
			try, last = 1, u.at // it gets on
		}
		err := p.sendOnce(ctx, u)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var late *statusError
		again := errors.Is(err, errAgain) || errors.Is(err, ErrCorrupt) || errors.Is(err, errUploadLost) || passing(err)
		wait := backoff(p.c.cfg.Backoff, try)
		if errors.As(err, &late) {
			again, wait = late.after <= maxRetryAfter, max(wait, late.after)
		}
		var source *sourceError
		if errors.As(err, &source) && !errors.Is(err, ErrCorrupt) {
			again = false // it was tried long enough
		}
		if !again || try >= p.c.cfg.Attempts {
			return err
		}
		// Two questions are asked for each try, the next of which may be the first again.
		if err := sleep(ctx, max(wait, 2*p.c.cfg.Backoff)); err != nil {
			return err
		}
		if errors.Is(err, ErrCorrupt) || errors.Is(err, errUploadLost) || !p.stands(ctx, u) {
			u = &upload{}
		}
	}
}

// errUploadLost says that the registry forgot an upload.
var errUploadLost = errors.New("the registry lost the upload")

// stands asks how much of an upload the registry has; see the OCI distribution
// specification, "Pushing a blob in chunks". It is false if the upload cannot go on.
func (p *push) stands(ctx context.Context, u *upload) bool {
	if u.url == nil || u.body == nil {
		return false // nothing of it was sent
	}
	h := p.h
	h.Client = hasty(h.Client)
	resp, err := p.c.send(ctx, h, request{method: http.MethodGet, url: u.url})
	if err != nil {
		return false
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		return false
	}
	at, ok := received(resp.Header.Get("Range"))
	if !ok || at > u.body.read() {
		return false // it has something else
	}
	if next, err := resp.Location(); err == nil {
		u.url = next
	}
	u.at = at
	return true
}

// received reads how many bytes a registry has: "0-99" are a hundred. Nothing is "0-0" with
// some and no header with others.
func received(header string) (int64, bool) {
	if header == "" {
		return 0, true
	}
	first, last, ok := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || first != "0" || err != nil || n < 0 {
		return 0, false
	}
	if n == 0 {
		return 0, true
	}
	return n + 1, true
}

func (p *push) sendOnce(ctx context.Context, u *upload) error {
	if u.url == nil {
		resp, err := p.c.send(ctx, p.h, request{method: http.MethodPost, path: repoPath(p.h, p.loc, "blobs", "uploads") + "/"})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusCreated {
			return nil
		}
		if resp.StatusCode != http.StatusAccepted {
			return statusOf("push", p.loc.Repo, p.loc.Host(), resp)
		}
		if u.url, err = resp.Location(); err != nil {
			return fmt.Errorf("it does not say where to upload to: %w", err)
		}
	}
	desc := p.blob.Desc
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if u.at > 0 && u.at < desc.Size {
		header.Set("Content-Range", fmt.Sprintf("%d-%d", u.at, desc.Size-1))
	}
	var body *checked
	resp, err := p.c.send(ctx, p.h, request{
		method: http.MethodPut, url: u.url, once: true, size: desc.Size - u.at,
		query:  url.Values{"digest": {desc.Digest.String()}},
		header: header,
		body: func() (_ io.ReadCloser, err error) {
			if body, err = p.open(ctx, u.body, u.at); err != nil {
				return nil, &sourceError{err}
			}
			return body, nil
		},
	})
	if body != nil {
		u.body = body
	}
	if err != nil {
		// net/http hides why reading failed behind what that did to the connection.
		if body != nil && body.failed() != nil {
			return body.failed()
		}
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated, http.StatusNoContent, http.StatusOK, http.StatusAccepted:
		return nil
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
		return errUploadLost
	}
	return statusOf("push", p.loc.Repo, p.loc.Host(), resp)
}

// open reads the blob from an offset. What is before it was read by an earlier try, whose
// sums are taken up: a little of it is read again, and none of it is kept.
func (p *push) open(ctx context.Context, earlier *checked, at int64) (*checked, error) {
	var from mark
	if earlier != nil {
		from = earlier.markBefore(at)
	}
	rc, err := p.openAt(ctx, from.at)
	if err != nil {
		return nil, err
	}
	body := newChecked(rc, p.blob.Desc, p.t.Progress)
	body.goOn(earlier, from)
	if _, err := io.CopyN(io.Discard, body, at-from.at); err != nil {
		rc.Close()
		return nil, err
	}
	return body, nil
}

func (p *push) openAt(ctx context.Context, at int64) (io.ReadCloser, error) {
	if p.blob.Open == nil {
		return p.c.openAt(ctx, p.g, p.blob.From, p.blob.Desc, at)
	}
	rc, err := p.blob.Open(ctx)
	if err != nil || at == 0 {
		return rc, err
	}
	if s, ok := rc.(io.Seeker); ok {
		_, err = s.Seek(at, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, rc, at)
	}
	if err != nil {
		rc.Close()
		return nil, err
	}
	return rc, nil
}

// A sourceError is a blob that cannot be read, as opposed to written.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }
