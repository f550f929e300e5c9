package gha

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// patient repeats requests that failed in a way that may pass. The client repeats only those
// that the service has too many of.
type patient struct{ next http.RoundTripper }

const (
	attempts      = 4
	backoff       = 250 * time.Millisecond // before the second; it doubles
	maxRetryAfter = time.Minute
)

// RoundTrip implements http.RoundTripper.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		if try > 1 && r.GetBody != nil {
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			r = r.Clone(r.Context())
			r.Body = body
		}
		resp, err := p.next.RoundTrip(r)
		if err == nil && resp.StatusCode < http.StatusInternalServerError || try == attempts || !repeatable(r) {
			return resp, err
		}
		wait := backoff << (try - 1)
		if resp != nil {
			if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
				wait = max(wait, min(time.Duration(n)*time.Second, maxRetryAfter))
			}
			resp.Body.Close()
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-r.Context().Done():
			t.Stop()
			return nil, r.Context().Err()
		}
	}
}

// repeatable reports whether a request can be sent again: its body can, and it reserves no
// key. A key that the first try reserved after all would seem to be somebody else's.
func repeatable(r *http.Request) bool {
	if r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		return false
	}
	return r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/CreateCacheEntry") && !strings.HasSuffix(r.URL.Path, "/caches")
}
