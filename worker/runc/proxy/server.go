package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// maxConnections bounds how many connections a step has to its proxy; more wait.
const maxConnections = 512

// maxURL is the length of the longest address that may be asked for, in bytes.
const maxURL = 4096

// Options say what a Server does with requests.
type Options struct {
	// Judge returns what becomes of an address that is to be asked for: itself or another, or
	// an error that says why it may not be. nil permits all.
	Judge func(ctx context.Context, method string, u *url.URL) (*url.URL, error)
	// Dial connects to the world.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Roots are whom servers have their certificates of; nil is the system's.
	Roots  *x509.CertPool
	Record *Record
}

// A Server is the proxy of one step.
type Server struct {
	opt       Options
	authority *authority
	transport *http.Transport
	forward   *httputil.ReverseProxy
	outer     *http.Server // what the step connects to
	inner     *http.Server // what is in its TLS connections
	tunnels   tunnels

	life context.Context // of requests
	end  context.CancelFunc

	serving  sync.WaitGroup
	mu       sync.Mutex
	closed   bool
	requests sync.WaitGroup // under mu; grows only while not closed
}

// Start serves what connects to l until Close.
func Start(l net.Listener, o Options) (*Server, error) {
	a, err := newAuthority()
	if err != nil {
		return nil, err
	}
	s := &Server{opt: o, authority: a, tunnels: newTunnels(l.Addr())}
	s.life, s.end = context.WithCancel(context.Background())
	s.transport = &http.Transport{
		DialContext: o.Dial, TLSClientConfig: &tls.Config{RootCAs: o.Roots},
		// The daemon may itself be behind a proxy.
		Proxy: http.ProxyFromEnvironment,
		// Digests are of files as the server has them.
		DisableCompression: true,
		ForceAttemptHTTP2:  !proxiedOverTLS(),
		MaxIdleConns:       32, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 15 * time.Second,
	}
	quiet := log.New(io.Discard, "", 0) // steps may do what they want
	s.forward = &httputil.ReverseProxy{
		Rewrite: s.rewrite, Transport: s.transport, ModifyResponse: s.answered, ErrorHandler: s.failed,
		FlushInterval: -1, ErrorLog: quiet,
	}
	server := func() *http.Server {
		return &http.Server{
			Handler: http.HandlerFunc(s.serve), ErrorLog: quiet, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute,
			BaseContext: func(net.Listener) context.Context { return s.life },
		}
	}
	s.outer, s.inner = server(), server()
	s.inner.ConnContext = withTarget
	s.inner.TLSConfig = s.tlsConfig("")
	s.serving.Go(func() { _ = s.outer.Serve(netutil.LimitListener(l, maxConnections)) })
	s.serving.Go(func() { _ = s.inner.Serve(&s.tunnels) })
	return s, nil
}

// CA is the certificate that the step has to trust.
func (s *Server) CA() *x509.Certificate { return s.authority.cert }

// PEM is the same as files have it.
func (s *Server) PEM() []byte { return s.authority.pem() }

// Close ends all connections. Nothing is recorded after it has returned.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	err := errors.Join(s.outer.Close(), s.inner.Close())
	s.requests.Wait()
	s.serving.Wait()
	s.transport.CloseIdleConnections()
	return err
}

// enter begins a request, unless it is too late for that.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.requests.Add(1)
	return true
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		return
	}
	defer s.requests.Done()
	if r.Method == http.MethodConnect {
		s.connect(w, r)
		return
	}
	if target := targetOf(r.Context()); target != "" {
		if r.Host != "" && !sameHost(r.Host, target) {
			http.Error(w, "the request is for another host than the connection", http.StatusMisdirectedRequest)
			return
		}
		r.URL.Scheme, r.URL.Host = "https", withoutPort(target, "443")
	}
	switch r.URL.Scheme {
	case "http", "https":
	case "":
		http.Error(w, "this is the proxy of a build step", http.StatusBadRequest)
		return
	default:
		http.Error(w, "the proxy of a build step speaks http and https only", http.StatusNotImplemented)
		return
	}
	r.URL.Host = withoutPort(r.URL.Host, map[string]string{"http": "80", "https": "443"}[r.URL.Scheme])
	if len(r.URL.String()) > maxURL {
		http.Error(w, "the address is too long", http.StatusRequestURITooLong)
		return
	}
	// A client that has nothing more to say may have closed its side: net/http takes it for gone.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	r = r.WithContext(ctx)
	if s.opt.Judge != nil {
		u, err := s.opt.Judge(r.Context(), r.Method, r.URL)
		if err != nil {
			s.opt.Record.add(Fetch{Method: r.Method, URL: r.URL.String(), Status: http.StatusForbidden, Denied: true})
			http.Error(w, "Forbidden: "+err.Error(), http.StatusForbidden)
			return
		}
		r.URL = u
	}
	s.forward.ServeHTTP(w, r)
}

// rewrite makes the request to the world: as it came, but for what is between the step and
// its proxy.
func (s *Server) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL, p.Out.Host = p.In.URL, p.In.URL.Host
	p.Out.Header.Del("Accept-Encoding")
	for _, k := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := p.In.Header[k]; ok {
			p.Out.Header[k] = v
		}
	}
}

// answered records the beginning of an answer, and sees to it that the rest is.
func (s *Server) answered(resp *http.Response) error {
	f := Fetch{Method: resp.Request.Method, URL: resp.Request.URL.String(), Status: resp.StatusCode, Reason: ReasonBody}
	if to, err := resp.Location(); err == nil {
		f.Redirect = to.String()
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		f.Reason = ReasonUpgrade
		s.opt.Record.add(f)
		return nil // the body is a connection
	}
	resp.Body = newBody(resp, s.opt.Record, s.opt.Record.add(f))
	return nil
}

func (s *Server) failed(w http.ResponseWriter, r *http.Request, err error) {
	s.opt.Record.add(Fetch{Method: r.Method, URL: r.URL.String(), Status: http.StatusBadGateway, Reason: ReasonUpstream})
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// withoutPort removes the port from a host if it is the usual one.
func withoutPort(host, usual string) string {
	return strings.TrimSuffix(host, ":"+usual)
}

func sameHost(a, b string) bool {
	name := func(h string) string {
		u := url.URL{Host: h}
		return strings.TrimSuffix(u.Hostname(), ".")
	}
	return strings.EqualFold(name(a), name(b))
}

// proxiedOverTLS reports whether the daemon's own proxy is spoken to with TLS: the transport
// would offer it HTTP/2, which it does not speak to proxies.
func proxiedOverTLS() bool {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
		if strings.HasPrefix(os.Getenv(name), "https://") {
			return true
		}
	}
	return false
}
