package registry_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/internal/registry"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func referrer(t *testing.T, c *registry.Client, repo, note string, subject ocispec.Descriptor) (ocispec.Descriptor, error) {
	t.Helper()
	b := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","artifactType":"text/x",` +
		`"config":{"mediaType":"` + ocispec.MediaTypeEmptyJSON + `","digest":"` + ocispec.DescriptorEmptyJSON.Digest.String() + `","size":2},"layers":[],` +
		`"subject":{"mediaType":"` + subject.MediaType + `","digest":"` + subject.Digest.String() + `","size":1},"annotations":{"note":"` + note + `"}}`)
	empty := registry.Blob{Desc: ocispec.DescriptorEmptyJSON, Open: mem(ocispec.DescriptorEmptyJSON.Data)}
	if err := c.Push(t.Context(), nil, repo, empty); err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "text/x", Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, c.PushReferrer(t.Context(), nil, registry.Target{Ref: repo + ":tag"}, d, b, subject.Digest)
}

// A registry without a list of referrers gets a tag for it, and each referrer is there once.
func TestReferrersByTag(t *testing.T) {
	addr, _ := rt.Start(t)
	image := rt.PutImage(t, addr, "app", "v1", ocispec.Platform{OS: "linux", Architecture: "amd64"}, rt.Files(t, "a", "b"))
	c := quick()
	var want []digest.Digest
	for _, note := range []string{"one", "two", "one"} {
		d, err := referrer(t, c, addr+"/app", note, image)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(want, d.Digest) {
			want = append(want, d.Digest)
		}
	}
	list, err := c.Referrers(t.Context(), nil, addr+"/app:v1", image.Digest)
	if err != nil {
		t.Fatal(err)
	}
	var got []digest.Digest
	for _, d := range list {
		got = append(got, d.Digest)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestReferrersByRegistry(t *testing.T) {
	tagged := ""
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/manifests/sha256-"):
			tagged = r.Method
			w.WriteHeader(http.StatusNotFound)
		case r.Method == http.MethodPut:
			w.Header().Set("OCI-Subject", "sha256:x")
			w.WriteHeader(http.StatusCreated)
		}
	}))
	defer s.Close()
	subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x")}
	if _, err := referrer(t, quick(), strings.TrimPrefix(s.URL, "http://")+"/app", "one", subject); err != nil {
		t.Fatal(err)
	}
	if tagged != "" {
		t.Errorf("%s of a tag that such a registry does not need", tagged)
	}
}

// What somebody else keeps under the tag is not overwritten.
func TestReferrersTagTaken(t *testing.T) {
	addr, _ := rt.Start(t)
	image := rt.PutImage(t, addr, "app", "v1", ocispec.Platform{OS: "linux", Architecture: "amd64"}, rt.Files(t, "a", "b"))
	rt.PutImage(t, addr, "app", "sha256-"+image.Digest.Encoded(), ocispec.Platform{OS: "linux", Architecture: "amd64"}, rt.Files(t, "c", "d"))
	if _, err := referrer(t, quick(), addr+"/app", "one", image); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("got %v", err)
	}
}
