package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// A realm gives tokens to one user, whose password is his name. They are said to be good for
// minutes, and are refused as soon as it has expired them.
type realm struct {
	user string

	mu     sync.Mutex
	tokens map[string]bool // that are good
	given  int
	last   *regexp.Regexp // the request after which all expire; nil if none
}

// cmdTokens has a registry want tokens, and logs the user in: tokens REG USER.
func cmdTokens(ts *testscript.TestScript, _ bool, args []string) {
	r := get(ts).registries[args[0]]
	m := &realm{user: args[1], tokens: map[string]bool{}}
	r.realm = m
	r.Break(func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
		if req.URL.Path == "/token" {
			m.give(w, req)
			return true
		}
		if m.good(req) {
			req.Header.Del("Authorization")
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="registry"`, r.addr))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	login(ts, r.addr, args[1])
}

// cmdExpire has all tokens of a registry expire after the next request that matches a
// pattern: expire REG PATTERN; or, negated, checks that there was none.
func cmdExpire(ts *testscript.TestScript, neg bool, args []string) {
	m := get(ts).registries[args[0]].realm
	m.mu.Lock()
	defer m.mu.Unlock()
	if !neg {
		m.last = regexp.MustCompile(args[1])
	} else if m.last != nil {
		ts.Fatalf("nothing has expired: there was no %s", m.last)
	}
}

// cmdLogout takes all logins away.
func cmdLogout(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(os.Remove(filepath.Join(get(ts).home(), ".docker", "config.json")))
}

// login gives the client a user's password for a registry.
func login(ts *testscript.TestScript, addr, user string) {
	dir := filepath.Join(get(ts).home(), ".docker")
	ts.Check(os.MkdirAll(dir, 0o700))
	conf, err := json.Marshal(map[string]any{"auths": map[string]any{addr: map[string]string{"username": user, "password": user}}})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "config.json"), conf, 0o600))
}

func (m *realm) give(w http.ResponseWriter, req *http.Request) {
	name, password, ok := req.BasicAuth()
	if !ok {
		name, password = req.PostFormValue("username"), req.PostFormValue("password")
	}
	if name != m.user || password != m.user {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"details":"incorrect username or password"}`))
		return
	}
	m.mu.Lock()
	m.given++
	token := fmt.Sprint("token-", m.given)
	m.tokens[token] = true
	m.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token": token, "expires_in": 300})
}

func (m *realm) good(req *http.Request) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	ok := m.tokens[strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")]
	if ok && m.last != nil && m.last.MatchString(req.Method+" "+req.URL.RequestURI()) {
		clear(m.tokens)
		m.last = nil
	}
	return ok
}
