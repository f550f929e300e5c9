package s3

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/dbuild/dbuild/cache/remote/objectstest"
	"github.com/dbuild/dbuild/exporter"
	digest "github.com/opencontainers/go-digest"
)

// TestTouchParts copies what is larger than S3 copies at once.
func TestTouchParts(t *testing.T) {
	s := objectstest.NewS3()
	defer s.Close()
	b, err := New(exporter.NewAttrs("s3 cache", map[string]string{
		"bucket": objectstest.Bucket, "region": objectstest.Region, "endpoint_url": s.URL, "use_path_style": "true",
		"access_key_id": objectstest.KeyID, "secret_access_key": objectstest.Secret,
	}))
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("0123456789")
	d := digest.FromBytes(data)
	for _, limit := range []int64{3, 5, 9} {
		if err := b.upload(t.Context(), b.blobKey(d), 10, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		s.Age("", time.Hour)
		if err := b.touch(t.Context(), b.blobKey(d), 10, limit); err != nil {
			t.Fatal(err)
		}
		rc, err := b.Open(t.Context(), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(rc)
		rc.Close()
		if !bytes.Equal(got, data) || time.Since(s.Times()[b.blobKey(d)]) > time.Minute || s.Unfinished() > 0 {
			t.Errorf("by %d bytes: %q of %v", limit, got, s.Times())
		}
	}
	s.Fail("partNumber=2", 1, 403, "")
	if err := b.touch(t.Context(), b.blobKey(d), 10, 5); err == nil || s.Unfinished() > 0 {
		t.Errorf("%v, %d uploads are left", err, s.Unfinished())
	}
}
