package image_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/dbuild/dbuild/exporter"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A layer that its image has by URL only is read from there. It is pushed like others, or
// stays where it is, with its URL, if that is preferred.
func TestForeignLayer(t *testing.T) {
	addr, _ := rt.Start(t)
	p := rt.NewProxy(t, addr)
	far, near := rt.Files(t, "far", "away"), rt.Files(t, "near", "by")
	asked := 0
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Write(far.Blob)
	}))
	defer elsewhere.Close()
	config, err := json.Marshal(ocispec.Image{Platform: amd64, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{far.DiffID, near.DiffID}}})
	if err != nil {
		t.Fatal(err)
	}
	rt.PutBlob(t, addr, "base", config)
	rt.PutBlob(t, addr, "base", near.Blob)
	of := func(mediaType string, b []byte, urls ...string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b)), URLs: urls}
	}
	rt.PutManifest(t, addr, "base", "v1", images.MediaTypeDockerSchema2Manifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: images.MediaTypeDockerSchema2Manifest,
		Config: of(images.MediaTypeDockerSchema2Config, config),
		Layers: []ocispec.Descriptor{
			of(images.MediaTypeDockerSchema2LayerForeignGzip, far.Blob, elsewhere.URL+"/far"),
			of(images.MediaTypeDockerSchema2LayerGzip, near.Blob),
		},
	})
	w := newWorld(t)
	ref, conf := w.from(p.Addr + "/base:v1")
	src := exporter.Source{Ref: ref, Metadata: map[string][]byte{exporter.KeyConfig: conf}}

	w.export(src, "name="+p.Addr+"/kept:v1", "push=true", "oci-mediatypes=false", "prefer-nondist-layers=true")
	m, _ := fetch[ocispec.Manifest](w, p.Addr+"/kept:v1")
	if l := m.Layers[0]; l.MediaType != images.MediaTypeDockerSchema2LayerForeignGzip || len(l.URLs) != 1 || l.URLs[0] != elsewhere.URL+"/far" {
		t.Errorf("kept: %+v", l)
	}
	if l := m.Layers[1]; l.MediaType != images.MediaTypeDockerSchema2LayerGzip || len(l.URLs) != 0 {
		t.Errorf("the other layer: %+v", l)
	}
	if asked != 0 || p.Count("/kept/blobs/"+digest.FromBytes(far.Blob).String()) != 0 {
		t.Errorf("the layer was moved: %q", p.Log())
	}

	w.export(src, "name="+p.Addr+"/sent:v1", "push=true")
	m, _ = fetch[ocispec.Manifest](w, p.Addr+"/sent:v1")
	if l := m.Layers[0]; l.MediaType != ocispec.MediaTypeImageLayerGzip || len(l.URLs) != 0 {
		t.Errorf("sent: %+v", l)
	}
	if asked != 1 {
		t.Errorf("its URL was asked %d times", asked)
	}
	if files := xt.Read(t, ref, snapshot.Access{}); files["far"] != "away" || files["near"] != "by" {
		t.Errorf("files %v", files)
	}
	if again, _ := w.from(p.Addr + "/sent:v1"); xt.Read(t, again, snapshot.Access{})["far"] != "away" {
		t.Error("it is not what it was")
	}
}
