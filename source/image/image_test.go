package image_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/source/image"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispec.Platform{OS: "linux", Architecture: "arm64"}
	armv7 = ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
)

// putIndex stores an image for each platform, with a file that names it.
func putIndex(t *testing.T, addr, repo, tag string, ps ...ocispec.Platform) ocispec.Descriptor {
	t.Helper()
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, p := range ps {
		idx.Manifests = append(idx.Manifests, rt.PutImage(t, addr, repo, "", p, rt.Files(t, "arch", p.Architecture+p.Variant)))
	}
	return rt.PutManifest(t, addr, repo, tag, idx.MediaType, idx)
}

func newSource(t *testing.T, m *bksession.Manager) (*image.Source, *snapshot.Store) {
	t.Helper()
	c := xt.Client(m)
	s, _ := xt.Store(t, c)
	return image.New(image.Config{Registry: c, Store: s, Sessions: m}), s
}

func TestResolveIsLazyAndPicksThePlatform(t *testing.T) {
	addr, _ := rt.Start(t)
	top := putIndex(t, addr, "base", "v1", amd64, arm64, armv7)
	p := rt.NewProxy(t, addr)
	src, _ := newSource(t, nil)
	for _, tc := range []struct {
		platform ocispec.Platform
		want     string
	}{{amd64, "amd64"}, {arm64, "arm64"}, {armv7, "armv7"}, {ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, "arm64"}} {
		p.Reset()
		r, err := src.Resolve(t.Context(), nil, p.Addr+"/base:v1", &tc.platform, image.ModeDefault)
		if err != nil {
			t.Fatal(err)
		}
		if r.Digest != top.Digest || r.Name != p.Addr+"/base:v1" || r.Ref != r.Name+"@"+top.Digest.String() {
			t.Errorf("pinned as %s", r.Ref)
		}
		ref, err := src.Ref(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer ref.Release()
		if n := p.BlobBytes(); n > int64(len(r.Config)) {
			t.Errorf("%d bytes of blobs read to resolve: %q", n, p.Log())
		}
		if got := xt.Read(t, ref, snapshot.Access{}); got["arch"] != tc.want {
			t.Errorf("got %v, want %s", got, tc.want)
		}
	}
	p.Reset()
	if _, err := src.Resolve(t.Context(), nil, p.Addr+"/base:v1", &amd64, ""); err != nil {
		t.Fatal(err)
	}
	if n := len(p.Log()); n != 1 || p.Count("HEAD .*/manifests/v1") != 1 {
		t.Errorf("a known image needs one question: %q", p.Log())
	}
	if _, err := src.Resolve(t.Context(), nil, p.Addr+"/base@"+top.Digest.String(), &amd64, ""); err != nil {
		t.Fatal(err)
	}
	if n := len(p.Log()); n != 1 {
		t.Errorf("a known digest needs none: %q", p.Log())
	}
}

func TestPlatformThatIsNotThere(t *testing.T) {
	addr, _ := rt.Start(t)
	putIndex(t, addr, "base", "v1", amd64, armv7)
	rt.PutImage(t, addr, "single", "v1", amd64)
	src, _ := newSource(t, nil)
	s390x := ocispec.Platform{OS: "linux", Architecture: "s390x"}
	_, err := src.Resolve(t.Context(), nil, addr+"/base:v1", &s390x, "")
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), "linux/amd64, linux/arm/v7") {
		t.Fatalf("got %v", err)
	}
	// Without an index there is no choice to be made.
	if _, err := src.Resolve(t.Context(), nil, addr+"/single:v1", &s390x, ""); err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	addr, _ := rt.Start(t)
	rt.PutImage(t, addr, "app", "v1", amd64, rt.Files(t, "from", "registry"))
	src, store := newSource(t, nil)
	name := addr + "/app:v1"
	if r, err := src.Resolve(t.Context(), nil, name, &amd64, image.ModeLocal); err != nil {
		t.Fatalf("local, which is a preference: %v %v", r, err)
	}
	putStored(t, store, name, amd64, "store")
	read := func(mode string, p ocispec.Platform) string {
		t.Helper()
		r, err := src.Resolve(t.Context(), nil, name, &p, mode)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		ref, err := src.Ref(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer ref.Release()
		return xt.Read(t, ref, snapshot.Access{})["from"]
	}
	for mode, want := range map[string]string{"": "store", image.ModeDefault: "store", image.ModeLocal: "store", image.ModePull: "registry"} {
		if got := read(mode, amd64); got != want {
			t.Errorf("mode %q: from %s, want %s", mode, got, want)
		}
	}
	if got := read(image.ModeDefault, arm64); got != "registry" {
		t.Errorf("for another platform: from %s", got)
	}
	if got := read(image.ModeLocal, arm64); got != "registry" {
		t.Errorf("local, other platform: from %s", got)
	}
	if _, err := src.Resolve(t.Context(), nil, name, nil, "sometimes"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

// putStored puts an image of one local layer in the store.
func putStored(t *testing.T, s *snapshot.Store, name string, p ocispec.Platform, from string) {
	t.Helper()
	ref := xt.Ref(t, s, nil, "from", from)
	blobs, err := ref.Blobs(t.Context(), snapshot.Access{}, snapshot.Compression{})
	if err != nil {
		t.Fatal(err)
	}
	img := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{blobs[0].DiffID}}}
	config, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	m, err := json.Marshal(ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:    []ocispec.Descriptor{blobs[0].Descriptor},
	})
	if err != nil {
		t.Fatal(err)
	}
	target := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}
	docs := map[digest.Digest][]byte{target.Digest: m, digest.FromBytes(config): config}
	if err := s.PutImage(t.Context(), snapshot.Image{Name: name, Target: target}, docs, []*snapshot.Ref{ref}); err != nil {
		t.Fatal(err)
	}
}

