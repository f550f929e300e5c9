package azblob_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cache/remote/azblob"
	"github.com/dbuild/dbuild/cache/remote/objectstest"
	"github.com/dbuild/dbuild/exporter"
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

// TestBlobs makes the container, and writes blobs of one block and of several.
func TestBlobs(t *testing.T) {
	s := start(t)
	objectstest.Blobs(t, open(t, s, "prefix=team"), 1, 8<<20, 20<<20+3)
	for _, k := range s.Keys() {
		if k != "buildkit-cache" && !strings.HasPrefix(k, "buildkit-cache/team/blobs/sha256:") {
			t.Error(k)
		}
	}
}

// TestUnreadable leaves nothing of a blob that cannot be read to its end.
func TestUnreadable(t *testing.T) {
	s := start(t)
	for _, size := range []int{1 << 10, 20 << 20} {
		objectstest.Unreadable(t, open(t, s), size)
	}
	if keys := strings.Join(s.Keys(), " "); keys != "buildkit-cache" {
		t.Errorf("there are %s", keys)
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
	if _, err := objectstest.Put(t, c, []byte("x")); err != nil {
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
	data := objectstest.Random(1000)
	d := objectstest.Describe(data)
	if _, err := objectstest.Put(t, c, data); err != nil {
		t.Fatal(err)
	}
	s.Fail("HEAD", 1, 503, "Retry-After: 1")
	if ok, err := c.Has(t.Context(), d.Digest); !ok || err != nil {
		t.Error("after a 503:", err)
	}
	s.Fail("PUT", 1, 500, "")
	if _, err := objectstest.Put(t, c, objectstest.Random(2000)); err != nil {
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
