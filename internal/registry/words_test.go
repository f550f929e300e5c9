package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	bksession "github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// says answers with a status, headers ("Name: value") and an error of the protocol.
func says(status int, code, message string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		if code != "" {
			io.WriteString(w, `{"errors":[{"code":"`+code+`","message":"`+message+`"}]}`)
		}
	}
}

// What users read, word by word. HOST is the registry.
func TestWords(t *testing.T) {
	t.Parallel()
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused.Close()
	// Names that are not loopback by their looks: they are spoken to with HTTPS.
	elsewhere := func(addr string) string { return strings.Replace(addr, "127.0.0.1", "0.0.0.0", 1) }
	server := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	quiet := log.New(io.Discard, "", 0)
	secure := func(certs ...tls.Certificate) string {
		s := httptest.NewUnstartedServer(says(404, "", ""))
		s.Config.ErrorLog = quiet
		if certs != nil {
			s.TLS = &tls.Config{Certificates: certs}
		}
		s.StartTLS()
		t.Cleanup(s.Close)
		return elsewhere(strings.TrimPrefix(s.URL, "https://"))
	}

	bearer := func(token http.HandlerFunc) string {
		var addr string
		addr = server(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				token(w, r)
				return
			}
			says(401, "UNAUTHORIZED", "authentication required", `Www-Authenticate: Bearer realm="http://`+addr+`/token",service="registry"`)(w, r)
		})
		return addr
	}
	basic := server(says(401, "UNAUTHORIZED", "authentication required", `Www-Authenticate: Basic realm="registry"`))
	bob := &lender{user: "bob", secret: "s"}
	real, _ := rt.Start(t)
	rt.PutImage(t, real, "team/app", "1", ocispec.Platform{OS: "linux", Architecture: "amd64"})

	for _, c := range []struct {
		name, addr string
		push       bool
		as         *lender
		config     registry.Host
		want       string
	}{
		{name: "no repository", addr: real, want: "pull HOST/app:2: not found in registry HOST: it has no repository app"},
		{name: "no tag", addr: real + "/team", want: "pull HOST/team/app:2: not found in registry HOST: its repository team/app has no tag 2"},
		{name: "no login, password wanted", addr: basic, want: `pull HOST/app:2: registry HOST denied access: no login for it is known; run "docker login HOST"`},
		{name: "wrong password", addr: basic, as: bob, want: `pull HOST/app:2: registry HOST denied access: it does not accept the login; run "docker login HOST"`},
		{name: "wrong password, pushing", addr: basic, push: true, as: bob, want: `push HOST/app: registry HOST denied access: it does not accept the login; run "docker login HOST"`},
		{name: "no login, token wanted", addr: bearer(says(401, "", "")), want: `pull HOST/app:2: registry HOST denied access: no login for it is known: its token server answered 401 Unauthorized; run "docker login HOST"`},
		{name: "wrong password for a token", addr: bearer(says(401, "UNAUTHORIZED", "incorrect username or password")), as: bob,
			want: `pull HOST/app:2: registry HOST denied access: it does not accept the login: incorrect username or password; run "docker login HOST"`},
		{name: "a token that is not enough", addr: bearer(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"token":"t","access_token":"t"}`) }), push: true, as: bob,
			want: `push HOST/app: registry HOST denied access: it does not let this client push here; run "docker login HOST" as somebody who may`},
		{name: "may not push", addr: server(says(403, "DENIED", "requested access to the resource is denied")), push: true, as: bob,
			want: `push HOST/app: registry HOST denied access: it does not let this client push here: requested access to the resource is denied; run "docker login HOST" as somebody who may`},
		{name: "may not pull", addr: server(says(403, "DENIED", "no")), as: bob,
			want: `pull HOST/app:2: registry HOST denied access: it does not let this client pull here: no; run "docker login HOST" as somebody who may`},
		{name: "rate limit", addr: server(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead { // has no words
				w.WriteHeader(http.StatusNotFound)
				return
			}
			says(429, "TOOMANYREQUESTS", "slow down", "Retry-After: 120", "RateLimit-Limit: 100;w=21600", "RateLimit-Remaining: 0;w=21600")(w, r)
		}), push: true,
			want: "push HOST/app: registry HOST: it takes no more requests for now (429): slow down; 0 of 100 requests are left for each 6h; try again in 2m0s"},
		{name: "rate limit without a word", addr: server(says(429, "", "")), want: "pull HOST/app:2: registry HOST: it takes no more requests for now (429); try again later"},
		{name: "not well", addr: server(says(503, "", "")), want: "pull HOST/app:2: registry HOST is unreachable: it answered 503 Service Unavailable"},
		{name: "plain HTTP", addr: elsewhere(server(says(404, "", ""))),
			want: `pull HOST/app:2: registry HOST is unreachable: it speaks plain HTTP and not HTTPS; if that is meant, say http = true in the daemon's configuration, [registry."HOST"]`},
		{name: "HTTPS", addr: secure(), push: true, config: registry.Host{HTTP: true},
			want: `push HOST/app: registry HOST: it speaks HTTPS and not plain HTTP; take http = true out of the daemon's configuration, [registry."HOST"]`},
		{name: "certificate of another", addr: secure(),
			want: "pull HOST/app:2: registry HOST is unreachable: its certificate is for another name: x509: certificate is valid for 127.0.0.1, ::1, not 0.0.0.0; check how the registry is written"},
		{name: "unknown authority", addr: secure(selfSigned(t, time.Now().Add(time.Hour))),
			want: `pull HOST/app:2: registry HOST is unreachable: its certificate is of an authority that is not known here; name that with ca = [FILE] in the daemon's configuration, [registry."HOST"]`},
		{name: "old certificate", addr: secure(selfSigned(t, time.Unix(1e9, 0))),
			want: "pull HOST/app:2: registry HOST is unreachable: its certificate is good from 1970-01-01 to 2001-09-09 and not now; check the clock of the daemon's machine"},
		{name: "unknown host", addr: "registry.invalid",
			want: "pull HOST/app:2: registry HOST is unreachable: no host has the name registry.invalid (dial tcp: lookup registry.invalid: no such host); check how it is written, and the DNS of the daemon's machine"},
		{name: "nothing there", addr: refused.Addr().String(),
			want: "pull HOST/app:2: registry HOST is unreachable: nothing listens there (connection refused); check its port, and that it runs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host, _, _ := strings.Cut(c.addr, "/")
			var m *bksession.Manager
			var g bksession.Group
			if c.as != nil {
				m, g, _ = rt.Session(t, &lender{user: c.as.user, secret: c.as.secret})
			}
			cl := registry.New(registry.Config{Backoff: time.Millisecond, Attempts: 2, Hosts: map[string]registry.Host{host: c.config}}, m)
			var err error
			if c.push {
				blob := random(10)
				err = cl.Push(t.Context(), g, c.addr+"/app", registry.Blob{Desc: descOf(blob), Open: mem(blob)})
			} else {
				_, _, err = cl.Resolve(t.Context(), g, c.addr+"/app:2")
			}
			if err == nil {
				t.Fatal("no error")
			}
			if got := strings.ReplaceAll(err.Error(), host, "HOST"); got != strings.ReplaceAll(c.want, "registry.invalid", "HOST") {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// selfSigned is a certificate for 0.0.0.0 that nobody knows.
func selfSigned(t *testing.T, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: until, IPAddresses: []net.IP{net.IPv4zero}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
