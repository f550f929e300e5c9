package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	bksession "github.com/moby/buildkit/session"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"
)

// Config says how registries are reached. The zero value is good for all that speak
// HTTPS with a certificate of a known authority, and for those on this machine.
type Config struct {
	Hosts        map[string]Host // by registry name as in a reference ("docker.io", "reg.example:5000")
	UserAgent    string          // "" means "dbuild"
	StallTimeout time.Duration   // a transfer without a byte for so long is cut and resumed; 0 means 30 s
	Attempts     int             // tries of one request; 0 means 5
	Backoff      time.Duration   // wait before the second try, doubled for each further one; 0 means 250 ms
	Parallel     int             // blobs pushed to one registry at once; 0 means 4
	AskTimeout   time.Duration   // one question to a client for credentials; 0 means a minute, less none
}

// Host is what is special about one registry.
type Host struct {
	Mirrors  []string // asked first when pulling: "host", "host/prefix", or with "http://" in front
	HTTP     bool     // speaks plain HTTP only
	Insecure bool     // any certificate will do, and plain HTTP if it has none
	CA       []string // files with additional certificate authorities, PEM
	KeyPairs []KeyPair
}

// A KeyPair names the PEM files of a client certificate and its key.
type KeyPair struct{ Cert, Key string }

// A Client speaks to registries. It keeps connections, and tokens for as long as the
// client session they were obtained through lives. All methods may be called concurrently.
//
// The group in its methods says whose credentials may be used: any session of it that
// has some for the registry will do; with none, or a nil group, access is anonymous.
type Client struct {
	cfg  Config
	auth *tokens
	mu   sync.Mutex // guards the maps
	// by registry name; "!" in front for those made insecure by the caller
	clients map[string]*http.Client
	uploads map[string]*semaphore.Weighted

	holdings holdings
}

// New returns a Client that asks the sessions of sm for credentials; sm may be nil.
func New(cfg Config, sm *bksession.Manager) *Client {
	if cfg.UserAgent == "" {
		cfg.UserAgent = "dbuild"
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = 30 * time.Second
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 5
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 250 * time.Millisecond // so that no object is asked for more than 5 times in a second
	}
	if cfg.AskTimeout == 0 {
		cfg.AskTimeout = time.Minute
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 4
	}
	c := &Client{
		cfg:     cfg,
		clients: map[string]*http.Client{},
		uploads: map[string]*semaphore.Weighted{},
	}
	// Token servers are whoever the registry names, so they get the usual transport.
	c.auth = newTokens(sm, &http.Client{Transport: c.patient(newTransport(nil), cfg.Attempts)}, cfg.AskTimeout)
	return c
}

// ParseRef normalises a reference: "alpine" is docker.io/library/alpine:latest.
func ParseRef(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, &Error{Op: "read", Ref: ref, Class: ErrInvalid, Cause: "this is not a valid image reference: " + err.Error()}
	}
	return reference.TagNameOnly(named), nil
}

// LocationOf returns the repository of a reference.
func LocationOf(ref string) (Location, error) {
	named, err := ParseRef(ref)
	if err != nil {
		return Location{}, err
	}
	return Location{Repo: named.Name()}, nil
}

// Host returns the registry of a Location: "docker.io".
func (l Location) Host() string {
	host, _, _ := strings.Cut(l.Repo, "/")
	return host
}

func (l Location) path() string {
	_, path, _ := strings.Cut(l.Repo, "/")
	return path
}

// hosts returns where to find a registry: its mirrors first, itself last.
func (c *Client) hosts(g bksession.Group, insecure bool) docker.RegistryHosts {
	return func(name string) ([]docker.RegistryHost, error) {
		var out []docker.RegistryHost
		for _, m := range c.cfg.Hosts[name].Mirrors {
			out = append(out, c.mirror(g, m))
		}
		own, err := c.host(g, name, insecure)
		if err != nil {
			return nil, err
		}
		return append(out, own), nil
	}
}

func (c *Client) mirror(g bksession.Group, m string) docker.RegistryHost {
	scheme, rest, ok := strings.Cut(m, "://")
	if !ok {
		scheme, rest = "https", m
	}
	host, prefix, _ := strings.Cut(rest, "/")
	if scheme == "https" && (loopback(host) || c.cfg.Hosts[host].HTTP) {
		scheme = "http"
	}
	path := "/v2"
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		path += "/" + prefix
	}
	h := docker.RegistryHost{
		Authorizer:   &authorizer{tokens: c.auth, group: g},
		Host:         host,
		Scheme:       scheme,
		Path:         path,
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		Header:       http.Header{"User-Agent": {c.cfg.UserAgent}},
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := "mirror " + m
	h.Client = c.clients[key]
	if h.Client == nil {
		// A mirror that is down must not hold up the registry behind it for long.
		h.Client = &http.Client{Transport: c.patient(newTransport(nil), min(2, c.cfg.Attempts))}
		c.clients[key] = h.Client
	}
	return h
}

// host returns the registry called name itself.
func (c *Client) host(g bksession.Group, name string, insecure bool) (docker.RegistryHost, error) {
	cfg := c.cfg.Hosts[name]
	insecure = insecure || cfg.Insecure
	h := docker.RegistryHost{
		Authorizer:   &authorizer{tokens: c.auth, group: g},
		Host:         name,
		Scheme:       "https",
		Path:         "/v2",
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityPush,
		Header:       http.Header{"User-Agent": {c.cfg.UserAgent}},
	}
	if name == "docker.io" {
		h.Host = "registry-1.docker.io"
	}
	local := loopback(name)
	if cfg.HTTP || local {
		h.Scheme = "http"
	}
	key := name
	if insecure {
		key = "!" + name
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.Client = c.clients[key]; h.Client != nil {
		return h, nil
	}
	tc, err := tlsConfig(cfg, insecure || local)
	if err != nil {
		return h, &Error{Op: "configure", Ref: name, Host: name, Class: ErrInvalid, Cause: err.Error()}
	}
	var rt http.RoundTripper = newTransport(tc)
	switch {
	case cfg.HTTP:
	case local:
		rt = &upgrade{next: rt}
	case insecure:
		rt = docker.NewHTTPFallback(rt)
	}
	h.Client = &http.Client{Transport: c.patient(rt, c.cfg.Attempts)}
	c.clients[key] = h.Client
	return h, nil
}

// slots limits how many blobs are sent to one registry at once.
func (c *Client) slots(name string) *semaphore.Weighted {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.uploads[name]
	if s == nil {
		s = semaphore.NewWeighted(int64(c.cfg.Parallel))
		c.uploads[name] = s
	}
	return s
}

func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func tlsConfig(h Host, insecure bool) (*tls.Config, error) {
	if !insecure && len(h.CA) == 0 && len(h.KeyPairs) == 0 {
		return nil, nil
	}
	tc := &tls.Config{InsecureSkipVerify: insecure}
	if len(h.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, file := range h.CA {
			pem, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			pool.AppendCertsFromPEM(pem)
		}
		tc.RootCAs = pool
	}
	for _, kp := range h.KeyPairs {
		cert, err := tls.LoadX509KeyPair(kp.Cert, kp.Key)
		if err != nil {
			return nil, err
		}
		tc.Certificates = append(tc.Certificates, cert)
	}
	return tc, nil
}

// quiet keeps containerd's resolver from writing to the standard logger.
func quiet(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.PanicLevel)
	return log.WithLogger(ctx, logrus.NewEntry(l))
}
