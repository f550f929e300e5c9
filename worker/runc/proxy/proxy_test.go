package proxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/worker/runc/proxy"
	digest "github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A setup is a proxy between a client and two servers with the same files.
type setup struct {
	*proxy.Server
	client      *http.Client
	plain, over *httptest.Server
	record      *proxy.Record
	addr        string
}

func handler(w http.ResponseWriter, r *http.Request) {
	if len(r.Header["Accept-Encoding"])+len(r.Header["Proxy-Connection"])+len(r.Header["X-Forwarded-For"]) > 0 {
		http.Error(w, "this is not what the client asked for", http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case "/file":
		fmt.Fprint(w, "content of "+r.URL.RawQuery)
	case "/moved":
		http.Redirect(w, r, "/file?x", http.StatusFound)
	case "/short":
		w.Header().Set("Content-Length", "10")
		fmt.Fprint(w, "short")
	case "/echo":
		_, _ = io.Copy(w, r.Body)
	default:
		http.NotFound(w, r)
	}
}

func start(t *testing.T, judge func(context.Context, string, *url.URL) (*url.URL, error)) *setup {
	t.Helper()
	s := &setup{record: new(proxy.Record), plain: httptest.NewServer(http.HandlerFunc(handler))}
	s.over = httptest.NewUnstartedServer(http.HandlerFunc(handler))
	s.over.EnableHTTP2 = true
	s.over.StartTLS()
	t.Cleanup(s.plain.Close)
	t.Cleanup(s.over.Close)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.over.Certificate())
	s.addr = l.Addr().String()
	s.Server, err = proxy.Start(l, proxy.Options{Judge: judge, Dial: new(net.Dialer).DialContext, Record: s.record, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.client = s.newClient(t, func(*http.Transport) {})
	return s
}

// newClient returns a client that trusts the proxy, and nobody else.
func (s *setup) newClient(t *testing.T, edit func(*http.Transport)) *http.Client {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.PEM()) {
		t.Fatal("the proxy's certificate is none")
	}
	tr := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: s.addr}),
		TLSClientConfig: &tls.Config{RootCAs: roots},
	}
	edit(tr)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (s *setup) get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := s.client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, err.Error()
	}
	return resp.StatusCode, string(b)
}

// fetches are those recorded when all is over, one a line.
func (s *setup) fetches(t *testing.T) string {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	list, more := s.record.Fetches()
	var b strings.Builder
	for _, f := range list {
		fmt.Fprintln(&b, strings.Join(strings.Fields(fmt.Sprint(f.Method, " ", f.URL, " ", f.Status, " ", f.Redirect, " ", f.Digest, " ", f.Reason)), " "))
	}
	if more > 0 {
		fmt.Fprintln(&b, "and", more)
	}
	out := strings.ReplaceAll(b.String(), s.plain.URL, "PLAIN")
	return strings.ReplaceAll(out, s.over.URL, "OVER")
}

func sum(s string) string { return digest.FromString(s).String() }

