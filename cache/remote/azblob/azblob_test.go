package azblob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cache/remote/azblob"
	"github.com/dbuild/dbuild/cache/remote/objectstest"
	"github.com/dbuild/dbuild/exporter"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func open(t *testing.T, s *objectstest.Server, over ...string) *azblob.Container {
	t.Helper()
	attrs := map[string]string{
		"account_url": s.URL + "/" + objectstest.Account, "account_name": objectstest.Account, "secret_access_key": objectstest.Secret,
	}
	for _, o := range over {
		k, v, _ := strings.Cut(o, "=")
		attrs[k] = v
	}
	c, err := azblob.New(exporter.NewAttrs("azblob cache", attrs))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func start(t *testing.T) *objectstest.Server {
	s := objectstest.NewAzure()
	t.Cleanup(s.Close)
	return s
}

func put(t *testing.T, c *azblob.Container, data []byte) (d ocispec.Descriptor, err error, opened bool) {
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

// TestBlobs makes the container, writes blobs of one block and of several, and reads them
// from anywhere.
func TestBlobs(t *testing.T) {
	s := start(t)
	c := open(t, s, "prefix=team")
	if ok, err := c.Has(t.Context(), digest.FromString("missing")); ok || err != nil {
		t.Error(ok, err)
	}
	for _, size := range []int{1, 8 << 20, 20<<20 + 3} {
		data := random(size)
		d, err, opened := put(t, c, data)
		if err != nil || !opened {
			t.Fatal(size, err)
		}
		for _, at := range []int{0, size / 2} {
			rc, err := c.Open(t.Context(), d.Digest, int64(at))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(rc)
			rc.Close()
			if err != nil || !bytes.Equal(got, data[at:]) {
				t.Errorf("%d bytes from %d on: something else comes back: %v", size, at, err)
			}
		}
		if _, err, again := put(t, c, data); err != nil || again {
			t.Errorf("%d bytes: written again: %v, %v", size, again, err)
		}
		if ok, err := c.Has(t.Context(), d.Digest); !ok || err != nil {
			t.Error(ok, err)
		}
		if keys := strings.Join(s.Keys(), " "); !strings.Contains(keys, "buildkit-cache/team/blobs/"+d.Digest.String()) {
			t.Error(keys)
		}
	}
	if _, err := c.Open(t.Context(), digest.FromString("missing"), 0); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

// TestUnreadable leaves nothing of a blob that cannot be read to its end.
func TestUnreadable(t *testing.T) {
	s := start(t)
	for _, size := range []int{1 << 10, 20 << 20} {
		data := random(size)
		err := open(t, s).Put(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(size)}, func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(data[:size-10]), broken{})), nil
		})
		if keys := strings.Join(s.Keys(), " "); err == nil || keys != "buildkit-cache" {
			t.Errorf("%d bytes: %v, there are %s", size, err, keys)
		}
	}
}

// TestConfigs stores a config under each name and finds those that are there.
func TestConfigs(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	if all, err := open(t, s).Configs(ctx, 10); len(all) != 0 || err != nil {
		t.Error(all, err)
	}
	c := open(t, s, "name=main;sha", "container=c", "manifests_prefix=m")
	if _, err, _ := put(t, c, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := c.PutConfig(ctx, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if keys := strings.Join(s.Keys(), " "); !strings.HasSuffix(keys, " c/m/main c/m/sha") {
		t.Error(keys)
	}
	all, err := open(t, s, "name=none;sha", "container=c", "manifests_prefix=m").Configs(ctx, 2)
	if err != nil || len(all) != 1 || string(all[0]) != "{}" {
		t.Error(all, err)
	}
	if _, err := c.Configs(ctx, 1); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// TestFaults survives what may pass, and says what does not.
func TestFaults(t *testing.T) {
	s := start(t)
	c := open(t, s)
	data := random(1000)
	d, err, _ := put(t, c, data)
	if err != nil {
		t.Fatal(err)
	}
	s.Fail("HEAD", 1, 503, "Retry-After: 1")
	if ok, err := c.Has(t.Context(), d.Digest); !ok || err != nil {
		t.Error("after a 503:", err)
	}
	s.Fail("PUT", 1, 500, "")
	if _, err, _ := put(t, c, random(2000)); err != nil {
		t.Error("after a 500:", err)
	}
	s.Fail("GET", 1, 409, "")
	if _, err := c.Configs(t.Context(), 10); err == nil || !strings.HasPrefix(err.Error(), "azblob container buildkit-cache at 127.0.0.1") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	for _, over := range []string{"secret_access_key=d3Jvbmc=", "account_name=other"} {
		_, err := open(t, s, over).Configs(t.Context(), 10)
		if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "denies access; check account_name and secret_access_key") || strings.Contains(err.Error(), "d3Jvbmc=") {
			t.Errorf("%s: %v", over, err)
		}
	}
}

// TestOptions refuses what makes no sense before anything is sent, and repeats no secrets.
func TestOptions(t *testing.T) {
	for _, c := range []struct {
		url, key, want string
	}{
		{"", "", "no account is named"},
		{"blob?sig=secret", "", "account_url is not a URL"},
		{"https://a.example.com", "secret", "secret_access_key is not the key of an account"},
	} {
		attrs := map[string]string{"secret_access_key": c.key}
		if c.url != "" {
			attrs["account_url"] = c.url
		}
		if _, err := azblob.New(exporter.NewAttrs("azblob cache", attrs)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "=secret") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	t.Setenv("BUILDKIT_AZURE_STORAGE_ACCOUNT_URL", "https://mine.example.com")
	t.Setenv("BUILDKIT_AZURE_STORAGE_CONTAINER", "box")
	c, err := azblob.New(exporter.NewAttrs("azblob cache", map[string]string{"secret_access_key": objectstest.Secret}))
	if err != nil || c.String() != "azblob container box at mine.example.com" {
		t.Error(c, err)
	}
}
