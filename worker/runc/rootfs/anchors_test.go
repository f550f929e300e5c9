package rootfs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestAnchorsAreFollowed has a step do what Debian's update-ca-certificates does: write the
// bundle anew, from the certificates and the anchors, and link to these.
func TestAnchorsAreFollowed(t *testing.T) {
	for _, withBundle := range []bool{true, false} {
		root, old := trustRoot(t, "own\n")
		dir := filepath.Join(root, "usr/local/share/ca-certificates")
		certs := filepath.Join(root, "etc/ssl/certs")
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		check(os.MkdirAll(dir, 0o755))
		check(os.Symlink("elsewhere.pem", filepath.Join(certs, "1234.0")))
		if !withBundle {
			check(os.Remove(filepath.Join(root, testBundle)))
		}
		for _, d := range []string{dir, certs} {
			check(os.Chtimes(d, old, old))
		}
		trust, err := AddTrust(root, []byte(testPEM))
		check(err)
		anchor, err := os.ReadFile(filepath.Join(dir, anchorName))
		check(err)
		put(t, root, "own\n"+string(anchor)+"more\n")
		check(os.Symlink("/usr/local/share/ca-certificates/"+anchorName, filepath.Join(certs, "dbuild-proxy.pem")))
		check(os.Symlink("dbuild-proxy.pem", filepath.Join(certs, "0000.0")))
		check(os.Chtimes(certs, old, old))
		check(trust.Remove())

		if got, _ := bundleOf(t, root); got != "own\nmore\n" {
			t.Errorf("the bundle is %q", got)
		}
		for d, want := range map[string][]string{dir: nil, certs: {"1234.0", "ca-certificates.crt"}} {
			entries, err := os.ReadDir(d)
			check(err)
			var got []string
			for _, e := range entries {
				got = append(got, e.Name())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s has %q, want %q", d, got, want)
			}
			if info, err := os.Stat(d); err != nil || !info.ModTime().Equal(old) {
				t.Errorf("%s is of %v, want %v", d, info.ModTime(), old)
			}
		}
	}
}

func TestAnchorsOfOthersStay(t *testing.T) {
	root, _ := trustRoot(t, "own\n")
	dir := filepath.Join(root, "usr/local/share/ca-certificates")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, anchorName), []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	trust, err := AddTrust(root, []byte(testPEM))
	if err != nil {
		t.Fatal(err)
	}
	later := time.Unix(2_000_000_000, 0)
	if err := os.Chtimes(dir, later, later); err != nil {
		t.Fatal(err)
	}
	if err := trust.Remove(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, anchorName)); err != nil || string(b) != "theirs" {
		t.Errorf("%q %v", b, err)
	}
	if info, err := os.Stat(dir); err != nil || !info.ModTime().Equal(later) {
		t.Errorf("the directory's time was changed: %v %v", info.ModTime(), err)
	}
}
