package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/dbuild/dbuild/cache/remote"
	"github.com/dbuild/dbuild/exporter"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	"github.com/dbuild/dbuild/internal/progress"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A place is a daemon that has nothing yet, with a client.
type place struct {
	t     *testing.T
	cfg   remote.Config
	group bksession.Group
	ids   []string
}

func newPlace(t *testing.T, services ...bksession.Attachable) *place {
	m, g, id := rt.Session(t, services...)
	client := xt.Client(m)
	store, _ := xt.Store(t, client)
	return &place{t, remote.Config{Store: store, Registry: client, Sessions: m, Wrap: worker.NewRef}, g, []string{id}}
}

func (p *place) access() exporter.Access {
	return exporter.Access{Group: p.group, SessionIDs: p.ids, Log: progress.NewLog()}
}

// entry is an output that the place knows; nothing if ref is nil.
func (p *place) entry(id byte, ref *snapshot.Ref, sums ...solver.PartSum) solver.Entry {
	e := solver.Entry{ID: solver.ID{id}, Sums: sums}
	if ref != nil {
		e.Ref = worker.NewRef(ref)
	}
	return e
}

func (p *place) export(kind string, attrs map[string]string, entries []solver.Entry, target *snapshot.Ref) map[string]string {
	p.t.Helper()
	x, err := remote.NewExporter(p.cfg, remote.Entry{Type: kind, Attrs: attrs})
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := x.Export(p.t.Context(), remote.Build{Entries: entries, Targets: []*snapshot.Ref{target}}, p.access())
	if err != nil {
		p.t.Fatal(err)
	}
	return resp
}

func (p *place) load(kind string, attrs map[string]string) (*remote.Imports, error) {
	im := remote.NewImports(p.cfg, p.group)
	return im, im.Place().Load(p.t.Context(), remote.Entry{Type: kind, Attrs: attrs}, progress.NewLog())
}

// get returns the files of a result, or nil if there is none.
func (p *place) get(im *remote.Imports, id byte) map[string]string {
	p.t.Helper()
	ref, _, err := im.Get(p.t.Context(), solver.ID{id})
	if err != nil {
		p.t.Fatal(err)
	}
	if ref == nil {
		return nil
	}
	defer ref.Release()
	s := ref.(*worker.Ref).Snapshot()
	if s == nil {
		return map[string]string{}
	}
	return xt.Read(p.t, s, snapshot.Access{Group: p.group})
}

func sum(b byte) solver.PartSum {
	return solver.PartSum{Part: solver.Part{b}, Sum: solver.Sum{b, 1}}
}

// TestRegistry writes a cache and reads it somewhere else, in each form there is.
func TestRegistry(t *testing.T) {
	addr, _ := rt.Start(t)
	for _, form := range []string{"", "image-manifest=false", "oci-mediatypes=false", "compression=zstd"} {
		t.Run(form, func(t *testing.T) {
			here := newPlace(t)
			base := xt.Ref(t, here.cfg.Store, nil, "a", "1")
			top := xt.Ref(t, here.cfg.Store, base, "b", "2")
			other := xt.Ref(t, here.cfg.Store, nil, "c", "3")
			entries := []solver.Entry{
				here.entry(1, base, sum(7)), here.entry(2, other, sum(7)), here.entry(3, nil),
				{ID: solver.ID{4}, Ref: worker.NewRef(nil), From: []solver.ID{{1}, {2}}}, here.entry(5, top),
			}
			for _, mode := range []string{"min", "max"} {
				attrs := map[string]string{"ref": addr + "/cache:" + mode, "mode": mode, "ignore-error": "perhaps"}
				if k, v, ok := strings.Cut(form, "="); ok {
					attrs[k] = v
				}
				resp := here.export("registry", attrs, entries, top)
				var d ocispec.Descriptor
				if err := json.Unmarshal([]byte(resp["cache.manifest"]), &d); err != nil || d.Size == 0 {
					t.Errorf("response %v: %v", resp, err)
				}

				there := newPlace(t)
				im, err := there.load("registry", map[string]string{"ref": addr + "/cache:" + mode})
				if err != nil {
					t.Fatal(err)
				}
				for id := range byte(7) {
					if known := im.Known(solver.ID{id}); known != (id >= 1 && id <= 5) {
						t.Errorf("%s: %d known: %v", mode, id, known)
					}
				}
				for _, id := range []byte{1, 2} {
					if s, ref, ok := im.Sum(solver.ID{id}, solver.Part{7}); !ok || s != sum(7).Sum || ref != "" {
						t.Errorf("%s: sum of %d: %v %q %v", mode, id, s, ref, ok)
					}
				}
				if _, _, ok := im.Sum(solver.ID{1}, solver.Part{8}); ok {
					t.Errorf("%s: a part that nobody read has a sum", mode)
				}
				if got := there.get(im, 5); got["a"] != "1" || got["b"] != "2" {
					t.Errorf("%s: result: %v", mode, got)
				}
				if got := there.get(im, 1); got["a"] != "1" || len(got) != 1 {
					t.Errorf("%s: base: %v", mode, got)
				}
				if got := there.get(im, 2); (got["c"] == "3") != (mode == "max") {
					t.Errorf("%s: other: %v", mode, got)
				}
				if got := there.get(im, 4); got == nil || len(got) > 0 {
					t.Errorf("%s: an empty filesystem: %v", mode, got)
				}
				if got := there.get(im, 3); got != nil {
					t.Errorf("%s: no result, but %v", mode, got)
				}
			}
		})
	}
}

