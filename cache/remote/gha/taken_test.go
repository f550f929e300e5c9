package gha

import (
	"strings"
	"testing"

	"github.com/dbuild/dbuild/cache/remote/objectstest"
	"github.com/dbuild/dbuild/exporter"
)

// TestTaken does not wait for ever for a writer that will not finish.
func TestTaken(t *testing.T) {
	s := objectstest.NewGHA()
	defer s.Close()
	for _, version := range []string{"1", "2"} {
		c, err := New(exporter.NewAttrs("gha cache", map[string]string{"token": objectstest.Token(), "url": s.URL, "version": version, "scope": version}))
		if err != nil {
			t.Fatal(err)
		}
		c.patience = 0
		key := c.indexKey("refs/heads/branch")
		s.Take(key + "1")
		s.Take(key + "2")
		if err := c.PutConfig(t.Context(), []byte("{}")); err != nil {
			t.Error(err)
		}
		if keys := strings.Join(s.Keys(), " "); !strings.HasSuffix(keys, key+"3") {
			t.Error(keys)
		}
	}
}
