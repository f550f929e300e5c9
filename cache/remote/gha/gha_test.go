package gha_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cache/remote/gha"
	"github.com/dbuild/dbuild/cache/remote/objectstest"
	"github.com/dbuild/dbuild/exporter"
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

// TestBlobs writes blobs of one chunk and of several.
func TestBlobs(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		s := start(t)
		objectstest.Blobs(t, open(t, s, version), 1, 3<<20, 33<<20)
		for _, k := range s.Keys() {
			if !strings.HasPrefix(k, "buildkit-blob-1-sha256:") {
				t.Error(k)
			}
		}
	}
}

// TestUnreadable reserves nothing for a blob that cannot be read to its end.
func TestUnreadable(t *testing.T) {
	s := start(t)
	objectstest.Unreadable(t, open(t, s, "2"), 1<<10)
	if n := s.Count("CreateCacheEntry"); n > 0 {
		t.Errorf("%d keys were reserved", n)
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
	data := objectstest.Random(1000)
	d := objectstest.Describe(data)
	if _, err := objectstest.Put(t, c, data); err != nil {
		t.Fatal(err)
	}
	s.Fail("GET .*/cache", 2, 502, "")
	s.Fail("GET /blobs", 1, 503, "Retry-After: 0")
	got, err := objectstest.Read(t, c, d.Digest, 0)
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
	if _, err := objectstest.Read(t, c, d.Digest, 0); err == nil || secret(err) || !strings.HasPrefix(err.Error(), "gha cache with scope buildkit: ") {
		t.Error(err)
	}
	s.Fail("CreateCacheEntry", 1, 503, "")
	s.Forget()
	if _, err := objectstest.Put(t, open(t, s, "2"), objectstest.Random(10)); !errdefs.IsUnavailable(err) || secret(err) || s.Count("CreateCacheEntry") != 1 {
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