// TestLazy reads nothing of a layer before somebody wants it.
func TestLazy(t *testing.T) {
	addr, _ := rt.Start(t)
	proxy := rt.NewProxy(t, addr)
	here := newPlace(t)
	top := xt.Ref(t, here.cfg.Store, nil, "f", strings.Repeat("x", 1<<16))
	here.export("registry", map[string]string{"ref": addr + "/lazy"}, []solver.Entry{here.entry(1, top)}, top)

	there := newPlace(t)
	im, err := there.load("registry", map[string]string{"ref": proxy.Addr + "/lazy"})
	if err != nil {
		t.Fatal(err)
	}
	ref, _, err := im.Get(t.Context(), solver.ID{1})
	if err != nil || ref == nil {
		t.Fatal(ref, err)
	}
	defer ref.Release()
	// The config is a blob, too.
	if n := proxy.Count("GET .*/blobs/"); n != 1 {
		t.Errorf("%d blobs were read:\n%s", n, strings.Join(proxy.Log(), "\n"))
	}
	if got := there.get(im, 1); len(got["f"]) != 1<<16 {
		t.Errorf("got %d files", len(got))
	}
	if n := proxy.Count("GET .*/blobs/"); n != 2 {
		t.Errorf("%d blobs were read", n)
	}
}

// TestLocal keeps a cache in a directory of the client, and loses a layer of it.
func TestLocal(t *testing.T) {
	dir := t.TempDir()
	cs, err := local.NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	here := newPlace(t, sessioncontent.NewAttachable(map[string]content.Store{"local:cache": cs}))
	base := xt.Ref(t, here.cfg.Store, nil, "a", "1")
	top := xt.Ref(t, here.cfg.Store, base, "b", "2")
	resp := here.export("local", map[string]string{"dest": "cache", "mode": "max"}, []solver.Entry{here.entry(1, base), here.entry(2, top)}, top)
	var d ocispec.Descriptor
	if err := json.Unmarshal([]byte(resp["cache.manifest"]), &d); err != nil {
		t.Fatal(err)
	}
	from := map[string]string{"src": "cache", "digest": d.Digest.String()}

	there := newPlace(t, sessioncontent.NewAttachable(map[string]content.Store{"local:cache": cs}))
	im, err := there.load("local", from)
	if err != nil {
		t.Fatal(err)
	}
	if got := there.get(im, 2); got["a"] != "1" || got["b"] != "2" {
		t.Errorf("got %v", got)
	}

	// The layer of the base is removed behind everybody's back.
	blobs, err := base.Blobs(t.Context(), snapshot.Access{}, snapshot.Compression{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "blobs", "sha256", blobs[0].Digest.Encoded())); err != nil {
		t.Fatal(err)
	}
	there = newPlace(t, sessioncontent.NewAttachable(map[string]content.Store{"local:cache": cs}))
	im, err = there.load("local", from)
	if err != nil {
		t.Fatal(err)
	}
	ref, _, err := im.Get(t.Context(), solver.ID{1})
	if err != nil || ref == nil {
		t.Fatal("before anybody looked it is a promise:", ref, err)
	}
	_, err = ref.(*worker.Ref).Snapshot().Mount(t.Context(), snapshot.Access{Group: there.group})
	var lost *snapshot.LostError
	if !errors.As(err, &lost) {
		t.Fatal(err)
	}
	im.Drop(solver.ID{1}, ref)
	ref.Release()
	for id := range byte(3) {
		if got, _, err := im.Get(t.Context(), solver.ID{id}); got != nil || err != nil {
			t.Errorf("%d is promised although its layer is gone: %v %v", id, got, err)
		}
	}
	if !im.Known(solver.ID{1}) || !im.Known(solver.ID{2}) {
		t.Error("what is gone is not known any more")
	}
}

