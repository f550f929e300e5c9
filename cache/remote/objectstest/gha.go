package objectstest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Token is what a workflow on a branch has: it reads that and the main branch, and writes
// the first.
func Token() string {
	return token(`[{"Scope":"refs/heads/main","Permission":1},{"Scope":"refs/heads/branch","Permission":3}]`, time.Now().Add(time.Hour))
}

// TokenFor has a list of scopes in the service's words.
func TokenFor(scopes string) string { return token(scopes, time.Now().Add(time.Hour)) }

// ExpiredToken was good yesterday.
func ExpiredToken() string {
	return token(`[{"Scope":"refs/heads/main","Permission":3}]`, time.Now().Add(-24*time.Hour))
}

func token(scopes string, until time.Time) string {
	part := func(v any) string {
		b, _ := json.Marshal(v) // of strings and numbers
		return base64.RawURLEncoding.EncodeToString(b)
	}
	claims := map[string]any{"ac": scopes, "nbf": time.Now().Add(-48 * time.Hour).Unix(), "exp": until.Unix()}
	return part(map[string]string{"alg": "none", "typ": "JWT"}) + "." + part(claims) + "." + base64.RawURLEncoding.EncodeToString([]byte(Secret))
}

// NewGHA serves both versions of the cache service of GitHub Actions. The keys of objects are
// the service's.
func NewGHA() *Server { return newServer((*Server).gha) }

const (
	twirp = "/twirp/github.actions.results.api.v1.CacheService/"
	rest  = "/_apis/artifactcache/"
	blobs = "/blobs/" // with a signature in the query
)

func (s *Server) gha(w http.ResponseWriter, r *http.Request) {
	if key, ok := strings.CutPrefix(r.URL.Path, blobs); ok {
		if r.URL.Query().Get("sig") != Secret {
			azureError(w, http.StatusForbidden, "AuthenticationFailed")
			return
		}
		s.azureBlob(w, r, key)
		return
	}
	if t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !ok || !strings.HasSuffix(t, base64.RawURLEncoding.EncodeToString([]byte(Secret))) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"message":"bad credentials"}`)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var in struct {
		Key         string
		RestoreKeys []string `json:"restore_keys"`
		Size        int
		SizeBytes   int `json:"size_bytes"`
	}
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/octet-stream") && len(body) > 0 && json.Unmarshal(body, &in) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if call, ok := strings.CutPrefix(r.URL.Path, twirp); ok {
		s.gha2(w, call, in.Key, in.SizeBytes)
		return
	}
	call, _ := strings.CutPrefix(r.URL.Path, rest)
	s.gha1(w, r, call, in.Key, in.Size, body)
}

// gha2 has blobs written to an address, where they wait under another key until they are
// finalized.
func (s *Server) gha2(w http.ResponseWriter, call, key string, size int) {
	answer := map[string]any{"ok": true}
	switch call {
	case "CreateCacheEntry":
		if !s.reserve(key) {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"code":"already_exists","msg":"taken"}`)
			return
		}
		answer["signed_upload_url"] = s.URL + blobs + waiting + escape(key) + "?sig=" + Secret
	case "FinalizeCacheEntryUpload":
		o, ok := s.object(waiting + key)
		if !ok || len(o.data) != size {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.Lose("^" + waiting + key + "$")
		s.store(key, o.data)
		answer["entry_id"] = "1"
	case "GetCacheEntryDownloadURL":
		found := s.newest(key)
		answer["ok"] = found != ""
		if found != "" {
			answer["signed_download_url"] = s.URL + blobs + escape(found) + "?sig=" + Secret
			answer["matched_key"] = found
		}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Server) gha1(w http.ResponseWriter, r *http.Request, call, key string, size int, body []byte) {
	id, is := strings.CutPrefix(call, "caches/")
	switch {
	case call == "cache":
		found := s.newest(r.URL.Query().Get("keys"))
		if found == "" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"cacheKey": found, "archiveLocation": s.URL + blobs + escape(found) + "?sig=" + Secret})
	case call == "caches":
		if !s.reserve(key) {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"message":"Cache already exists","typeKey":"ArtifactCacheItemAlreadyExistsException"}`)
			return
		}
		n := s.begin()
		s.mu.Lock()
		s.names[n] = key
		s.mu.Unlock()
		fmt.Fprintf(w, `{"cacheId":%s}`, n)
	case is && r.Method == http.MethodPatch:
		var first int
		if _, err := fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-", &first); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.part(id, fmt.Sprintf("%020d", first), body)
	case is:
		s.mu.Lock()
		key := s.names[id]
		var names []string
		for n := range s.parts[id] {
			names = append(names, n)
		}
		s.mu.Unlock()
		slices.Sort(names)
		if err := s.complete(id, key, names); err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
	}
}

const waiting = "waiting-"

// reserve reports whether a key was free. It is taken then, whatever becomes of it.
func (s *Server) reserve(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[key] {
		return false
	}
	s.taken[key] = true
	return true
}

// Take reserves a key without ever finishing.
func (s *Server) Take(key string) { s.reserve(key) }

// newest returns the key, or of those that begin with it the one that was written last.
func (s *Server) newest(key string) (found string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[key]; ok {
		return key
	}
	for k, o := range s.objects {
		if strings.HasPrefix(k, key) && (found == "" || o.at.After(s.objects[found].at)) {
			found = k
		}
	}
	return found
}

func escape(key string) string { return strings.ReplaceAll(key, "#", "%23") }
