package registry_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
)

// A blob that no registry has is read from the addresses that its image names, resumed
// there if the connection breaks, and without anybody's credentials.
func TestURLs(t *testing.T) {
	t.Parallel()
	addr, _ := rt.Start(t)
	blob := random(1 << 20)
	var asked []string
	cut := true
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Range"))
		if r.Header.Get("Authorization") != "" {
			t.Error("somebody's credentials were shown")
		}
		if cut {
			cut = false
			w.Header().Set("Content-Length", "1048576")
			w.Write(blob[:300<<10])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob))
	}))
	defer far.Close()
	c := registry.New(registry.Config{Backoff: time.Millisecond}, nil)
	desc := descOf(blob)
	from := []registry.Location{{Repo: addr + "/base"}}
	desc.URLs = []string{"file:///etc/passwd", far.URL}
	rc, err := c.Open(t.Context(), nil, from, desc)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(rc); err != nil || !bytes.Equal(got.Bytes(), blob) {
		t.Error(got.Len(), err)
	}
	if len(asked) != 2 || !strings.HasPrefix(asked[1], "bytes=") {
		t.Errorf("asked %q", asked)
	}

	// The registry comes first.
	rt.PutBlob(t, addr, "base", blob)
	rc, err = c.Open(t.Context(), nil, from, desc)
	if err != nil {
		t.Fatal(err)
	}
	rc.Close()
	desc.URLs = desc.URLs[:1]
	if len(asked) != 2 {
		t.Errorf("asked %q", asked)
	}
	if _, err := c.Open(t.Context(), nil, nil, desc); err == nil || !strings.Contains(err.Error(), "no registry is known to hold it") {
		t.Error(err)
	}
}
