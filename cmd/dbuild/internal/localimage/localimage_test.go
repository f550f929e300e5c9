package localimage_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/engine"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/engine/enginetest"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/localimage"
	"github.com/docker/cli/cli/config/configfile"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var layer = []byte("this is a layer")

// loaded starts an engine that has the image app:1.
func loaded(t *testing.T, containerd bool) (*enginetest.Engine, *engine.Engine) {
	t.Helper()
	fake := enginetest.New(t)
	fake.Containerd = containerd
	t.Setenv("DOCKER_HOST", fake.Host)
	e, err := engine.Open(t.Context(), engine.Choice{Config: &configfile.ConfigFile{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	files := map[string][]byte{}
	blob := func(b []byte, mediaType string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		files["blobs/sha256/"+d.Digest.Encoded()] = b
		return d
	}
	doc := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	l := blob(layer, ocispec.MediaTypeImageLayer)
	config := blob(doc(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.Digest}},
	}), ocispec.MediaTypeImageConfig)
	m := blob(doc(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{l},
	}), ocispec.MediaTypeImageManifest)
	m.Annotations = map[string]string{images.AnnotationImageName: "docker.io/library/app:1"}
	files["index.json"] = doc(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{m}})
	files["manifest.json"] = doc([]map[string]any{{
		"Config": "blobs/sha256/" + config.Digest.Encoded(), "RepoTags": []string{"app:1"}, "Layers": []string{"blobs/sha256/" + l.Digest.Encoded()},
	}})
	var b bytes.Buffer
	if err := enginetest.WriteTar(tar.NewWriter(&b), files); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Load(t.Context(), &b, nil); err != nil {
		t.Fatal(err)
	}
	return fake, e
}

