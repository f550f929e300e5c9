package gha_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cache/remote/gha"
	"github.com/dbuild/dbuild/cache/remote/objectstest"
	"github.com/dbuild/dbuild/exporter"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func start(t *testing.T) *objectstest.Server {
	s := objectstest.NewGHA()
	t.Cleanup(s.Close)
	return s
}

// open opens a cache with a version of the protocol; over is KEY=VALUE.
func open(t *testing.T, s *objectstest.Server, version string, over ...string) *gha.Cache {
	t.Helper()
	attrs := map[string]string{"token": objectstest.Token(), "url": s.URL + "/", "url_v2": s.URL, "version": version}
	for _, o := range over {
		k, v, _ := strings.Cut(o, "=")
		attrs[k] = v
	}
	c, err := gha.New(exporter.NewAttrs("gha cache", attrs))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t *testing.T, c *gha.Cache, data []byte) (d ocispec.Descriptor, err error, opened bool) {
	t.Helper()
	d = ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	err = c.Put(t.Context(), d, func(context.Context) (io.ReadCloser, error) {
		opened = true
		return io.NopCloser(bytes.NewReader(data)), nil
	})
	return d, err, opened
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// TestBlobs writes blobs of one chunk and of several, and reads them from anywhere.
func TestBlobs(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		s := start(t)
		c := open(t, s, version)
		missing := digest.FromString("missing")
		if ok, err := c.Has(t.Context(), missing); ok || err != nil {
			t.Error(ok, err)
		}
		if _, err := c.Open(t.Context(), missing, 0); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
		for _, size := range []int{1, 3 << 20, 33 << 20} {
			data := random(size)
			d, err, opened := put(t, c, data)
			if err != nil || !opened {
				t.Fatal(version, size, err)
			}
			for _, at := range []int{0, size / 2} {
				rc, err := c.Open(t.Context(), d.Digest, int64(at))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(rc)
				rc.Close()
				if err != nil || !bytes.Equal(got, data[at:]) {
					t.Errorf("v%s: %d bytes from %d on: %d come back: %v", version, size, at, len(got), err)
				}
			}
			if _, err, again := put(t, c, data); err != nil || again {
				t.Errorf("v%s: %d bytes: written again: %v, %v", version, size, again, err)
			}
			if keys := strings.Join(s.Keys(), " "); !strings.Contains(keys, "buildkit-blob-1-"+d.Digest.String()) {
				t.Error(keys)
			}
		}
	}
}

// TestUnreadable reserves nothing for a blob that cannot be read to its end.
func TestUnreadable(t *testing.T) {
	s := start(t)
	broken := errors.New("broken")
	err := open(t, s, "2").Put(t.Context(), ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}, func(context.Context) (io.ReadCloser, error) {
		return nil, broken
	})
	if !errors.Is(err, broken) || s.Count("CreateCacheEntry") > 0 {
		t.Error(err, s.Log())
	}
}

// TestConfigs counts up, and reads those of all branches that the token may read.
func TestConfigs(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		s := start(t)
		ctx := t.Context()
		c := open(t, s, version, "scope=mine")
		if all, err := c.Configs(ctx, 10); len(all) != 0 || err != nil {
			t.Error(all, err)
		}
		for _, data := range []string{"{1}", "{2}"} {
			if err := c.PutConfig(ctx, []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		main := open(t, s, version, "scope=mine", "token="+objectstest.TokenFor(`[{"Scope":"refs/heads/main","Permission":3}]`))
		if err := main.PutConfig(ctx, []byte("{m}")); err != nil {
			t.Fatal(err)
		}
		all, err := c.Configs(ctx, 3)
		if err != nil || len(all) != 2 || string(all[0]) != "{m}" || string(all[1]) != "{2}" {
			t.Errorf("v%s: %q %v of %v", version, all, err, s.Keys())
		}
		if _, err := c.Configs(ctx, 2); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
		if all, err := open(t, s, version).Configs(ctx, 3); len(all) != 0 || err != nil {
			t.Error("another scope:", all, err)
		}
		reader := open(t, s, version, "token="+objectstest.TokenFor(`[{"Scope":"refs/heads/main","Permission":1}]`))
		if err := reader.PutConfig(ctx, []byte("{}")); err == nil || !strings.Contains(err.Error(), "the token may only read") {
			t.Error(err)
		}
	}
}

// TestFaults survives what may pass, says what does not, and repeats no secrets.
func TestFaults(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	c := open(t, s, "1")
	data := random(1000)
	d, err, _ := put(t, c, data)
	if err != nil {
		t.Fatal(err)
	}
	s.Fail("GET .*/cache", 2, 502, "")
	s.Fail("GET /blobs", 1, 503, "Retry-After: 0")
	rc, err := c.Open(ctx, d.Digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(rc)
	rc.Close()
	if err != nil || !bytes.Equal(got, data) {
		t.Error("after faults:", err)
	}
	s.Fail("GET .*/cache", 1, 429, "Retry-After: 1")
	if ok, err := c.Has(ctx, d.Digest); !ok || err != nil {
		t.Error("after a 429:", err)
	}

	secret := func(err error) bool {
		return strings.Contains(err.Error(), objectstest.Secret) || strings.Contains(err.Error(), "eyJ") || strings.Contains(err.Error(), "http")
	}
	s.Fail("GET /blobs", 1, 400, "")
	if rc, err = c.Open(ctx, d.Digest, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(rc); err == nil || secret(err) || !strings.HasPrefix(err.Error(), "gha cache with scope buildkit: ") {
		t.Error(err)
	}
	rc.Close()
	s.Fail("CreateCacheEntry", 1, 503, "")
	s.Forget()
	if _, err, _ := put(t, open(t, s, "2"), random(10)); !errdefs.IsUnavailable(err) || secret(err) || s.Count("CreateCacheEntry") != 1 {
		t.Error("a reservation that may have happened is not tried again:", err)
	}
	for over, want := range map[string]string{
		"token=" + objectstest.ExpiredToken(): "cache token expired",
		"token=secret":                        "the token is not good",
		"token=" + objectstest.Token()[:len(objectstest.Token())-4] + "AAAA": "denies access",
		"url=http://127.0.0.1:1": "dial tcp 127.0.0.1:1",
	} {
		_, err := open(t, s, "1", over).Configs(ctx, 10)
		if err == nil || !strings.Contains(err.Error(), want) || secret(err) || strings.Contains(err.Error(), "=secret") {
			t.Errorf("%s: %v", over, err)
		}
	}
}

// TestOptions refuses what makes no sense before anything is sent.
func TestOptions(t *testing.T) {
	for attrs, want := range map[string]string{
		"url=u":                      "there is no token",
		"token=t":                    "there is no address",
		"token=t version=1 url_v2=u": "there is no address",
		"token=t url=u version=x":    `version is 1 or 2, not "x"`,
		"token=t url=u timeout=x":    "timeout=x is no duration",
	} {
		m := map[string]string{}
		for kv := range strings.FieldsSeq(attrs) {
			k, v, _ := strings.Cut(kv, "=")
			m[k] = v
		}
		if _, err := gha.New(exporter.NewAttrs("gha cache", m)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", attrs, err)
		}
	}
}
