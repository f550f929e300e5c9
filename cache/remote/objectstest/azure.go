package objectstest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Account is the account that the server of NewAzure has, under its URL.
const Account = "account"

// NewAzure serves an account without any container, in the style of paths: URL/Account. Keys
// of objects begin with the container.
func NewAzure() *Server {
	return newServer(func(s *Server, w http.ResponseWriter, r *http.Request) {
		path, ok := strings.CutPrefix(r.URL.Path, "/"+Account+"/")
		if !ok || !sharedKey(r) {
			azureError(w, http.StatusForbidden, "AuthenticationFailed")
			return
		}
		in, key, _ := strings.Cut(path, "/")
		_, there := s.object(in)
		switch {
		case key == "" && r.Method == http.MethodPut && there:
			azureError(w, http.StatusConflict, "ContainerAlreadyExists")
		case key == "" && r.Method == http.MethodPut:
			s.store(in, nil)
			w.WriteHeader(http.StatusCreated)
		case !there:
			azureError(w, http.StatusNotFound, "ContainerNotFound")
		case key != "":
			s.azureBlob(w, r, path)
		}
	})
}

func (s *Server) azureBlob(w http.ResponseWriter, r *http.Request, key string) {
	w.Header().Set("x-ms-request-id", "1")
	o, there := s.object(key)
	if r.Method != http.MethodPut {
		if !there {
			azureError(w, http.StatusNotFound, "BlobNotFound")
			return
		}
		serve(w, r, o)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	q := r.URL.Query()
	if q.Get("comp") == "block" {
		s.part(key, q.Get("blockid"), body)
		w.WriteHeader(http.StatusCreated)
		return
	}
	if there && r.Header.Get("If-None-Match") == "*" {
		azureError(w, http.StatusConflict, "BlobAlreadyExists")
		return
	}
	if q.Get("comp") == "blocklist" {
		var list struct{ Latest []string }
		err := xml.Unmarshal(body, &list)
		if err == nil {
			err = s.complete(key, key, list.Latest)
		}
		if err != nil {
			azureError(w, http.StatusBadRequest, "InvalidBlockList")
			return
		}
	} else {
		s.store(key, body)
	}
	w.WriteHeader(http.StatusCreated)
}

func azureError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("x-ms-error-code", code)
	w.WriteHeader(status)
}

// sharedKey reports whether the holder of the account's key has signed the request.
func sharedKey(r *http.Request) bool {
	key, err := base64.StdEncoding.DecodeString(Secret)
	if err != nil {
		return false
	}
	length := ""
	if r.ContentLength > 0 {
		length = strconv.FormatInt(r.ContentLength, 10)
	}
	h := r.Header
	lines := []string{
		r.Method, h.Get("Content-Encoding"), h.Get("Content-Language"), length, h.Get("Content-MD5"), h.Get("Content-Type"), "",
		h.Get("If-Modified-Since"), h.Get("If-Match"), h.Get("If-None-Match"), h.Get("If-Unmodified-Since"), h.Get("Range"),
	}
	var named []string
	for k, v := range h {
		if k := strings.ToLower(k); strings.HasPrefix(k, "x-ms-") {
			named = append(named, k+":"+strings.Join(v, ","))
		}
	}
	// Hyphens do not count.
	slices.SortFunc(named, func(a, b string) int {
		return strings.Compare(strings.ReplaceAll(a, "-", ""), strings.ReplaceAll(b, "-", ""))
	})
	lines = append(lines, named...)
	resource := "/" + Account + r.URL.EscapedPath()
	q := r.URL.Query()
	var params []string
	for k, v := range q {
		params = append(params, "\n"+strings.ToLower(k)+":"+strings.Join(v, ","))
	}
	slices.Sort(params)
	mac := hmac.New(sha256.New, key)
	fmt.Fprint(mac, strings.Join(append(lines, resource+strings.Join(params, "")), "\n"))
	return h.Get("Authorization") == "SharedKey "+Account+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
