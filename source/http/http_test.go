package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// A server counts the bodies it sends.
type server struct {
	*httptest.Server
	etag, modified, content string
	name                    string // Content-Disposition
	noHead, noConditional   bool
	fail                    int // requests to answer with 503
	cut                     int // responses to end after half the body
	auth                    string
	bodies, requests        atomic.Int64
}

func newServer(t *testing.T) *server {
	s := &server{content: "hello"}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	s.Config.Handler = s
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	if s.fail > 0 {
		s.fail--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if s.auth != "" && r.Header.Get("Authorization") != s.auth || r.URL.Path == "/missing" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if s.noHead && r.Method == http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if s.etag != "" {
		w.Header().Set("ETag", s.etag)
	}
	if s.modified != "" {
		w.Header().Set("Last-Modified", s.modified)
	}
	if s.name != "" {
		w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", s.name))
	}
	if tag := r.Header.Get("If-None-Match"); tag != "" && tag == s.etag && !s.noConditional {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method == http.MethodHead {
		return
	}
	s.bodies.Add(1)
	w.Header().Set("Content-Length", fmt.Sprint(len(s.content)))
	if s.cut > 0 {
		s.cut--
		_, _ = io.WriteString(w, s.content[:len(s.content)/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, s.content)
}

type world struct {
	t     *testing.T
	src   *Source
	m     *session.Manager
	group session.Group
	store *snapshot.Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store, err := snapshot.Open(t.Context(), snapshot.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	m, err := session.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, src: New(Config{Store: store, Sessions: m}), m: m, store: store}
}

// join connects a client.
func (w *world) join(offers ...bksession.Attachable) {
	w.t.Helper()
	s, err := bksession.NewSession(w.t.Context(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range offers {
		s.Allow(o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() {
		_ = s.Run(ctx, func(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				_ = w.m.HandleConn(ctx, ours, meta)
				done <- struct{}{}
			}()
			return theirs, nil
		})
		done <- struct{}{}
	}()
	w.t.Cleanup(func() {
		cancel()
		<-done
		<-done
	})
	w.group = session.NewGroup(s.ID())
}

// get pins and fetches, and returns the pin's ID and the file.
func (w *world) get(req Request) (id [32]byte, content string, fi os.FileInfo) {
	w.t.Helper()
	if req.Mode == 0 {
		req.Mode = 0o600
	}
	p, err := w.src.Pin(w.t.Context(), w.group, req, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer p.Release()
	ref, err := w.src.Fetch(w.t.Context(), w.group, p, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer ref.Release()
	v, err := ref.View(w.t.Context(), snapshot.Access{})
	if err != nil {
		w.t.Fatal(err)
	}
	names, err := v.ReadDir("")
	if err != nil || len(names) != 1 || names[0] != p.Filename {
		w.t.Fatalf("files are %q (%v), pinned %q", names, err, p.Filename)
	}
	host, err := v.HostPath(p.Filename)
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := os.ReadFile(host)
	if err != nil {
		w.t.Fatal(err)
	}
	if fi, err = os.Stat(host); err != nil {
		w.t.Fatal(err)
	}
	if p.Digest != digest.FromBytes(b) {
		w.t.Errorf("wrong digest %s", p.Digest)
	}
	return p.ID(), string(b), fi
}

func TestUnchangedIsNotSentAgain(t *testing.T) {
	for _, c := range []struct {
		name                  string
		noHead, noConditional bool
	}{{"plain", false, false}, {"no head", true, false}, {"head without conditions", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			w, s := newWorld(t), newServer(t)
			s.noHead, s.noConditional, s.etag = c.noHead, c.noConditional, `"one"`
			req := Request{URL: s.URL + "/f"}
			a, _, _ := w.get(req)
			b, _, _ := w.get(req)
			if a != b || s.bodies.Load() != 1 {
				t.Errorf("%d bodies sent, IDs equal: %v", s.bodies.Load(), a == b)
			}
			s.etag = `"two"` // same bytes: the same source
			if b, _, _ = w.get(req); a != b || s.bodies.Load() != 2 {
				t.Errorf("%d bodies sent, IDs equal: %v", s.bodies.Load(), a == b)
			}
			s.etag, s.content = `"three"`, "other"
			if b, content, _ := w.get(req); a == b || content != "other" {
				t.Errorf("got %q", content)
			}
			// It is remembered on disk, too.
			if err := w.store.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.src = New(w.src.cfg)
			if _, content, _ := w.get(req); content != "other" || s.bodies.Load() != 3 {
				t.Errorf("got %q, %d bodies sent", content, s.bodies.Load())
			}
		})
	}
}

func TestWithoutTags(t *testing.T) {
	w, s := newWorld(t), newServer(t)
	req := Request{URL: s.URL + "/f"}
	a, _, _ := w.get(req)
	b, _, _ := w.get(req)
	if a != b || s.bodies.Load() != 2 {
		t.Errorf("%d bodies sent, IDs equal: %v", s.bodies.Load(), a == b)
	}
	s.content = "HELLO"
	if c, content, _ := w.get(req); c == a || content != "HELLO" {
		t.Errorf("got %q", content)
	}
}

func TestFile(t *testing.T) {
	w, s := newWorld(t), newServer(t)
	s.modified = "Wed, 21 Oct 2015 07:28:00 GMT"
	for _, c := range []struct{ path, disposition, asked, want string }{
		{"/dir/file.txt?x=/y", "", "", "file.txt"},
		{"/dir/", "", "", "dir"},
		{"/", "", "", "download"},
		{"/f", "named.bin", "", "named.bin"},
		{"/f", "../../etc/passwd", "", "passwd"},
		{"/f", `c:\x\evil`, "", "evil"},
		{"/f", "..", "", "f"},
		{"/f", "named.bin", "asked", "asked"},
	} {
		s.name = c.disposition
		_, _, fi := w.get(Request{URL: s.URL + c.path, File: File{Filename: c.asked, Mode: 0o751 | os.ModeSetuid, UID: 3, GID: 4}})
		if fi.Name() != c.want || fi.Mode() != 0o751|os.ModeSetuid {
			t.Errorf("%+v: got %s %v", c, fi.Name(), fi.Mode())
		}
		if want := time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC); !fi.ModTime().Equal(want) {
			t.Errorf("time is %v", fi.ModTime())
		}
	}
}

func TestChecksum(t *testing.T) {
	w, s := newWorld(t), newServer(t)
	req := Request{URL: s.URL + "/f", Checksum: digest.FromString("hello")}
	p, err := w.src.Pin(t.Context(), nil, req, nil)
	if err != nil || s.requests.Load() != 0 {
		t.Fatalf("%v, %d requests to pin", err, s.requests.Load())
	}
	p.Release()
	w.get(req)
	w.get(req)
	if s.requests.Load() != 1 {
		t.Errorf("%d requests, want one", s.requests.Load())
	}
	req.Checksum = digest.FromString("else")
	p, err = w.src.Pin(t.Context(), nil, req, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.src.Fetch(t.Context(), nil, p, nil); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("got %v", err)
	}
}

func TestFaults(t *testing.T) {
	w, s := newWorld(t), newServer(t)
	s.content = strings.Repeat("x", 100_000)
	s.fail, s.cut = 1, 1
	if _, content, _ := w.get(Request{URL: s.URL + "/f"}); content != s.content {
		t.Error("wrong content")
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Path = url.UserPassword("me", "hunter2"), "/missing"
	n := s.requests.Load()
	_, err = w.src.Pin(t.Context(), nil, Request{URL: u.String()}, nil)
	if err == nil || !strings.Contains(err.Error(), "404 Not Found") || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "/missing") {
		t.Errorf("got %v", err)
	}
	if s.requests.Load() != n+1 {
		t.Error("a missing file was asked for again")
	}
	for _, bad := range []string{"file:///etc/passwd", "ftp://x/y", "http://", "://", "http://u:hunter2@h\x7f/"} {
		if _, err := w.src.Pin(t.Context(), nil, Request{URL: bad}, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func TestRedirectToFile(t *testing.T) {
	w := newWorld(t)
	for _, to := range []string{"file:///etc/passwd", "http://" + SessionHost + "/x"} {
		s := httptest.NewServer(http.RedirectHandler(to, http.StatusFound))
		s.Config.ErrorLog = nil
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if _, err := w.src.Pin(ctx, nil, Request{URL: s.URL}, nil); err == nil || !strings.Contains(err.Error(), "redirected") {
			t.Errorf("got %v", err)
		}
		cancel()
		s.Close()
	}
}

func TestAuth(t *testing.T) {
	w, s := newWorld(t), newServer(t)
	s.auth = "Bearer t0ken"
	w.join(secretsprovider.FromMap(map[string][]byte{"HTTP_AUTH_TOKEN.127.0.0.1": []byte("t0ken\n"), "mine": []byte("Basic xyz")}))
	w.get(Request{URL: s.URL + "/f"})
	s.auth = "Basic xyz"
	w.get(Request{URL: s.URL + "/f", AuthHeaderSecret: "mine"})
	if _, err := w.src.Pin(t.Context(), w.group, Request{URL: s.URL + "/f", AuthHeaderSecret: "other"}, nil); !errors.Is(err, session.ErrNoSecret) {
		t.Errorf("got %v", err)
	}
}

func TestUpload(t *testing.T) {
	w := newWorld(t)
	up := uploadprovider.New()
	big := strings.Repeat("tar", 1<<20)
	one, two := up.Add(io.NopCloser(strings.NewReader(big))), up.Add(io.NopCloser(strings.NewReader(big)))
	w.join(up)
	a, content, _ := w.get(Request{URL: one, File: File{Filename: "context"}})
	if content != big {
		t.Error("wrong content")
	}
	if b, _, _ := w.get(Request{URL: two, File: File{Filename: "context"}}); a != b {
		t.Error("the same upload has another ID")
	}
	if _, err := w.src.Pin(t.Context(), w.group, Request{URL: one}, nil); err == nil {
		t.Error("an upload was there twice")
	}
}

func TestParse(t *testing.T) {
	r, err := Parse("https://h/f", map[string]string{
		pb.AttrHTTPChecksum: digest.FromString("x").String(), pb.AttrHTTPPerm: "0644", pb.AttrHTTPUID: "7", pb.AttrHTTPGID: "8",
		pb.AttrHTTPFilename: "n", pb.AttrHTTPHeaderPrefix + "accept": "text/plain", pb.AttrHTTPHeaderPrefix + "cookie": "c",
	})
	if err != nil || r.Mode != 0o644 || r.UID != 7 || r.GID != 8 || r.Filename != "n" || len(r.Header) != 1 || r.Header["Accept"] != "text/plain" {
		t.Errorf("got %+v, %v", r, err)
	}
	for attr, v := range map[string]string{
		pb.AttrHTTPChecksum: "sha256:1", pb.AttrHTTPPerm: "0x99999", pb.AttrHTTPUID: "-1", pb.AttrHTTPFilename: "../x",
		pb.AttrHTTPHeaderPrefix + "accept": "a\r\nHost: b", pb.AttrHTTPSignatureVerify: "s",
	} {
		if _, err := Parse("https://h/f", map[string]string{attr: v}); err == nil {
			t.Errorf("%s=%q was accepted", attr, v)
		}
	}
}