func TestRequestsAreRecorded(t *testing.T) {
	s := start(t, nil)
	for _, base := range []string{s.plain.URL, s.over.URL} {
		if code, text := s.get(t, base+"/moved"); code != 200 || text != "content of x" {
			t.Errorf("%s: %d %s", base, code, text)
		}
		if code, _ := s.get(t, base+"/none"); code != 404 {
			t.Errorf("%s: %d", base, code)
		}
	}
	u, _ := url.Parse(s.plain.URL)
	u.User = url.UserPassword("me", "secret")
	s.get(t, u.String()+"/file?y")
	s.get(t, s.plain.URL+"/short")
	resp, err := s.client.Post(s.over.URL+"/echo", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(b) != "hello" {
		t.Errorf("the answer to a POST is %q", b)
	}
	want := "GET PLAIN/moved 302 PLAIN/file?x " + sum("<a href=\"/file?x\">Found</a>.\n\n") + "\n" +
		"GET PLAIN/file?x 200 " + sum("content of x") + "\n" +
		"GET PLAIN/none 404 unsuccessful_response\n" +
		"GET OVER/moved 302 OVER/file?x " + sum("<a href=\"/file?x\">Found</a>.\n\n") + "\n" +
		"GET OVER/file?x 200 " + sum("content of x") + "\n" +
		"GET OVER/none 404 unsuccessful_response\n" +
		"GET PLAIN/file?y 200 " + sum("content of y") + "\n" +
		"GET PLAIN/short 200 body_read_failed\n" +
		"POST OVER/echo 200 method_not_materializable\n"
	got := s.fetches(t)
	if got != want {
		t.Errorf("recorded\n%s\nwant\n%s", got, want)
	}
}

func TestHTTP2InTunnels(t *testing.T) {
	s := start(t, nil)
	s.client = s.newClient(t, func(tr *http.Transport) { tr.ForceAttemptHTTP2 = true })
	resp, err := s.client.Get(s.over.URL + "/file?h2")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.ProtoMajor != 2 || string(b) != "content of h2" {
		t.Errorf("%s %q %v", resp.Proto, b, err)
	}
	s.client.CloseIdleConnections()
	if got, want := s.fetches(t), "GET OVER/file?h2 200 "+sum("content of h2")+"\n"; got != want {
		t.Errorf("recorded %s, want %s", got, want)
	}
}

func TestJudge(t *testing.T) {
	var s *setup
	s = start(t, func(_ context.Context, method string, u *url.URL) (*url.URL, error) {
		switch u.Path {
		case "/denied":
			return nil, errors.New("we do not like it")
		case "/old":
			return url.Parse(s.over.URL + "/file?new")
		}
		return u, nil
	})
	for _, base := range []string{s.plain.URL, s.over.URL} {
		if code, text := s.get(t, base+"/denied"); code != 403 || !strings.Contains(text, "we do not like it") {
			t.Errorf("denied: %d %s", code, text)
		}
		if code, text := s.get(t, base+"/old"); code != 200 || text != "content of new" {
			t.Errorf("converted: %d %s", code, text)
		}
	}
	want := strings.ReplaceAll("GET PLAIN/denied 403\nGET OVER/file?new 200 DIGEST\nGET OVER/denied 403\nGET OVER/file?new 200 DIGEST\n", "DIGEST", sum("content of new"))
	if got := s.fetches(t); got != want {
		t.Errorf("recorded\n%s\nwant\n%s", got, want)
	}
}

// raw sends a text to the proxy and returns the first line of the answer.
func raw(t *testing.T, s *setup, text string) string {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, text)
	b, _ := io.ReadAll(io.LimitReader(c, 100))
	line, _, _ := strings.Cut(string(b), "\r\n")
	return line
}

func TestBadRequests(t *testing.T) {
	s := start(t, nil)
	for _, c := range []struct{ text, want string }{
		{"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"GET ftp://example.org/ HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n", "HTTP/1.1 501 Not Implemented"},
		{"GET http://example.org/" + strings.Repeat("x", 5000) + " HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n", "HTTP/1.1 414 Request URI Too Long"},
		{"CONNECT :443 HTTP/1.1\r\nHost: :443\r\nConnection: close\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"CONNECT example.org:22 HTTP/1.1\r\nHost: example.org:22\r\n\r\nSSH-2.0-OpenSSH\r\n", "HTTP/1.1 200 Connection Established"},
		{"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n", "HTTP/1.1 502 Bad Gateway"},
	} {
		if got := raw(t, s, c.text); got != c.want {
			t.Errorf("%.60q: %s, want %s", c.text, got, c.want)
		}
	}
	// A tunnel to one host is not for others.
	s.client = s.newClient(t, func(*http.Transport) {})
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.over.URL+"/file", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "elsewhere.example"
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another host: %s", resp.Status)
	}
	// One who does not trust the proxy gets nothing.
	s.client = s.newClient(t, func(tr *http.Transport) { tr.TLSClientConfig = nil })
	if _, err := s.client.Get(s.over.URL + "/file"); err == nil {
		t.Error("a client that trusts nobody was answered")
	}
	want := "CONNECT https://example.org:22 0 tls_failed\nGET http://127.0.0.1:1/ 502 upstream_error\nCONNECT OVER 0 tls_failed\n"
	if got := s.fetches(t); got != want {
		t.Errorf("recorded\n%s\nwant\n%s", got, want)
	}
}

// TestCloseEndsWhatRuns has a request wait for a server that never answers.
func TestCloseEndsWhatRuns(t *testing.T) {
	s := start(t, nil)
	asked, answer := make(chan struct{}), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-answer
	}))
	defer slow.Close()
	defer close(answer)
	done := make(chan error, 1)
	go func() {
		resp, err := s.client.Get(slow.URL)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	<-asked
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-done
	if list, _ := s.record.Fetches(); len(list) != 1 || list[0].Reason != proxy.ReasonUpstream {
		t.Errorf("recorded %v", list)
	}
}
