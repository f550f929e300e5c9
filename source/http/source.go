package http

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	lru "github.com/hashicorp/golang-lru/v2"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Config is what a Source needs.
type Config struct {
	Store    *snapshot.Store  // keeps the files; required
	Sessions *session.Manager // reaches the clients; required
	// Transport sends the requests; nil is one with the usual proxy settings.
	Transport http.RoundTripper
}

// A Source fetches URLs.
type Source struct {
	cfg    Config
	recent *lru.Cache[string, row] // rows that may not be in the database yet
}

// New returns a Source.
func New(cfg Config) *Source {
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: stall}).DialContext,
			ForceAttemptHTTP2:     true,
			TLSHandshakeTimeout:   stall,
			ResponseHeaderTimeout: stall,
			IdleConnTimeout:       time.Minute,
			MaxIdleConns:          32,
			DisableCompression:    true, // see decoded
		}
	}
	recent, _ := lru.New[string, row](1024) // fails for sizes below one only
	return &Source{cfg: cfg, recent: recent}
}

// A Pin is a URL with the content it has. It must be released.
type Pin struct {
	Digest   digest.Digest
	Filename string
	ModTime  *time.Time // as the server said; nil if it did not, or was not asked

	req Request
	ref *snapshot.Ref // nil if the checksum was given, and nothing was asked
}

// ID names the file: content, name, mode, owner, and time if that is known.
func (p *Pin) ID() [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "http\n%s\n%q\n%o\n%d\n%d\n", p.Digest, p.Filename, p.req.Mode, p.req.UID, p.req.GID)
	if p.ModTime != nil {
		_ = binary.Write(h, binary.LittleEndian, p.ModTime.Unix())
	}
	return [32]byte(h.Sum(nil))
}

// URI is the URL without credentials.
func (p *Pin) URI() string {
	u, err := parseURL(p.req.URL)
	if err != nil {
		return ""
	}
	return redact(u)
}

// Retain returns a Pin of the same content with a lifetime of its own.
func (p *Pin) Retain() *Pin {
	c := *p
	if p.ref != nil {
		c.ref = p.ref.Retain()
	}
	return &c
}

// Release ends the use of what the Pin holds.
func (p *Pin) Release() {
	if p.ref != nil {
		p.ref.Release()
		p.ref = nil
	}
}

// Pin finds out what the content is now. Unless a checksum was given that means to
// download it, if it is not here.
func (s *Source) Pin(ctx context.Context, g session.Group, req Request, log *progress.Log) (*Pin, error) {
	u, err := parseURL(req.URL)
	if err != nil {
		return nil, err
	}
	if req.Checksum != "" {
		p := &Pin{Digest: req.Checksum, Filename: filename(req, u, nil), req: req}
		return p, s.verify(ctx, g, p, log)
	}
	p, err := s.download(ctx, g, req, log)
	if err != nil {
		return nil, err
	}
	if err := s.verify(ctx, g, p, log); err != nil {
		p.Release()
		return nil, err
	}
	return p, nil
}

// Fetch returns the file that was pinned, alone in a filesystem. The caller releases it.
func (s *Source) Fetch(ctx context.Context, g session.Group, p *Pin, log *progress.Log) (*snapshot.Ref, error) {
	if p.ref != nil {
		return p.ref.Retain(), nil
	}
	if ref, err := s.stored(ctx, p.req.File, p.Digest, p.Filename); ref != nil || err != nil {
		return ref, err
	}
	req := p.req
	req.Filename, req.Checksum = p.Filename, p.Digest
	got, err := s.download(ctx, g, req, log)
	if err != nil {
		return nil, err
	}
	return got.ref, nil
}

// stored returns a file that is here, or nil.
func (s *Source) stored(ctx context.Context, f File, d digest.Digest, name string) (*snapshot.Ref, error) {
	old, ok := s.row(fileKey(f, d, name))
	if !ok {
		return nil, nil
	}
	ref, err := s.load(ctx, old)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return ref, err
}

// A row remembers what a URL had, or where a file is.
type row struct {
	ETag     string        `json:"etag,omitempty"`
	Modified string        `json:"modified,omitempty"` // the header Last-Modified
	Digest   digest.Digest `json:"digest"`
	Filename string        `json:"filename"`
	Layers   []string      `json:"layers"`
}

func (r row) modTime() *time.Time {
	t, err := http.ParseTime(r.Modified)
	if err != nil {
		return nil
	}
	return &t
}

var bucketName = []byte("source.http")

// Key names what is asked for: equal keys are equal requests.
func (r Request) Key() string { return urlKey(r) + string(r.Checksum) }

// urlKey names what is remembered of a URL.
func urlKey(r Request) string {
	var headers []string
	for _, k := range slices.Sorted(maps.Keys(r.Header)) {
		headers = append(headers, k+": "+r.Header[k])
	}
	return hash("url", r.URL, r.Filename, fmt.Sprint(uint32(r.Mode), r.UID, r.GID), r.AuthHeaderSecret, strings.Join(headers, "\n"))
}

// fileKey names a file by content.
func fileKey(f File, d digest.Digest, name string) string {
	return hash("file", string(d), name, fmt.Sprint(uint32(f.Mode), f.UID, f.GID))
}

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return string(h.Sum(nil))
}

func (s *Source) row(key string) (row, bool) {
	if r, ok := s.recent.Get(key); ok {
		return r, len(r.Layers) > 0
	}
	var r row
	_ = s.cfg.Store.ViewDB(func(tx *bolt.Tx) error { // what cannot be read is not known
		if b := tx.Bucket(bucketName); b != nil {
			return json.Unmarshal(b.Get([]byte(key)), &r)
		}
		return nil
	})
	return r, len(r.Layers) > 0
}

func (s *Source) setRow(key string, r row) {
	s.recent.Add(key, r)
	v, err := json.Marshal(r)
	if err != nil {
		return
	}
	s.cfg.Store.Later(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketName)
		if err != nil {
			return err
		}
		if len(r.Layers) == 0 {
			return b.Delete([]byte(key))
		}
		return b.Put([]byte(key), v)
	})
}

func (s *Source) load(ctx context.Context, r row) (*snapshot.Ref, error) {
	return s.cfg.Store.Load(ctx, r.Layers)
}

var errStalled = errors.New("the server sent nothing for 30 seconds")
