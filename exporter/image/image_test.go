package image_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	"github.com/dbuild/dbuild/exporter/image"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	sourceimage "github.com/dbuild/dbuild/source/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispec.Platform{OS: "linux", Architecture: "arm64"}
)

// A world is all that an export needs.
type world struct {
	t      *testing.T
	client *registry.Client
	store  *snapshot.Store
	dir    string
	images *sourceimage.Source
}

func newWorld(t *testing.T) *world {
	t.Helper()
	c := xt.Client(nil)
	s, dir := xt.Store(t, c)
	return &world{t, c, s, dir, sourceimage.New(sourceimage.Config{Registry: c, Store: s})}
}

// from returns the lazy ref and config of an image.
func (w *world) from(name string) (*snapshot.Ref, []byte) {
	w.t.Helper()
	r, err := w.images.Resolve(w.t.Context(), nil, name, &amd64, sourceimage.ModePull)
	if err != nil {
		w.t.Fatal(err)
	}
	ref, err := w.images.Ref(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(ref.Release)
	return ref, r.Config
}

func (w *world) try(src exporter.Source, attrs ...string) (map[string]string, error) {
	w.t.Helper()
	x, err := image.New(image.Config{Store: w.store, Registry: w.client}, attrMap(attrs))
	if err != nil {
		return nil, err
	}
	return x.Export(w.t.Context(), src, exporter.Access{Log: progress.NewLog()})
}

func (w *world) export(src exporter.Source, attrs ...string) map[string]string {
	w.t.Helper()
	resp, err := w.try(src, attrs...)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func attrMap(kv []string) map[string]string {
	out := map[string]string{}
	for _, s := range kv {
		k, v, _ := strings.Cut(s, "=")
		out[k] = v
	}
	return out
}

// label is what LABEL a=b does to a config.
func label(t *testing.T, config []byte) []byte {
	t.Helper()
	var img ocispec.Image
	if err := json.Unmarshal(config, &img); err != nil {
		t.Fatal(err)
	}
	img.Config.Labels = map[string]string{"a": "b"}
	img.History = append(img.History, ocispec.History{CreatedBy: "LABEL a=b", EmptyLayer: true})
	b, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fetch[T any](w *world, ref string) (T, ocispec.Descriptor) {
	w.t.Helper()
	var v T
	name, d, err := w.client.Resolve(w.t.Context(), nil, ref)
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := w.client.Bytes(w.t.Context(), nil, name, d)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		w.t.Fatal(err)
	}
	return v, d
}

func (w *world) config(repo string, d ocispec.Descriptor) ocispec.Image {
	w.t.Helper()
	b, err := w.client.Bytes(w.t.Context(), nil, repo, d)
	if err != nil {
		w.t.Fatal(err)
	}
	var img ocispec.Image
	if err := json.Unmarshal(b, &img); err != nil {
		w.t.Fatal(err)
	}
	return img
}

// big is an image of three layers that do not compress.
func big(t *testing.T, addr string) {
	t.Helper()
	var layers []rt.Layer
	for i := range 3 {
		b := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{byte(i)}).Read(b)
		layers = append(layers, rt.Files(t, "f"+string(rune('0'+i)), string(b)))
	}
	rt.PutImage(t, addr, "base", "v1", amd64, layers...)
}

func TestPushToTheSameRegistryMovesNoLayer(t *testing.T) {
	addr, _ := rt.Start(t)
	big(t, addr)
	p := rt.NewProxy(t, addr)
	w := newWorld(t)
	ref, config := w.from(p.Addr + "/base:v1")
	before := xt.Size(t, w.dir)
	p.Reset()
	src := exporter.Source{Ref: ref, Metadata: map[string][]byte{exporter.KeyConfig: label(t, config)}}
	w.export(src, "name="+p.Addr+"/other:v1", "push=true")
	if n := p.Count("GET .*/blobs/"); n != 0 {
		t.Errorf("%d blobs read: %q", n, p.Log())
	}
	if n := p.Count("POST .*mount="); n != 3 {
		t.Errorf("%d blobs mounted, want 3: %q", n, p.Log())
	}
	if n := p.Count("PUT .*digest="); n != 1 {
		t.Errorf("%d blobs sent, want the config: %q", n, p.Log())
	}
	if grown := xt.Size(t, w.dir) - before; grown > 256<<10 {
		t.Errorf("state grew by %d bytes", grown)
	}
	m, _ := fetch[ocispec.Manifest](w, p.Addr+"/other:v1")
	img := w.config(p.Addr+"/other", m.Config)
	if img.Config.Labels["a"] != "b" || len(m.Layers) != 3 || len(img.RootFS.DiffIDs) != 3 || len(img.History) != 4 {
		t.Errorf("manifest %+v, config %+v", m, img)
	}
	if m.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("media type %s", m.Layers[0].MediaType)
	}

	p.Reset() // again: it has everything
	w.export(src, "name="+p.Addr+"/other:v1", "push=true")
	if p.Count("POST") != 0 || p.Count("GET") != 0 || p.Count("PUT") != 1 || p.Count("HEAD") != 4 {
		t.Errorf("second push: %q", p.Log())
	}
}

