package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// A server gives out the files in a directory and takes note of what is asked of it.
//
//	/NAME         the file NAME; a file NAME.headers has lines to add to the answer's head
//	/to/NAME      is redirected to /NAME
//	/auth/NAME    the same file, for who says what is in the file "authorization"
//	/git/R.git    the repository R, as GitHub serves it
//	/nohead/R.git the same, but HEAD is not allowed
//	/dumb/R.git   the same, as plain files
//	/private/R.git the same as /git, for who says what is in the file "authorization"
type server struct {
	*httptest.Server
	dir string
	git *cgi.Handler

	mu  sync.Mutex
	log bytes.Buffer
}

func newServer(dir string) *server {
	s := &server{dir: dir, git: &cgi.Handler{
		Path: "/usr/lib/git-core/git-http-backend", InheritEnv: []string{"PATH"},
		Env: []string{
			"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
	}}
	s.Server = httptest.NewServer(s)
	return s
}

// ServeHTTP answers a request and writes a line of it: method, path, status and the bytes of
// the body.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &counted{ResponseWriter: w, status: http.StatusOK}
	uri := r.URL.RequestURI()
	s.serve(c, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(&s.log, "%s %s %d %d\n", r.Method, uri, c.status, c.size)
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	kind, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch kind {
	case "auth", "private":
		want, err := os.ReadFile(filepath.Join(s.dir, "authorization"))
		if err != nil || r.Header.Get("Authorization") != strings.TrimSpace(string(want)) {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
	case "to":
		http.Redirect(w, r, "/"+rest, http.StatusFound)
		return
	case "nohead":
		if r.Method == http.MethodHead {
			http.Error(w, "no", http.StatusMethodNotAllowed)
			return
		}
	}
	switch kind {
	case "git", "nohead", "private":
		r.URL.Path = "/" + rest
		s.git.ServeHTTP(w, r)
	case "auth", "dumb":
		s.file(w, r, rest)
	default:
		s.file(w, r, strings.TrimPrefix(r.URL.Path, "/"))
	}
}

func (s *server) file(w http.ResponseWriter, r *http.Request, name string) {
	path := filepath.Join(s.dir, filepath.FromSlash(name))
	if b, err := os.ReadFile(path + ".headers"); err == nil {
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
			w.Header().Set(k, v)
		}
	}
	http.ServeFile(w, r, path)
}

// counted counts what is sent.
type counted struct {
	http.ResponseWriter
	status, size int
}

func (c *counted) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.size += n
	return n, err
}

// cmdServer starts a server of the directory DIR and sets URL to its address: server DIR
func cmdServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || get(ts).server != nil {
		ts.Fatalf("usage: server DIR, once")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	get(ts).server = newServer(dir)
	ts.Setenv("URL", get(ts).server.URL)
	ts.Setenv("URLHOST", strings.TrimPrefix(get(ts).server.URL, "http://"))
}

// cmdRequests writes what was asked of the server since the last call to the file "requests".
func cmdRequests(ts *testscript.TestScript, neg bool, args []string) {
	s := get(ts).server
	if neg || len(args) != 0 || s == nil {
		ts.Fatalf("usage: requests, after server")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ts.Check(os.WriteFile(ts.MkAbs("requests"), s.log.Bytes(), 0o644))
	s.log.Reset()
}

// cmdGit runs git with names and times that do not depend on the machine, and sets NAME to what
// it prints if that is asked for: git [-set NAME] ARG ...
func cmdGit(ts *testscript.TestScript, neg bool, args []string) {
	name, args := option(ts, args, "-set", "")
	cmd := exec.Command("git", args...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_COUNT=2",
		"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "GIT_CONFIG_KEY_1=init.defaultBranch", "GIT_CONFIG_VALUE_1=trunk",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@c",
		"GIT_AUTHOR_DATE=2020-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2020-01-02T03:04:05Z",
	}
	out, err := cmd.CombinedOutput()
	if (err != nil) != neg {
		ts.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	if name != "" {
		line, _ := bufio.NewReader(bytes.NewReader(out)).ReadString('\n')
		ts.Setenv(name, strings.TrimSpace(line))
	}
}
