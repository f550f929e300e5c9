package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	bksession "github.com/moby/buildkit/session"
	sessionauth "github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// lender is a client that lends credentials.
type lender struct {
	sessionauth.UnimplementedAuthServer
	user, secret string
	authority    bool // it can fetch tokens itself
	realm        *tokenServer

	mu   sync.Mutex
	told []string // what it was asked
}

func (l *lender) Register(s *grpc.Server) { sessionauth.RegisterAuthServer(s, l) }

func (l *lender) asked(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, s)
}

func (l *lender) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, t := range l.told {
		if strings.HasPrefix(t, s) {
			n++
		}
	}
	return n
}

func (l *lender) Credentials(_ context.Context, r *sessionauth.CredentialsRequest) (*sessionauth.CredentialsResponse, error) {
	l.asked("credentials " + r.Host)
	return &sessionauth.CredentialsResponse{Username: l.user, Secret: l.secret}, nil
}

func (l *lender) GetTokenAuthority(context.Context, *sessionauth.GetTokenAuthorityRequest) (*sessionauth.GetTokenAuthorityResponse, error) {
	if !l.authority {
		return nil, status.Error(codes.Unavailable, "not here")
	}
	return &sessionauth.GetTokenAuthorityResponse{PublicKey: make([]byte, 32)}, nil
}

func (l *lender) FetchToken(_ context.Context, r *sessionauth.FetchTokenRequest) (*sessionauth.FetchTokenResponse, error) {
	l.asked("token " + strings.Join(r.Scopes, " "))
	return &sessionauth.FetchTokenResponse{Token: l.realm.grant(l.user, r.Scopes), ExpiresIn: 300}, nil
}

// tokenServer gives tokens that are good for scopes: a small realm. The user "bob" may
// do everything, anybody may pull from public repositories.
type tokenServer struct {
	mu     sync.Mutex
	tokens map[string][]string
	asked  int
	URL    string
	life   int
}

