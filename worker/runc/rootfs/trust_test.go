package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	testPEM    = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	testBundle = "etc/ssl/certs/ca-certificates.crt"
)

// trustRoot makes a root with a bundle, and a second name of it.
func trustRoot(t *testing.T, content string) (root string, old time.Time) {
	t.Helper()
	root, old = t.TempDir(), time.Unix(1_000_000_000, 7)
	if err := os.MkdirAll(filepath.Join(root, "etc/ssl/certs"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, root, content)
	if err := os.Symlink("/"+testBundle, filepath.Join(root, "etc/ssl/cert.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(root, testBundle), old, old); err != nil {
		t.Fatal(err)
	}
	return root, old
}

func put(t *testing.T, root, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, testBundle), []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
}

func bundleOf(t *testing.T, root string) (string, time.Time) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, testBundle))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(root, testBundle))
	if err != nil {
		t.Fatal(err)
	}
	return string(b), info.ModTime()
}

func TestTrustLeavesNothing(t *testing.T) {
	for _, content := range []string{"", "without a last line feed", "one\ntwo\n"} {
		root, old := trustRoot(t, content)
		trust, err := AddTrust(root, []byte(testPEM))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := bundleOf(t, root); strings.Count(got, testPEM) != 1 || !strings.HasPrefix(got, content) {
			t.Errorf("the bundle is %q", got)
		}
		if string(trust.Bundle()) != content {
			t.Errorf("before it was %q", trust.Bundle())
		}
		if err := trust.Remove(); err != nil {
			t.Fatal(err)
		}
		if got, mtime := bundleOf(t, root); got != content || !mtime.Equal(old) {
			t.Errorf("afterwards %q of %v, want %q of %v", got, mtime, content, old)
		}
	}
}

func TestTrustKeepsWhatStepsDo(t *testing.T) {
	later := time.Unix(2_000_000_000, 0)
	for name, c := range map[string]struct {
		do    func(t *testing.T, root, path string)
		want  string
		mtime time.Time // if not zero
	}{
		"appended": {func(t *testing.T, root, _ string) {
			was, _ := bundleOf(t, root)
			put(t, root, was+"more\n")
		}, "own\nmore\n", time.Time{}},
		"replaced": {func(t *testing.T, root, _ string) { put(t, root, "new\n") }, "new\n", time.Time{}},
		"renamed over": {func(t *testing.T, root, path string) {
			was, _ := bundleOf(t, root)
			if err := os.WriteFile(path+".new", []byte("new\n"+was), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path+".new", later, later); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}, "new\nown\n", later},
		"touched": {func(t *testing.T, _, path string) {
			if err := os.Chtimes(path, later, later); err != nil {
				t.Fatal(err)
			}
		}, "own\n", later},
	} {
		t.Run(name, func(t *testing.T) {
			root, _ := trustRoot(t, "own\n")
			trust, err := AddTrust(root, []byte(testPEM))
			if err != nil {
				t.Fatal(err)
			}
			c.do(t, root, filepath.Join(root, testBundle))
			if err := trust.Remove(); err != nil {
				t.Fatal(err)
			}
			got, mtime := bundleOf(t, root)
			if got != c.want || !c.mtime.IsZero() && !mtime.Equal(c.mtime) {
				t.Errorf("%q of %v, want %q of %v", got, mtime, c.want, c.mtime)
			}
		})
	}
}

// TestTrustIsNotLedAway has a step put something else where the bundle was.
func TestTrustIsNotLedAway(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "file")
	for name, c := range map[string]struct {
		do   func(path string) error
		want string // error
	}{
		"nothing": {os.Remove, ""},
		"pipe":    {func(p string) error { os.Remove(p); return unix.Mkfifo(p, 0o644) }, ""},
		"device":  {func(p string) error { os.Remove(p); return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }, ""},
		"directory": {func(p string) error {
			os.Remove(p)
			return os.Mkdir(p, 0o755)
		}, ""},
		"link": {func(p string) error {
			if err := os.Rename(p, outside); err != nil {
				return err
			}
			return os.Symlink(outside, p)
		}, ""},
		"huge": {func(p string) error { return os.Truncate(p, 11<<20) }, "exceeds 10485760 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			root, _ := trustRoot(t, "own\n")
			trust, err := AddTrust(root, []byte(testPEM))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.do(filepath.Join(root, testBundle)); err != nil {
				t.Fatal(err)
			}
			err = trust.Remove()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if name == "link" {
				if b, err := os.ReadFile(outside); err != nil || !strings.Contains(string(b), testPEM) {
					t.Errorf("a file outside was changed: %q %v", b, err)
				}
			}
		})
	}
}

func TestTrustWithoutBundles(t *testing.T) {
	trust, err := AddTrust(t.TempDir(), []byte(testPEM))
	if err != nil {
		t.Fatal(err)
	}
	if trust.Bundle() != nil {
		t.Errorf("a bundle out of nowhere: %q", trust.Bundle())
	}
	if err := trust.Remove(); err != nil {
		t.Error(err)
	}
}