func TestPushToAnotherRegistryStreams(t *testing.T) {
	addrA, _ := rt.Start(t)
	addrB, _ := rt.Start(t)
	big(t, addrA)
	a, b := rt.NewProxy(t, addrA), rt.NewProxy(t, addrB)
	w := newWorld(t)
	ref, config := w.from(a.Addr + "/base:v1")
	before := xt.Size(t, w.dir)
	a.Reset()
	w.export(exporter.Source{Ref: ref, Metadata: map[string][]byte{exporter.KeyConfig: label(t, config)}}, "name="+b.Addr+"/copy:v1,"+b.Addr+"/second:v1", "push=true")
	if n := a.Count("GET .*/blobs/"); n != 3 {
		t.Errorf("%d blobs read, want each once: %q", n, a.Log())
	}
	if n := b.Count("POST .*mount="); n != 4 {
		t.Errorf("%d blobs mounted for the second name, want 4: %q", n, b.Log())
	}
	if grown := xt.Size(t, w.dir) - before; grown > 256<<10 {
		t.Errorf("state grew by %d bytes", grown)
	}
	got, _ := w.from(b.Addr + "/second:v1")
	if files := xt.Read(t, got, snapshot.Access{}); len(files) != 3 || len(files["f1"]) != 1<<20 {
		t.Errorf("%d files", len(files))
	}
}

func TestLayersFromHere(t *testing.T) {
	addr, _ := rt.Start(t)
	w := newWorld(t)
	base := xt.Ref(t, w.store, nil, "a/b", "one", "link", "-> a/b")
	ref := xt.Ref(t, w.store, base, "a/c", "two", "hard", "=> a/b")
	for _, compression := range []string{"gzip", "zstd", "uncompressed"} {
		name := addr + "/here:" + compression
		resp := w.export(exporter.Source{Ref: ref}, "name="+name, "push=true", "compression="+compression, "force-compression=true")
		m, d := fetch[ocispec.Manifest](w, name)
		if d.Digest.String() != resp[exporter.RespDigest] || m.Config.Digest.String() != resp[exporter.RespConfigDigest] || resp[exporter.RespName] != name {
			t.Errorf("response %v, manifest %s", resp, d.Digest)
		}
		want := ocispec.MediaTypeImageLayer + map[string]string{"gzip": "+gzip", "zstd": "+zstd"}[compression]
		if len(m.Layers) != 2 || m.Layers[0].MediaType != want || m.Layers[1].MediaType != want {
			t.Errorf("%s: %+v", compression, m.Layers)
		}
		img := w.config(addr+"/here", m.Config)
		if len(img.History) != 2 || img.History[0].CreatedBy == "" || img.OS != "linux" || len(img.Config.Env) != 1 {
			t.Errorf("config %+v", img)
		}
		if out, err := exec.Command("skopeo", "inspect", "--tls-verify=false", "docker://"+name).CombinedOutput(); err != nil {
			t.Errorf("skopeo: %v: %s", err, out)
		}
		other := newWorld(t)
		pulled, _ := other.from(name)
		if got, want := xt.Read(t, pulled, snapshot.Access{}), xt.Read(t, ref, snapshot.Access{}); !maps.Equal(got, want) || len(got) != 4 {
			t.Errorf("pulled %v, want %v", got, want)
		}
	}
}

func TestResponseDescriptor(t *testing.T) {
	w := newWorld(t)
	resp := w.export(exporter.Source{}, "name=scratch", "source-date-epoch=1700000000")
	b, err := base64.StdEncoding.DecodeString(resp[exporter.RespDescriptor])
	if err != nil {
		t.Fatal(err)
	}
	var d ocispec.Descriptor
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	if d.Digest.String() != resp[exporter.RespDigest] || d.Platform == nil || d.Platform.OS != "linux" || d.Annotations[ocispec.AnnotationCreated] != "2023-11-14T22:13:20Z" {
		t.Errorf("%s", b)
	}
	if resp[exporter.RespName] != "scratch" {
		t.Errorf("%v", resp)
	}
}