// TestInline reads the cache that an image carries, of the layers that it has.
func TestInline(t *testing.T) {
	addr, _ := rt.Start(t)
	here := newPlace(t)
	base := xt.Ref(t, here.cfg.Store, nil, "a", "1")
	link := xt.Ref(t, here.cfg.Store, nil, "b", "2")
	other := xt.Ref(t, here.cfg.Store, nil, "c", "3")
	top := here.cfg.Store.Merge(base, link)
	defer top.Release()
	entries := []solver.Entry{here.entry(1, base), here.entry(2, link), here.entry(3, other), here.entry(4, top, sum(9))}
	data, err := remote.Inline(entries, top)
	if err != nil || data == nil {
		t.Fatal(data, err)
	}
	blobs, err := top.Blobs(t.Context(), snapshot.Access{}, snapshot.Compression{})
	if err != nil {
		t.Fatal(err)
	}
	config := map[string]any{"os": "linux", "architecture": "amd64", "moby.buildkit.cache.v0": data}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig}}
	m.SchemaVersion = 2
	var diffs []string
	for _, l := range blobs {
		rc, err := l.Open(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, l.Size)
		if _, err := rc.Read(b); err != nil {
			t.Fatal(err)
		}
		rc.Close()
		rt.PutBlob(t, addr, "image", b)
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
		diffs = append(diffs, l.DiffID.String())
	}
	config["rootfs"] = map[string]any{"type": "layers", "diff_ids": diffs}
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	m.Config.Digest, m.Config.Size = rt.PutBlob(t, addr, "image", b), int64(len(b))
	d := rt.PutManifest(t, addr, "image", "v1", m.MediaType, m)
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}}
	idx.SchemaVersion = 2
	rt.PutManifest(t, addr, "image", "index", idx.MediaType, idx)

	for _, tag := range []string{"v1", "index"} {
		there := newPlace(t)
		im, err := there.load("registry", map[string]string{"ref": addr + "/image:" + tag})
		if err != nil {
			t.Fatal(err)
		}
		if got := there.get(im, 4); got["a"] != "1" || got["b"] != "2" {
			t.Errorf("%s: result: %v", tag, got)
		}
		if got := there.get(im, 2); got["b"] != "2" || len(got) != 1 {
			t.Errorf("%s: a layer in the middle: %v", tag, got)
		}
		if there.get(im, 3) != nil || !im.Known(solver.ID{3}) {
			t.Errorf("%s: what is not in the image is known, and no more", tag)
		}
		if _, _, ok := im.Sum(solver.ID{4}, solver.Part{9}); !ok {
			t.Errorf("%s: no sum", tag)
		}
	}
}

