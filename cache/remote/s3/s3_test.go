package s3_test

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cache/remote/objectstest"
	"github.com/dbuild/dbuild/cache/remote/s3"
	"github.com/dbuild/dbuild/exporter"
)

func start(t *testing.T) *objectstest.Server {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	s := objectstest.NewS3()
	t.Cleanup(s.Close)
	return s
}

// bucket opens a bucket; over is KEY=VALUE, and - leaves a key out.
func bucket(t *testing.T, s *objectstest.Server, over ...string) *s3.Bucket {
	t.Helper()
	attrs := map[string]string{
		"bucket": objectstest.Bucket, "region": objectstest.Region, "endpoint_url": s.URL, "use_path_style": "true",
		"access_key_id": objectstest.KeyID, "secret_access_key": objectstest.Secret,
	}
	for _, o := range over {
		k, v, _ := strings.Cut(o, "=")
		attrs[k] = v
		if v == "-" {
			delete(attrs, k)
		}
	}
	b, err := s3.New(exporter.NewAttrs("s3 cache", attrs))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBlobs writes small ones and such as have several parts.
func TestBlobs(t *testing.T) {
	s := start(t)
	objectstest.Blobs(t, bucket(t, s, "prefix=team/"), 0, 1, 8<<20, 20<<20+3)
	for _, k := range s.Keys() {
		if !strings.HasPrefix(k, "team/blobs/sha256:") {
			t.Error(k)
		}
	}
}

// TestUnreadable leaves nothing of a blob that cannot be read to its end.
func TestUnreadable(t *testing.T) {
	s := start(t)
	for _, size := range []int{1 << 10, 20 << 20} {
		objectstest.Unreadable(t, bucket(t, s), size)
	}
	if len(s.Keys()) > 0 || s.Unfinished() > 0 {
		t.Errorf("there are %v and %d uploads", s.Keys(), s.Unfinished())
	}
}

// TestTouch makes blobs young that are needed and would grow too old.
func TestTouch(t *testing.T) {
	s := start(t)
	data := objectstest.Random(100)
	if _, err := objectstest.Put(t, bucket(t, s), data); err != nil {
		t.Fatal(err)
	}
	s.Age("", 2*time.Hour)
	old := s.Times()
	for _, c := range []struct {
		refresh string
		touched bool
	}{{"", false}, {"nonsense", false}, {"3h", false}, {"1h", true}} {
		b := bucket(t, s, "touch_refresh="+c.refresh)
		if written, err := objectstest.Put(t, b, data); err != nil || written {
			t.Fatal(err, written)
		}
		if touched := !maps.Equal(s.Times(), old); touched != c.touched {
			t.Errorf("touch_refresh=%s: touched: %v", c.refresh, touched)
		}
	}
	if got, err := objectstest.Read(t, bucket(t, s), objectstest.Describe(data).Digest, 0); !bytes.Equal(got, data) {
		t.Error("what was touched is something else now:", err)
	}
}

// TestConfigs stores a config under each name and finds those that are there.
func TestConfigs(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	if all, err := bucket(t, s).Configs(ctx, 10); len(all) != 0 || err != nil {
		t.Error(all, err)
	}
	if err := bucket(t, s, "name=main;sha", "manifests_prefix=m-").PutConfig(ctx, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if keys := strings.Join(s.Keys(), " "); keys != "m-main m-sha" {
		t.Error(keys)
	}
	all, err := bucket(t, s, "name=none;sha", "manifests_prefix=m-").Configs(ctx, 2)
	if err != nil || len(all) != 1 || string(all[0]) != "{}" {
		t.Error(all, err)
	}
	if _, err := bucket(t, s, "name=sha", "manifests_prefix=m-").Configs(ctx, 1); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// TestFaults survives what may pass, and says what does not.
func TestFaults(t *testing.T) {
	s := start(t)
	data := objectstest.Random(1000)
	b, d := bucket(t, s), objectstest.Describe(data)
	if _, err := objectstest.Put(t, b, data); err != nil {
		t.Fatal(err)
	}
	s.Fail("GET", 1, 503, "")
	if got, err := objectstest.Read(t, b, d.Digest, 0); !bytes.Equal(got, data) {
		t.Error("after a 503:", err)
	}
	s.Fail("PUT", 1, 500, "")
	if _, err := objectstest.Put(t, b, objectstest.Random(2000)); err != nil {
		t.Error("after a 500:", err)
	}
	for _, c := range []struct{ over, want string }{
		{"secret_access_key=d3Jvbmc=", "s3 bucket caches denies access; check access_key_id and secret_access_key"},
		{"region=us-east-1", "denies access"},
		{"bucket=other", "s3 bucket other does not exist; make it"},
		{"access_key_id=-", "s3 bucket caches: there are no credentials; give access_key_id"},
		{"endpoint_url=http://127.0.0.1:1", "s3 bucket caches: dial tcp 127.0.0.1:1"},
	} {
		_, err := bucket(t, s, c.over, "retry_max_attempts=1").Configs(t.Context(), 10)
		if err == nil || !strings.HasPrefix(err.Error(), "s3 bucket") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.over, err)
		}
		if err != nil && (strings.Contains(err.Error(), "operation error") || strings.Contains(err.Error(), objectstest.Secret)) {
			t.Errorf("%s: %v", c.over, err)
		}
	}
	s.Fail("HEAD", 1, 503, "")
	if _, err := bucket(t, s, "retry_max_attempts=1").Has(t.Context(), d.Digest); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}

// TestOptions refuses what makes no sense before anything is sent.
func TestOptions(t *testing.T) {
	t.Setenv("AWS_BUCKET", "")
	t.Setenv("AWS_REGION", "")
	for attrs, want := range map[string]string{
		"region=r":                               "no bucket is named",
		"bucket=b":                               "no region is named",
		"bucket=b region=r upload_parallelism=0": "upload_parallelism=0 is not a positive integer",
		"bucket=b region=r retry_max_attempts=x": "retry_max_attempts=x is not",
		"bucket=b region=r retry_mode=never":     `retry_mode is standard or adaptive, not "never"`,
	} {
		m := map[string]string{}
		for kv := range strings.FieldsSeq(attrs) {
			k, v, _ := strings.Cut(kv, "=")
			m[k] = v
		}
		if _, err := s3.New(exporter.NewAttrs("s3 cache", m)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", attrs, err)
		}
	}
	t.Setenv("AWS_BUCKET", "b")
	t.Setenv("AWS_REGION", "r")
	if _, err := s3.New(exporter.NewAttrs("s3 cache", nil)); err != nil {
		t.Error(err)
	}
}