func TestMultiPlatform(t *testing.T) {
	addr, _ := rt.Start(t)
	w := newWorld(t)
	config := func(p ocispec.Platform) []byte {
		b, err := json.Marshal(ocispec.Image{Platform: p})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	src := exporter.Source{
		Platforms: []exporter.Platform{
			{ID: "linux/arm64", Platform: arm64, Ref: xt.Ref(t, w.store, nil, "arch", "arm64")},
			{ID: "linux/amd64", Platform: amd64, Ref: xt.Ref(t, w.store, nil, "arch", "amd64")},
		},
		Metadata: map[string][]byte{exporter.KeyConfig + "/linux/arm64": config(arm64), exporter.KeyConfig + "/linux/amd64": config(amd64), "annotation.from": []byte("frontend")},
	}
	name := addr + "/multi:v1"
	resp := w.export(src, "name="+name, "push=true", "store=true", "annotation.all=1", "annotation-manifest[linux/arm64].only=2", "annotation-index.idx=3", "annotation-manifest-descriptor.md=4")
	idx, d := fetch[ocispec.Index](w, name)
	if d.MediaType != ocispec.MediaTypeImageIndex || d.Digest.String() != resp[exporter.RespDigest] || resp[exporter.RespConfigDigest] != "" {
		t.Errorf("%+v %v", d, resp)
	}
	if len(idx.Manifests) != 2 || idx.Manifests[0].Platform.Architecture != "arm64" || idx.Manifests[1].Platform.Architecture != "amd64" {
		t.Errorf("order: %+v", idx.Manifests)
	}
	if idx.Annotations["idx"] != "3" || idx.Manifests[1].Annotations["md"] != "4" {
		t.Errorf("annotations: %+v", idx)
	}
	for i, want := range []map[string]string{{"all": "1", "only": "2", "from": "frontend"}, {"all": "1", "from": "frontend"}} {
		m, _ := fetch[ocispec.Manifest](w, addr+"/multi@"+idx.Manifests[i].Digest.String())
		if !maps.Equal(m.Annotations, want) {
			t.Errorf("%d: %v, want %v", i, m.Annotations, want)
		}
	}
	pulled, _ := newWorld(t).from(name)
	if got := xt.Read(t, pulled, snapshot.Access{}); got["arch"] != "amd64" {
		t.Errorf("got %v", got)
	}
	// In the store, too.
	r, err := w.images.Resolve(t.Context(), nil, name, &arm64, sourceimage.ModeLocal)
	if err != nil || r.Platform.Architecture != "arm64" {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestDockerMediaTypes(t *testing.T) {
	addr, _ := rt.Start(t)
	rt.PutImage(t, addr, "base", "v1", amd64, rt.Files(t, "a", "b"))
	w := newWorld(t)
	ref, config := w.from(addr + "/base:v1")
	w.export(exporter.Source{Ref: xt.Ref(t, w.store, ref, "c", "d"), Metadata: map[string][]byte{exporter.KeyConfig: config}}, "name="+addr+"/old:v1", "push=true", "oci-mediatypes=false")
	m, d := fetch[ocispec.Manifest](w, addr+"/old:v1")
	if d.MediaType != images.MediaTypeDockerSchema2Manifest || m.Config.MediaType != images.MediaTypeDockerSchema2Config {
		t.Errorf("%s %s", d.MediaType, m.Config.MediaType)
	}
	for _, l := range m.Layers {
		if l.MediaType != images.MediaTypeDockerSchema2LayerGzip || l.Annotations != nil {
			t.Errorf("%+v", l)
		}
	}
}

func TestReproducible(t *testing.T) {
	var digests []string
	for i := range 2 {
		w := newWorld(t)
		ref := xt.Build(t, w.store, nil, func(root string) {
			f := filepath.Join(root, "f")
			if err := os.WriteFile(f, []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			at := time.Unix(1800000000+int64(i), 0)
			if err := os.Chtimes(f, at, at); err != nil {
				t.Fatal(err)
			}
		})
		config := []byte(`{"os":"linux","architecture":"amd64","config":{},"created":"` + time.Unix(1900000000+int64(i), 0).UTC().Format(time.RFC3339) + `"}`)
		src := exporter.Source{Ref: ref, Metadata: map[string][]byte{exporter.KeyConfig: config}}
		digests = append(digests, w.export(src, "name=x", "rewrite-timestamp=true", "source-date-epoch=1700000000")[exporter.RespDigest])
	}
	if digests[0] != digests[1] {
		t.Errorf("%v", digests)
	}
}

func TestNothingIsNamedThatFailed(t *testing.T) {
	addr, _ := rt.Start(t)
	p := rt.NewProxy(t, addr)
	w := newWorld(t)
	ref := xt.Ref(t, w.store, nil, "a", "b")
	stored := func(name string) bool {
		_, err := w.store.GetImage(t.Context(), name)
		if err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		return err == nil
	}
	name := p.Addr + "/app:v1"
	p.Break(func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") && rt.Status(403, "")(rw, r, next)
	})
	if _, err := w.try(exporter.Source{Ref: ref}, "name="+name, "push=true"); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Fatalf("got %v", err)
	}
	if stored(name) || p.Count("PUT .*/manifests/") != 0 {
		t.Errorf("named although it failed: %q", p.Log())
	}
	p.Reset()
	w.export(exporter.Source{Ref: ref}, "name="+name+",local", "push=false", "name-canonical=true")
	if !stored(name) || !stored("docker.io/library/local:latest") {
		t.Error("not stored")
	}
	if len(p.Log()) != 0 {
		t.Errorf("pushed: %q", p.Log())
	}
	all, err := w.store.Images(t.Context())
	if err != nil || len(all) != 4 {
		t.Errorf("%v %v", all, err)
	}
	w.export(exporter.Source{Ref: ref}, "name=unstored", "store=false")
	if stored("docker.io/library/unstored:latest") {
		t.Error("stored")
	}
	resp := w.export(exporter.Source{Ref: ref}, "dangling-name-prefix=moby-dangling", "danging-name-empty-only=true")
	if want := "moby-dangling@" + resp[exporter.RespDigest]; !stored(want) || resp[exporter.RespName] != want {
		t.Errorf("%v", resp)
	}
}

func TestPushByDigest(t *testing.T) {
	addr, _ := rt.Start(t)
	w := newWorld(t)
	resp := w.export(exporter.Source{Ref: xt.Ref(t, w.store, nil, "a", "b")}, "name="+addr+"/app", "push=true", "push-by-digest=true")
	if _, _, err := w.client.Resolve(t.Context(), nil, addr+"/app@"+resp[exporter.RespDigest]); err != nil {
		t.Error(err)
	}
	if _, _, err := w.client.Resolve(t.Context(), nil, addr+"/app:latest"); !errdefs.IsNotFound(err) {
		t.Errorf("there is a tag: %v", err)
	}
}

func TestInlineCacheAndUnknownFieldsSurvive(t *testing.T) {
	addr, _ := rt.Start(t)
	w := newWorld(t)
	config := []byte(`{"os":"linux","architecture":"amd64","config":{"Healthcheck":{"Test":["NONE"]}},"x-mine":{"b":1,"a":[2]}}`)
	w.export(exporter.Source{Metadata: map[string][]byte{exporter.KeyConfig: config, exporter.KeyInlineCache: []byte("cache")}}, "name="+addr+"/app:v1", "push=true")
	m, _ := fetch[ocispec.Manifest](w, addr+"/app:v1")
	b, err := w.client.Bytes(t.Context(), nil, addr+"/app", m.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"x-mine":{"b":1,"a":[2]}`, `"Healthcheck":{"Test":["NONE"]}`, `"moby.buildkit.cache.v0":"Y2FjaGU="`, `"diff_ids":null`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %s", b, want)
		}
	}
}

func TestWrongOptions(t *testing.T) {
	w := newWorld(t)
	for attrs, want := range map[string]string{
		"nmae=x":                                   "unknown option nmae",
		"push=perhaps":                             "push=perhaps is neither true nor false",
		"push=true":                                "needs a name",
		"name=UPPER":                               "not a valid image name",
		"compression=lzma":                         "compression=lzma is not one of",
		"compression=estargz":                      "not implemented: compression=estargz",
		"compression-level=12":                     "0 to 9",
		"source-date-epoch=yesterday":              "not a number of seconds",
		"annotation-foo.x=1":                       `no level "foo"`,
		"annotation-index.x=1":                     "no index to annotate",
		"annotation[linux/s390x].x=1":              "no such platform",
		"name=a:v1 push=true push-by-digest=true":  "without a tag",
		"unpack=true rewrite-timestamp=true":       "conflicts",
		"containerimage.config={}":                 "no os",
		"refs.platforms={\"Platforms\":[{},{}]}":   "2 platforms",
		"containerimage.config=null name=whatever": "invalid null image config",
	} {
		_, err := w.try(exporter.Source{}, strings.Fields(attrs)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", attrs, err)
		}
	}
}

func TestUnpackAndEnsureBlobs(t *testing.T) {
	addr, _ := rt.Start(t)
	big(t, addr)
	p := rt.NewProxy(t, addr)
	w := newWorld(t)
	ref, config := w.from(p.Addr + "/base:v1")
	p.Reset()
	w.export(exporter.Source{Ref: ref, Metadata: map[string][]byte{exporter.KeyConfig: config}}, "name=x", "ensure-blobs=true")
	if n := p.Count("GET .*/blobs/"); n != 3 {
		t.Errorf("%d blobs read", n)
	}
	w.export(exporter.Source{Ref: ref, Metadata: map[string][]byte{exporter.KeyConfig: config}}, "name=x", "unpack=true")
	recs, err := w.store.Usage(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(recs, func(r snapshot.Record) bool { return r.Size > 1<<19 }) {
		t.Errorf("nothing was unpacked: %+v", recs)
	}
}
