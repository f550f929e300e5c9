package registry_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	digest "github.com/opencontainers/go-digest"
)

// static is a registry of one blob.
func static(blob []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+digest.FromBytes(blob).String()) {
			w.Write(blob)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
}

func TestSchemes(t *testing.T) {
	blob := random(100)
	plain, secure := httptest.NewServer(static(blob)), httptest.NewTLSServer(static(blob))
	defer plain.Close()
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	port := func(s *httptest.Server) string { return s.URL[strings.LastIndex(s.URL, ":"):] }
	// A name that is not loopback by its looks: "0.0.0.0" leads here all the same.
	for _, tc := range []struct {
		name, addr string
		host       registry.Host
		ok         bool
	}{
		{"this machine, plain", "127.0.0.1" + port(plain), registry.Host{}, true},
		{"this machine, any certificate", "127.0.0.1" + port(secure), registry.Host{}, true},
		{"this machine by name", "localhost" + port(plain), registry.Host{}, true},
		{"another, plain", "0.0.0.0" + port(plain), registry.Host{}, false},
		{"another, unknown certificate", "0.0.0.0" + port(secure), registry.Host{}, false},
		{"told that it is plain", "0.0.0.0" + port(plain), registry.Host{HTTP: true}, true},
		{"insecure, plain", "0.0.0.0" + port(plain), registry.Host{Insecure: true}, true},
		{"insecure, unknown certificate", "0.0.0.0" + port(secure), registry.Host{Insecure: true}, true},
		{"wrong authority file", "0.0.0.0" + port(secure), registry.Host{CA: []string{"/nonexistent"}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := registry.New(registry.Config{Backoff: time.Millisecond, Hosts: map[string]registry.Host{tc.addr: tc.host}}, nil)
			for range 2 {
				rc, err := c.Open(t.Context(), nil, []registry.Location{{Repo: tc.addr + "/app"}}, descOf(blob))
				if (err == nil) != tc.ok {
					t.Fatalf("got %v", err)
				}
				if err != nil {
					if !strings.Contains(err.Error(), tc.addr) {
						t.Errorf("%q does not name the registry", err)
					}
					continue
				}
				rc.Close()
			}
		})
	}
}
