package snapshot

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLayer unpacks whatever comes, and reads what became of it: nothing may leave the
// directory, and the View must be able to walk all of it.
func FuzzLayer(f *testing.F) {
	for _, e := range [][]string{
		{"a=1", "b/", "b/c=2"},
		{"d->/etc", "d/x=1", "d/.wh.y=", "d/.wh..wh..opq="},
		{"../x=1", "/../y=2", ".wh.a=", "a/"},
		{".wh..wh..opq="},
	} {
		f.Add(makeTar(f, e...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		root := filepath.Join(outer, "root")
		must(t, os.Mkdir(root, 0o755))
		x := &extractor{root: root, opaque: "trusted.overlay.opaque"}
		if _, err := x.apply(t.Context(), bytes.NewReader(data)); err != nil {
			_ = err // refused; what was made until then must be sane, too
		}
		entries, err := os.ReadDir(outer)
		must(t, err)
		if len(entries) != 1 {
			t.Fatalf("outside: %v", entries)
		}
		listing(t, newView("trusted.overlay.", root))
		var buf bytes.Buffer
		must(t, writeTar(t.Context(), &buf, root, "trusted.overlay.opaque", nil))
	})
}
