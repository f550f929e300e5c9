package registrytest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// A Fault answers a request instead of the registry behind; next passes it on. It
// returns false to let the request through untouched.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler) bool

// A Proxy stands before a registry, counts requests, and makes trouble.
type Proxy struct {
	Addr string

	server  *httptest.Server
	mu      sync.Mutex // guards all below
	log     []string   // "GET /v2/app/blobs/sha256:..."
	answers []*Exchange
	faults  []Fault
	bytes   int64 // sent in answers to GET of blobs
}

// NewProxy starts a proxy before the registry at addr for the length of the test.
func NewProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	p := OpenProxy(addr)
	t.Cleanup(p.Close)
	return p
}

// OpenProxy is NewProxy for who closes the proxy.
func OpenProxy(addr string) *Proxy {
	p := &Proxy{}
	rp := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	rp.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	rp.ModifyResponse = func(resp *http.Response) error {
		x := &Exchange{Method: resp.Request.Method, URI: resp.Request.URL.RequestURI(), Status: resp.StatusCode}
		p.mu.Lock()
		p.answers = append(p.answers, x)
		p.mu.Unlock()
		if x.Method == http.MethodGet && strings.Contains(x.URI, "/blobs/") {
			resp.Body = &countedBody{resp.Body, p, x}
		}
		return nil
	}
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The registry makes upload locations from Host: they lead back here.
		rp.ServeHTTP(w, r)
	})
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.log = append(p.log, r.Method+" "+r.URL.RequestURI())
		faults := append([]Fault(nil), p.faults...)
		p.mu.Unlock()
		for _, f := range faults {
			if f(w, r, inner) {
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	p.Addr = strings.TrimPrefix(p.server.URL, "http://")
	return p
}

// Close ends the proxy.
func (p *Proxy) Close() { p.server.Close() }

// An Exchange is a request that the registry behind the proxy answered.
type Exchange struct {
	Method, URI string
	Status      int
	Bytes       int64 // read of the answer, if it is a blob
	Document    bool  // the blob is JSON: the config of an image or of a cache
}

// Layer reports whether a layer was read, or some of it.
func (x Exchange) Layer() bool {
	return x.Method == http.MethodGet && strings.Contains(x.URI, "/blobs/sha256:") && x.Status < 300 && !x.Document && x.Bytes > 0
}

// Exchanges returns what the registry answered, in this order.
func (p *Proxy) Exchanges() []Exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Exchange, len(p.answers))
	for i, x := range p.answers {
		out[i] = *x
	}
	return out
}

type countedBody struct {
	io.ReadCloser
	p *Proxy
	x *Exchange
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	// A config is a small JSON document; what begins otherwise is a layer.
	if b.x.Bytes == 0 && n > 0 {
		b.x.Document = p[0] == '{'
	}
	b.x.Bytes += int64(n)
	b.p.bytes += int64(n)
	return n, err
}

// Break adds a fault; the first that wants a request has it.
func (p *Proxy) Break(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, f)
}

// Reset forgets counts and faults.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log, p.answers, p.faults, p.bytes = nil, nil, nil, 0
}

// Heal takes back all faults.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Forget forgets counts only.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log, p.answers, p.bytes = nil, nil, 0
}

// Count returns how many requests match, as "METHOD URI".
func (p *Proxy) Count(pattern string) int {
	re := regexp.MustCompile(pattern)
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, l := range p.log {
		if re.MatchString(l) {
			n++
		}
	}
	return n
}

// Log returns all requests, in order of arrival.
func (p *Proxy) Log() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.log...)
}

// BlobBytes returns how many bytes of blobs were read through the proxy.
func (p *Proxy) BlobBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes
}

// Times limits a fault to the first n requests that match, as "METHOD URI".
func Times(n int, pattern string, f Fault) Fault {
	re := regexp.MustCompile(pattern)
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if !re.MatchString(r.Method + " " + r.URL.RequestURI()) {
			return false
		}
		mu.Lock()
		hit := n > 0
		n--
		mu.Unlock()
		return hit && f(w, r, next)
	}
}

// Status answers with a status and, if not empty, a Retry-After.
func Status(code int, retryAfter string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(code)
		return true
	}
}

// Drop cuts the connection after n bytes of the body were sent.
func Drop(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		b := rec.Body.Bytes()
		w.Write(b[:min(n, len(b))])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// Truncate ends the body after n bytes as if that were all of it.
func Truncate(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		w.WriteHeader(rec.Code)
		b := rec.Body.Bytes()
		w.Write(b[:min(n, len(b))])
		w.(http.Flusher).Flush() // no Content-Length: the end is the end
		return true
	}
}

// Flip changes one bit of the body.
func Flip() Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		b := rec.Body.Bytes()
		if len(b) > 0 {
			b[len(b)/2] ^= 1
		}
		w.Write(b)
		return true
	}
}

// Stall sends n bytes of the body and then nothing until the client gives up.
func Stall(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes()[:n])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
}