func TestMalformedImages(t *testing.T) {
	addr, _ := rt.Start(t)
	config := rt.PutBlob(t, addr, "bad", []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`))
	layer := rt.Files(t, "a", "b")
	ld := rt.PutBlob(t, addr, "bad", layer.Blob)
	configDesc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: config, Size: 78}
	layers := []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: ld, Size: int64(len(layer.Blob))}}
	v2 := specs.Versioned{SchemaVersion: 2}
	rt.PutManifest(t, addr, "bad", "count", ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: v2, MediaType: ocispec.MediaTypeImageManifest, Config: configDesc, Layers: layers})
	artifact := configDesc
	artifact.MediaType = "application/vnd.example.thing"
	rt.PutManifest(t, addr, "bad", "artifact", ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: v2, MediaType: ocispec.MediaTypeImageManifest, Config: artifact, Layers: layers})
	rt.PutManifest(t, addr, "bad", "empty", ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: v2, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}})
	src, _ := newSource(t, nil)
	for tag, want := range map[string]string{
		"count":    "it has 0 layers, the manifest 1",
		"artifact": "not a container image",
		"empty":    "it is empty",
		"missing":  "not found in registry",
	} {
		if _, err := src.Resolve(t.Context(), nil, addr+"/bad:"+tag, &amd64, ""); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bad:"+tag) {
			t.Errorf("%s: %v", tag, err)
		}
	}
}

func TestLayout(t *testing.T) {
	lent, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	layer := rt.Files(t, "from", "layout")
	put := func(b []byte, mediaType string) ocispec.Descriptor {
		t.Helper()
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		if err := content.WriteBlob(t.Context(), lent, d.Digest.String(), strings.NewReader(string(b)), d); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		return d
	}
	doc := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config := put(doc(ocispec.Image{Platform: amd64, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.DiffID}}}), ocispec.MediaTypeImageConfig)
	// No media type in the document: the shape tells.
	m := put(doc(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: config, Layers: []ocispec.Descriptor{put(layer.Blob, ocispec.MediaTypeImageLayerGzip)}}), ocispec.MediaTypeImageManifest)
	m.Platform = &amd64
	idx := put(doc(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{m}}), ocispec.MediaTypeImageIndex)

	mgr, g, id := rt.Session(t, sessioncontent.NewAttachable(map[string]content.Store{"oci:mine": lent}))
	src, _ := newSource(t, mgr)
	for name, d := range map[string]digest.Digest{"index": idx.Digest, "manifest": m.Digest} {
		for _, session := range []string{id, ""} {
			r, err := src.ResolveLayout(t.Context(), g, image.Layout{SessionID: session, StoreID: "mine"}, "app@"+d.String(), &amd64)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			ref, err := src.Ref(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			defer ref.Release()
			if got := xt.Read(t, ref, snapshot.Access{Group: g}); !maps.Equal(got, map[string]string{"from": "layout"}) {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
	for ref, want := range map[string]string{
		"app:v1":                                 "needs a digest",
		"app@" + digest.FromString("x").String(): "not in the client's OCI layout",
	} {
		if _, err := src.ResolveLayout(t.Context(), g, image.Layout{SessionID: id, StoreID: "mine"}, ref, &amd64); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := src.ResolveLayout(context.Background(), nil, image.Layout{StoreID: "mine"}, "app@"+digest.FromString("y").String(), &amd64); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("no client: %v", err)
	}
}