// TestUnreadable says why a cache cannot be read.
func TestUnreadable(t *testing.T) {
	addr, _ := rt.Start(t)
	rt.PutImage(t, addr, "image", "plain", ocispec.Platform{OS: "linux", Architecture: "amd64"}, rt.Files(t, "a", "1"))
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.Descriptor{MediaType: "application/vnd.buildkit.cacheconfig.v0"}}
	m.SchemaVersion = 2
	b := []byte(`{"layers":[{"blob":"sha256:x","parent":0}]}`)
	m.Config.Digest, m.Config.Size = rt.PutBlob(t, addr, "image", b), int64(len(b))
	rt.PutManifest(t, addr, "image", "bad", m.MediaType, m)
	p := newPlace(t)
	for _, c := range []struct{ kind, attrs, want string }{
		{"registry", "", "needs a name"},
		{"registry", "ref=UPPER CASE", "not a valid image reference"},
		{"registry", "ref=" + addr + "/none:1", "not found"},
		{"registry", "ref=" + addr + "/image:bad", "invalid config"},
		{"registry", "ref=" + addr + "/image:plain;registry.insecure=perhaps", "neither true nor false"},
		{"local", "", "needs a directory"},
		{"local", "src=x", "no digest"},
		{"gha", "", `unknown cache importer: "gha"; there are registry`},
		{"", "", `unknown cache importer: ""`},
	} {
		attrs := map[string]string{}
		for kv := range strings.SplitSeq(c.attrs, ";") {
			k, v, _ := strings.Cut(kv, "=")
			attrs[k] = v
		}
		if _, err := p.load(c.kind, attrs); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.kind, c.attrs, err, c.want)
		}
	}
	im, err := p.load("registry", map[string]string{"ref": addr + "/image:plain"})
	if err != nil || im.Known(solver.ID{1}) {
		t.Errorf("an image without a cache: %v", err)
	}
}

// TestWrongExports are refused before anything is built.
func TestWrongExports(t *testing.T) {
	p := newPlace(t)
	for _, c := range []struct{ kind, attrs, want string }{
		{"registry", "", "needs a name"},
		{"registry", "ref=x;compression=rar", "rar"},
		{"registry", "ref=x;colour=red", "colour"},
		{"registry", "ref=x;image-manifest=true;oci-mediatypes=false", "oci-mediatypes"},
		{"local", "", "needs a directory"},
		{"s3", "bucket=b", `unknown cache exporter: "s3"`},
	} {
		attrs := map[string]string{}
		for kv := range strings.SplitSeq(c.attrs, ";") {
			if k, v, ok := strings.Cut(kv, "="); ok {
				attrs[k] = v
			}
		}
		if _, err := remote.NewExporter(p.cfg, remote.Entry{Type: c.kind, Attrs: attrs}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.kind, c.attrs, err, c.want)
		}
	}
}

// TestNothingToExport leaves what is there alone.
func TestNothingToExport(t *testing.T) {
	addr, _ := rt.Start(t)
	p := newPlace(t)
	if resp := p.export("registry", map[string]string{"ref": addr + "/empty"}, []solver.Entry{p.entry(1, nil)}, nil); len(resp) > 0 {
		t.Error(resp)
	}
	if _, err := p.load("registry", map[string]string{"ref": addr + "/empty"}); err == nil {
		t.Error("something was written")
	}
}

// TestGoneWhileExporting writes what is left when a layer of an imported result cannot be
// had any more.
func TestGoneWhileExporting(t *testing.T) {
	addr, _ := rt.Start(t)
	p := newPlace(t)
	here := xt.Ref(t, p.cfg.Store, nil, "a", "1")
	gone, err := p.cfg.Store.Image(t.Context(), []snapshot.ImageLayer{{
		Blob:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: "sha256:" + "00000000000000000000000000000000000000000000000000000000000000aa", Size: 10},
		DiffID: "sha256:" + "00000000000000000000000000000000000000000000000000000000000000bb",
		Open: func(context.Context, bksession.Group) (io.ReadCloser, error) {
			return nil, errors.New("gone")
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Release()
	p.export("registry", map[string]string{"ref": addr + "/rest", "mode": "max"}, []solver.Entry{p.entry(1, here), p.entry(2, gone)}, here)
	im, err := p.load("registry", map[string]string{"ref": addr + "/rest"})
	if err != nil {
		t.Fatal(err)
	}
	if p.get(im, 1) == nil || p.get(im, 2) != nil || !im.Known(solver.ID{2}) {
		t.Error("the result that is there is missing, or the other is not")
	}
}

// TestSameTwice writes the same bytes for the same build.
func TestSameTwice(t *testing.T) {
	p := newPlace(t)
	base := xt.Ref(t, p.cfg.Store, nil, "a", "1")
	entries := []solver.Entry{p.entry(1, base, sum(1), sum(2)), p.entry(2, nil, sum(1))}
	a, err := remote.Inline(entries, base)
	if err != nil {
		t.Fatal(err)
	}
	b, err := remote.Inline(entries, base)
	if err != nil || !slices.Equal(a, b) {
		t.Errorf("%s\n%s\n%v", a, b, err)
	}
}