// The engine saves an image once; what is known of it then serves other builds, until one
// wants a layer.
func TestDocker(t *testing.T) {
	for name, containerd := range map[string]bool{"graph driver": false, "containerd": true} {
		t.Run(name, func(t *testing.T) {
			fake, e := loaded(t, containerd)
			said := 0
			remembered := filepath.Join(t.TempDir(), "docs")
			open := func() *localimage.Docker {
				t.Helper()
				has, err := e.Image(t.Context(), "app:1")
				if err != nil {
					t.Fatal(err)
				}
				d, err := localimage.OpenDocker(t.Context(), localimage.Config{Engine: e, ID: has.ID, Dir: t.TempDir(), Remembered: remembered, Saving: func() { said++ }})
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			saves := func(when string, want int) {
				t.Helper()
				if n := fake.Saves(); n != want {
					t.Errorf("%s: saved %d times, want %d", when, n, want)
				}
			}
			first := open()
			saves("opened", 1)
			readImage(t, first)
			saves("read", 1)

			again := open()
			if again.Digest() != first.Digest() {
				t.Errorf("it is %s, then %s", first.Digest(), again.Digest())
			}
			if _, err := again.ReaderAt(t.Context(), ocispec.Descriptor{Digest: digest.FromString("else")}); !errdefs.IsNotFound(err) {
				t.Errorf("a blob of another image: %v", err)
			}
			if info, err := again.Info(t.Context(), digest.FromBytes(layer)); err != nil || info.Size != int64(len(layer)) {
				t.Errorf("%+v %v", info, err)
			}
			saves("known", 1)
			if said != 1 {
				t.Errorf("said %d times that it is being saved", said)
			}
			readImage(t, again)
			saves("its layer is wanted", 2)

			files, err := filepath.Glob(filepath.Join(remembered, "*"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			if err := os.WriteFile(files[0], []byte(`{"Root":"sha256:0","Docs":{}}`), 0o600); err != nil {
				t.Fatal(err)
			}
			readImage(t, open())
			saves("what is remembered is wrong", 3)
		})
	}
}

// readImage reads all of an image.
func readImage(t *testing.T, d *localimage.Docker) {
	t.Helper()
	layers := 0
	read := func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		info, err := d.Info(ctx, desc.Digest)
		if err != nil {
			return nil, err
		}
		desc.Size = info.Size
		b, err := content.ReadBlob(ctx, d, desc)
		if err != nil {
			return nil, err
		}
		if digest.FromBytes(b) != desc.Digest {
			t.Errorf("%s is %q", desc.Digest, b)
		}
		if bytes.Equal(b, layer) {
			layers++
		}
		var v struct{ MediaType string }
		if json.Unmarshal(b, &v) == nil && v.MediaType != "" {
			desc.MediaType = v.MediaType
		}
		return images.Children(ctx, d, desc)
	}
	if err := images.Walk(t.Context(), images.HandlerFunc(read), ocispec.Descriptor{Digest: d.Digest()}); err != nil {
		t.Fatal(err)
	}
	if layers != 1 {
		t.Errorf("%d layers", layers)
	}
}

func TestNoSuchImage(t *testing.T) {
	_, e := loaded(t, false)
	if _, err := e.Image(t.Context(), "docker.io/library/none:1"); !errdefs.IsNotFound(err) || err.Error() != "docker has no image docker.io/library/none:1: not found" {
		t.Errorf("got %v", err)
	}
}

// What the engine has is taken from there, under the same digest for the whole build.
func TestFirst(t *testing.T) {
	const name, dgst = "docker.io/library/app:1", digest.Digest("sha256:0123456789012345678901234567890123456789012345678901234567890123")
	amd64 := &pb.Platform{OS: "linux", Architecture: "amd64"}
	asked := 0
	first := localimage.NewFirst("here", func(_ context.Context, n string, p *ocispec.Platform) (localimage.Found, error) {
		asked++
		if n == "docker.io/library/broken:latest" {
			return localimage.Found{}, errors.New("the engine is gone")
		}
		if n != name || p.Architecture != "amd64" {
			return localimage.Found{}, nil
		}
		return localimage.Found{Digest: dgst}, nil
	})
	const local = "oci-layout://docker.io/library/app@" + string(dgst)
	for _, tc := range []struct {
		source, want string
		platform     *pb.Platform
		asked        int
	}{
		{"docker-image://docker.io/library/app@" + string(dgst), "", amd64, 0}, // not found yet: somebody has pinned it
		{"docker-image://" + name, local, amd64, 1},
		{"docker-image://" + name, local, amd64, 1},
		{"docker-image://" + name + "@" + string(dgst), local, amd64, 1},
		{"docker-image://" + name, "", &pb.Platform{OS: "linux", Architecture: "arm64"}, 2},
		{"docker-image://docker.io/library/other", "", amd64, 3},
		{"git://github.com/a/b", "", amd64, 3},
		{local, "", amd64, 3},
	} {
		op := &pb.SourceOp{Identifier: tc.source, Attrs: map[string]string{pb.AttrImageLayerLimit: "1", pb.AttrImageResolveMode: "local"}}
		d, err := decide(t, first, op, tc.platform)
		if err != nil {
			t.Fatalf("%s: %v", tc.source, err)
		}
		got := d.GetUpdate()
		if got.GetIdentifier() != tc.want {
			t.Errorf("%s: becomes %q, want %q", tc.source, got.GetIdentifier(), tc.want)
		}
		if tc.want != "" && (len(got.Attrs) != 2 || got.Attrs[pb.AttrOCILayoutStoreID] != "here" || got.Attrs[pb.AttrOCILayoutLayerLimit] != "1") {
			t.Errorf("%s: with %v", tc.source, got.Attrs)
		}
		if asked != tc.asked {
			t.Errorf("%s: the engine was asked %d times, want %d", tc.source, asked, tc.asked)
		}
	}
	if _, err := decide(t, first, &pb.SourceOp{Identifier: "docker-image://broken"}, amd64); err == nil {
		t.Error("an engine that fails is no reason to take another image")
	}
}

func decide(t *testing.T, f *localimage.First, op *pb.SourceOp, p *pb.Platform) (*policysession.DecisionResponse, error) {
	t.Helper()
	resp, err := f.Provider().CheckPolicy(t.Context(), &policysession.CheckPolicyRequest{Platform: p, Source: &gwpb.ResolveSourceMetaResponse{Source: op}})
	return resp.GetDecision(), err
}

// A store has more than the image that is lent.
func TestOnly(t *testing.T) {
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte, mediaType string) ocispec.Descriptor {
		t.Helper()
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		if err := content.WriteBlob(t.Context(), store, d.Digest.String(), bytes.NewReader(b), d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	l, secret := put(layer, ocispec.MediaTypeImageLayer), put([]byte("of another image"), ocispec.MediaTypeImageLayer)
	config := put([]byte("{}"), ocispec.MediaTypeImageConfig)
	b, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{l}})
	if err != nil {
		t.Fatal(err)
	}
	m := put(b, ocispec.MediaTypeImageManifest)
	away := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("not here"), Size: 8}
	if b, err = json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{m, away}}); err != nil {
		t.Fatal(err)
	}
	only, err := localimage.Only(t.Context(), store, put(b, ocispec.MediaTypeImageIndex))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := content.ReadBlob(t.Context(), only, l); err != nil || !bytes.Equal(b, layer) {
		t.Errorf("its layer: %q %v", b, err)
	}
	if _, err := only.Info(t.Context(), secret.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("another image's: %v", err)
	}
	if _, err := only.ReaderAt(t.Context(), secret); !errdefs.IsNotFound(err) {
		t.Errorf("another image's: %v", err)
	}
	if err := only.Delete(t.Context(), l.Digest); !errdefs.IsPermissionDenied(err) {
		t.Errorf("its layer may be deleted: %v", err)
	}
	if err := only.Walk(t.Context(), func(content.Info) error { return nil }); !errdefs.IsPermissionDenied(err) {
		t.Errorf("the store may be listed: %v", err)
	}
}
