package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// errStalled is why a transfer is cut that makes no progress.
var errStalled = errors.New("no data for too long")

// errDropped is an answer that ends too early. It is not io.ErrUnexpectedEOF, which
// containerd's reader mends by itself, any number of times.
var errDropped = errors.New("the connection was lost")

const (
	// commitTimeout is how long a registry may think about an upload that it has received.
	commitTimeout = 5 * time.Minute
	// maxRetryAfter bounds how long one answer can make us wait.
	maxRetryAfter = time.Minute
	maxBackoff    = 5 * time.Second
)

func newTransport(tc *tls.Config) *http.Transport {
	t := docker.DefaultHTTPTransport(tc)
	t.DialContext = wide(t.DialContext)
	t.ResponseHeaderTimeout = 0 // patient watches instead
	t.MaxIdleConns = 64
	t.MaxIdleConnsPerHost = 16
	t.ReadBufferSize = 64 << 10
	t.WriteBufferSize = 64 << 10
	t.DisableCompression = true // blobs are compressed, and their digests are of the bytes as they are
	t.ForceAttemptHTTP2 = true
	return t
}

// patient repeats requests that fail in a way that may pass, and cuts those that stall.
// A request with a body is repeated only if it can be read again and the method is
// idempotent. What fails in the end is an error even if there was a response, so that
// nobody above repeats it once more.
type patient struct {
	next     http.RoundTripper
	attempts int
	backoff  time.Duration
	stall    time.Duration
}

func (c *Client) patient(next http.RoundTripper, attempts int) http.RoundTripper {
	return &patient{next: next, attempts: attempts, backoff: c.cfg.Backoff, stall: c.cfg.StallTimeout}
}

// A statusError is an answer that says "later", given too often.
type statusError struct {
	status int
	text   string
	after  time.Duration // how long it wants to be left alone
	quota  string        // how many requests are left, for people
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("it answered %d %s", e.status, http.StatusText(e.status))
	if e.text != "" {
		s += ": " + e.text
	}
	return s
}

func (p *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	repeatable := req.Body == nil || req.Body == http.NoBody || (req.GetBody != nil && req.Method != http.MethodPost && req.Method != http.MethodPatch)
	if req.Header.Get("Accept-Encoding") != "" {
		req = req.Clone(ctx)
		req.Header.Del("Accept-Encoding")
	}
	for try := 1; ; try++ {
		if try > 1 && req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req = req.Clone(ctx)
			req.Body = body
		}
		resp, err := p.once(req)
		if ctx.Err() != nil {
			if resp != nil {
				resp.Body.Close()
			}
			return nil, context.Cause(ctx)
		}
		var wait time.Duration
		switch {
		case err != nil:
			if !repeatable || try >= p.attempts || !passing(err) {
				return nil, err
			}
		case !busy(resp.StatusCode):
			return resp, nil
		default:
			text := serverMessage(resp)
			wait = retryAfter(resp)
			if !repeatable || try >= p.attempts || wait > maxRetryAfter {
				return nil, &statusError{resp.StatusCode, text, wait, quotaOf(resp.Header)}
			}
		}
		if err := sleep(ctx, max(wait, backoff(p.backoff, try))); err != nil {
			return nil, err
		}
	}
}

// once sends one request under a watchdog that lasts until the body is closed.
func (p *patient) once(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	dog := &watchdog{bark: func() { cancel(errStalled) }}
	dog.arm(p.stall)
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &sentBody{ReadCloser: req.Body, dog: dog, stall: p.stall}
	}
	resp, err := p.next.RoundTrip(req)
	dog.retire() // the transport may still be reading the request
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = errStalled
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = &gotBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, dog: &watchdog{bark: dog.bark}, stall: p.stall}
	return resp, nil
}

// A watchdog barks unless it is armed again or disarmed in time.
type watchdog struct {
	mu      sync.Mutex // guards timer and retired
	timer   *time.Timer
	retired bool
	bark    func()
}

func (w *watchdog) arm(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.retired {
		return
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.bark)
		return
	}
	w.timer.Reset(d)
}

func (w *watchdog) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}

func (w *watchdog) retire() {
	w.disarm()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retired = true
}

// sentBody arms the watchdog as the transport takes bytes. While our own source is
// being read the registry is not to blame: its reader has a watchdog of its own.
type sentBody struct {
	io.ReadCloser
	dog   *watchdog
	stall time.Duration
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.dog.disarm()
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		b.dog.arm(b.stall)
	} else {
		b.dog.arm(commitTimeout)
	}
	return n, err
}

// gotBody is watched only while somebody reads it.
type gotBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	dog    *watchdog
	stall  time.Duration
}

func (b *gotBody) Read(p []byte) (int, error) {
	b.dog.arm(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.dog.disarm()
	switch {
	case err == nil || err == io.EOF:
	case errors.Is(context.Cause(b.ctx), errStalled):
		err = errStalled
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errDropped
	}
	return n, err
}

func (b *gotBody) Close() error {
	b.dog.disarm()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// upgrade tries plain HTTP, and changes to TLS for good if the server wants it: what
// registries on this machine speak is not known.
type upgrade struct {
	next http.RoundTripper
	mu   sync.Mutex
	tls  bool
}

func (u *upgrade) RoundTrip(req *http.Request) (*http.Response, error) {
	u.mu.Lock()
	secure := u.tls
	u.mu.Unlock()
	if secure || req.URL.Scheme != "http" {
		return u.next.RoundTrip(withScheme(req, "https"))
	}
	resp, err := u.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusBadRequest || (req.Body != nil && req.Body != http.NoBody && req.GetBody == nil) {
		return resp, err
	}
	head, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	if !bytes.Contains(bytes.ToLower(head), []byte("https server")) && !bytes.Contains(bytes.ToLower(head), []byte("https port")) {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
		return resp, nil
	}
	resp.Body.Close()
	u.mu.Lock()
	u.tls = true
	u.mu.Unlock()
	req = withScheme(req, "https")
	if req.GetBody != nil {
		if req.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return u.next.RoundTrip(req)
}

func withScheme(req *http.Request, scheme string) *http.Request {
	if req.URL.Scheme == scheme {
		return req
	}
	req = req.Clone(req.Context())
	req.URL.Scheme = scheme
	return req
}

// busy reports whether a status asks for patience.
func busy(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// passing reports whether a transport error may not happen again.
func passing(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.IsTemporary || dns.IsTimeout
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if errors.Is(err, errStalled) || errors.Is(err, errDropped) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	var ne *net.OpError
	if errors.As(err, &ne) {
		// A remote error is an alert of a TLS server that dislikes us.
		return ne.Op != "remote error"
	}
	var to net.Error
	if errors.As(err, &to) && to.Timeout() {
		return true
	}
	s := err.Error()
	return strings.Contains(s, "server closed") || strings.Contains(s, "connection lost") || strings.Contains(s, "stream error") || strings.Contains(s, "GOAWAY")
}

// retryAfter reads the header of that name, seconds or a date.
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if s, err := strconv.Atoi(v); err == nil {
		return max(0, time.Duration(min(s, 1<<20))*time.Second)
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// backoff doubles with each try and varies by half, so that clients do not march in step.
func backoff(base time.Duration, try int) time.Duration {
	d := min(base<<min(try-1, 16), max(maxBackoff, base))
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