func newTokenServer(t *testing.T) *tokenServer {
	s := &tokenServer{tokens: map[string][]string{}, life: 300}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

func (s *tokenServer) grant(user string, scopes []string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ok []string
	for _, sc := range scopes {
		part := strings.Split(sc, ":")
		if user == "bob" {
			ok = append(ok, sc)
		} else if strings.HasPrefix(part[1], "public") {
			ok = append(ok, part[0]+":"+part[1]+":pull")
		}
	}
	tok := fmt.Sprintf("t%d", len(s.tokens))
	s.tokens[tok] = ok
	return tok
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	r.ParseForm()
	user, pass := r.Form.Get("username"), r.Form.Get("password")
	if u, p, ok := r.BasicAuth(); ok {
		user, pass = u, p
	}
	if user != "" && pass != "pw" {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"details":"incorrect username or password"}`)
		return
	}
	var scopes []string
	for _, v := range r.Form["scope"] {
		scopes = append(scopes, strings.Fields(v)...)
	}
	tok := s.grant(user, scopes)
	json.NewEncoder(w).Encode(map[string]any{"access_token": tok, "token": tok, "expires_in": s.life})
}

func (s *tokenServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// guard demands a token for the scope of each request.
func (s *tokenServer) guard() rt.Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		repo := strings.TrimPrefix(r.URL.Path, "/v2/")
		for _, cut := range []string{"/manifests/", "/blobs/"} {
			repo, _, _ = strings.Cut(repo, cut)
		}
		need := []string{"repository:" + repo + ":pull"}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			need[0] += ",push"
		}
		if from := r.URL.Query().Get("from"); from != "" {
			need = append(need, "repository:"+from+":pull")
		}
		s.mu.Lock()
		has := s.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		s.mu.Unlock()
		for _, n := range need {
			if !slices.ContainsFunc(has, func(h string) bool { return h == n || h == n+",push" }) {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"test\",scope=%q", s.URL, strings.Join(need, " ")))
				w.WriteHeader(http.StatusUnauthorized)
				io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
				return true
			}
		}
		return false
	}
}

// guarded is a registry that wants tokens, with a blob in public/base and private/base.
func guarded(t *testing.T) (*rt.Proxy, *tokenServer, []byte) {
	addr, _ := rt.Start(t)
	blob := random(1000)
	rt.PutBlob(t, addr, "public/base", blob)
	rt.PutBlob(t, addr, "private/base", blob)
	p := rt.NewProxy(t, addr)
	s := newTokenServer(t)
	p.Break(s.guard())
	return p, s, blob
}

func client(m *bksession.Manager) *registry.Client {
	return registry.New(registry.Config{Backoff: time.Millisecond}, m)
}

func open(t *testing.T, c *registry.Client, g bksession.Group, repo string, blob []byte) error {
	t.Helper()
	rc, err := c.Open(t.Context(), g, []registry.Location{{Repo: repo}}, descOf(blob))
	if err != nil {
		return err
	}
	defer rc.Close()
	got, err := io.ReadAll(rc)
	if err == nil && !bytes.Equal(got, blob) {
		t.Error("other bytes")
	}
	return err
}

func TestTokens(t *testing.T) {
	p, s, blob := guarded(t)
	bob := func() *lender { return &lender{user: "bob", secret: "pw", realm: s} }
	tests := []struct {
		name    string
		clients []*lender
		repo    string
		denied  string // what the error says
	}{
		{"anonymous, no session", nil, "public/base", ""},
		{"anonymous, session without credentials", []*lender{{realm: s}}, "public/base", ""},
		{"anonymous is not enough", []*lender{{realm: s}}, "private/base", "authentication required"},
		{"password", []*lender{bob()}, "private/base", ""},
		{"token fetched by the client", []*lender{{user: "bob", authority: true, realm: s}}, "private/base", ""},
		{"second client has them", []*lender{{realm: s}, bob()}, "private/base", ""},
		{"wrong password", []*lender{{user: "bob", secret: "no", realm: s}}, "private/base", "incorrect username"},
		{"wrong password, then right", []*lender{{user: "bob", secret: "no", realm: s}, bob()}, "private/base", ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			m, err := bksession.NewManager()
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, l := range tc.clients {
				ids = append(ids, rt.Join(t, m, l))
			}
			err = open(t, client(m), bksession.NewGroup(ids...), p.Addr+"/"+tc.repo, blob)
			if tc.denied == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), tc.denied) {
				t.Fatalf("got %v", err)
			}
		})
	}
	t.Run("client without the service", func(t *testing.T) {
		m, g, _ := rt.Session(t)
		if err := open(t, client(m), g, p.Addr+"/public/base", blob); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPasswordStaysWithAClientThatCanFetchTokens(t *testing.T) {
	p, s, blob := guarded(t)
	l := &lender{user: "bob", secret: "pw", authority: true, realm: s}
	m, g, _ := rt.Session(t, l)
	if err := open(t, client(m), g, p.Addr+"/private/base", blob); err != nil {
		t.Fatal(err)
	}
	if l.count("credentials") != 0 || l.count("token") != 1 || s.count() != 0 {
		t.Errorf("asked %q, token server asked %d times", l.told, s.count())
	}
}

func TestTokenIsUsedAgainByItsSessionOnly(t *testing.T) {
	p, s, blob := guarded(t)
	l := &lender{user: "bob", secret: "pw", realm: s}
	m, g, _ := rt.Session(t, l)
	c := client(m)
	for range 3 {
		if err := open(t, c, g, p.Addr+"/private/base", blob); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.count(); n != 1 {
		t.Errorf("%d tokens fetched", n)
	}
	if n := p.Count("GET"); n != 4 {
		t.Errorf("%d requests, want one refused and three: %q", n, p.Log())
	}
	stranger := bksession.NewGroup(rt.Join(t, m, &lender{realm: s}))
	if err := open(t, c, stranger, p.Addr+"/private/base", blob); !errors.Is(err, registry.ErrDenied) {
		t.Fatalf("stranger: %v", err)
	}
	if err := open(t, c, nil, p.Addr+"/private/base", blob); !errors.Is(err, registry.ErrDenied) {
		t.Fatalf("nobody: %v", err)
	}
}

func TestRevokedTokenIsReplaced(t *testing.T) {
	p, s, blob := guarded(t)
	m, g, _ := rt.Session(t, &lender{user: "bob", secret: "pw", realm: s})
	c := client(m)
	for range 2 {
		if err := open(t, c, g, p.Addr+"/private/base", blob); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		clear(s.tokens)
		s.tokens["gone"] = nil // so that numbers differ
		s.mu.Unlock()
	}
}

func TestMountAsksForBothRepositories(t *testing.T) {
	p, s, blob := guarded(t)
	m, g, _ := rt.Session(t, &lender{user: "bob", secret: "pw", realm: s})
	how, err := client(m).PushBlob(t.Context(), g, registry.Target{Ref: p.Addr + "/mine/app"}, registry.Blob{Desc: descOf(blob), From: []registry.Location{{Repo: p.Addr + "/private/base"}}})
	if err != nil || how != registry.Mounted {
		t.Fatalf("%v %v", how, err)
	}
}

func TestMountWithoutRightsToTheSourceFallsBack(t *testing.T) {
	addr, _ := rt.Start(t)
	blob := random(1000)
	rt.PutBlob(t, addr, "private/base", blob)
	p := rt.NewProxy(t, addr)
	s := newTokenServer(t)
	p.Break(s.guard())
	// carol may push to her repository, and not read the other.
	l := &lender{user: "bob", secret: "pw", realm: s}
	m, g, _ := rt.Session(t, l)
	p.Break(rt.Times(100, "POST .*mount=", rt.Status(401, "")))
	how, err := client(m).PushBlob(t.Context(), g, registry.Target{Ref: p.Addr + "/mine/app"},
		registry.Blob{Desc: descOf(blob), From: []registry.Location{{Repo: p.Addr + "/private/base"}}, Open: mem(blob)})
	if err != nil || how != registry.Sent {
		t.Fatalf("%v %v", how, err)
	}
}

func TestBasicAuth(t *testing.T) {
	addr, _ := rt.Start(t)
	blob := random(100)
	rt.PutBlob(t, addr, "app", blob)
	p := rt.NewProxy(t, addr)
	p.Break(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if u, pw, ok := r.BasicAuth(); ok && u == "bob" && pw == "pw" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	m, g, _ := rt.Session(t, &lender{user: "bob", secret: "pw"})
	c := client(m)
	if err := open(t, c, g, p.Addr+"/app", blob); err != nil {
		t.Fatal(err)
	}
	if err := c.Push(t.Context(), g, p.Addr+"/other", registry.Blob{Desc: descOf(blob[1:]), Open: mem(blob[1:])}); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*lender{"wrong": {user: "bob", secret: "x"}, "none": {}} {
		g := bksession.NewGroup(rt.Join(t, m, l))
		if err := open(t, c, g, p.Addr+"/app", blob); !errors.Is(err, registry.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
