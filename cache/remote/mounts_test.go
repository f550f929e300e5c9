package remote_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/dbuild/dbuild/cache/remote"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	"github.com/dbuild/dbuild/internal/progress"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// holding is a cache mount with some text in it.
func holding(id, base, text string, opened *atomic.Int32) remote.Mount {
	b := &snapshot.Blob{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: digest.FromString(text), Size: int64(len(text))},
		DiffID:     digest.FromString("diff " + text),
		Open: func(context.Context, bksession.Group) (io.ReadCloser, error) {
			if opened.Add(1); strings.HasPrefix(text, "gone") {
				return nil, errors.New("it is gone")
			}
			return io.NopCloser(strings.NewReader(text)), nil
		},
	}
	return remote.Mount{ID: id, Base: digest.Digest(base), Name: id, Copy: func(_ context.Context, limit int64, _ *progress.Tracker) (*snapshot.Blob, error) {
		switch {
		case text == "":
			return nil, nil
		case limit > 0 && int64(len(text)) > limit:
			return nil, errors.New("it is too large")
		}
		return b, nil
	}}
}

// write exports a build with cache mounts, and returns what the client is told and warned of.
func (p *place) write(e remote.Entry, b remote.Build) (resp map[string]string, warnings []string) {
	p.t.Helper()
	x, err := remote.NewExporter(p.cfg, e)
	if err != nil {
		p.t.Fatal(err)
	}
	stream := progress.NewStream()
	a := p.access()
	stream.Attach(a.Log, progress.Vertex{})
	if resp, err = x.Export(p.t.Context(), b, a); err != nil {
		p.t.Fatal(err)
	}
	stream.Close()
	for r := stream.Reader(); ; {
		events, err := r.Next(p.t.Context(), 0)
		if err != nil {
			return resp, warnings
		}
		for _, e := range events {
			if e.Warning != nil {
				warnings = append(warnings, string(e.Warning.Short))
			}
		}
	}
}

func text(t *testing.T, rc io.ReadCloser, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestMounts carries cache mounts along with a cache, in each kind of store, and from there
// to another.
func TestMounts(t *testing.T) {
	addr, _ := rt.Start(t)
	proxy := rt.NewProxy(t, addr)
	cs, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{blobs: map[digest.Digest][]byte{}}
	place := func() *place {
		p := newPlace(t, sessioncontent.NewAttachable(map[string]content.Store{"local:cache": cs}))
		p.cfg.Objects = shelved(t, s).cfg.Objects
		return p
	}
	for name, e := range map[string]remote.Entry{
		"registry": {Type: "registry", Attrs: map[string]string{"ref": proxy.Addr + "/one", "mounts": "*"}},
		"index":    {Type: "registry", Attrs: map[string]string{"ref": proxy.Addr + "/two", "mounts": "*", "image-manifest": "false"}},
		"docker":   {Type: "registry", Attrs: map[string]string{"ref": proxy.Addr + "/three", "mounts": "*", "oci-mediatypes": "false"}},
		"local":    {Type: "local", Attrs: map[string]string{"dest": "cache", "mounts": "*"}},
		"objects":  {Type: "s3", Attrs: map[string]string{"bucket": "b", "mounts": "*"}},
	} {
		t.Run(name, func(t *testing.T) {
			here := place()
			var opened atomic.Int32
			top := xt.Ref(t, here.cfg.Store, nil, "a", "1")
			b := remote.Build{Entries: []solver.Entry{here.entry(1, top)}, Targets: []*snapshot.Ref{top}, Mounts: []remote.Mount{
				holding("/a", "", "plain "+name, &opened), holding("/a", "sha256:base", "based "+name, &opened),
				holding("/empty", "", "", &opened), holding("/gone", "", "gone "+name, &opened),
				holding("/large", "", "large"+strings.Repeat("x", 100), &opened),
			}}
			e.Attrs["mounts-max"] = "100B"
			resp, warnings := here.write(e, b)
			if opened.Load() != 3 || len(warnings) != 2 || !strings.Contains(fmt.Sprint(warnings), "/gone was not exported: ") || !strings.Contains(fmt.Sprint(warnings), "/large was not exported: it is too large") {
				t.Errorf("%d were read; warnings: %q", opened.Load(), warnings)
			}
			from := map[string]string{"ref": e.Attrs["ref"], "bucket": "b", "src": "cache", "digest": manifestOf(t, resp)}
			// Again: what is there is not read.
			if resp, _ := here.write(e, b); opened.Load() != 4 || manifestOf(t, resp) != from["digest"] {
				t.Errorf("%d were read, %v was written", opened.Load(), resp)
			}

			there := place()
			before := proxy.Count("GET .*/blobs/")
			im, err := there.load(e.Type, from)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range []struct{ id, base, want string }{{"/a", "", "plain " + name}, {"/a", "sha256:base", "based " + name}, {"/a", "sha256:other", ""}, {"/empty", "", ""}, {"/gone", "", ""}, {"/b", "", ""}} {
				seeds := im.Seeds(l.id, digest.Digest(l.base), "people's", nil)
				if len(seeds) == 0 && l.want == "" {
					continue
				}
				if len(seeds) != 1 || seeds[0].Name != "people's" || seeds[0].DiffID != digest.FromString("diff "+l.want) || seeds[0].Blob.Digest != digest.FromString(l.want) {
					t.Fatalf("%v: %+v", l, seeds)
				}
			}
			if n := proxy.Count("GET .*/blobs/") - before; n > 1 {
				t.Errorf("%d blobs were read", n)
			}
			seed := im.Seeds("/a", "", "a", nil)[0]
			if rc, err := seed.Open(t.Context()); text(t, rc, err) != "plain "+name {
				t.Error("the seed is something else")
			}
			if got := there.get(im, 1); got["a"] != "1" {
				t.Errorf("the result is %v", got)
			}

			// Handed on, from whatever it came from to a registry.
			blob, ok := im.Carried("/a", "sha256:base", nil)
			if !ok {
				t.Fatal("nothing to hand on")
			}
			on := remote.Entry{Type: "registry", Attrs: map[string]string{"ref": addr + "/on/" + name}}
			if resp, _ := there.write(on, remote.Build{}); resp != nil {
				t.Errorf("a cache of nothing: %v", resp)
			}
			there.write(on, remote.Build{Mounts: []remote.Mount{{ID: "/a", Base: "sha256:base", Name: "a", Copy: func(context.Context, int64, *progress.Tracker) (*snapshot.Blob, error) {
				return blob, nil
			}}}})
			third := newPlace(t)
			if im, err = third.load("registry", on.Attrs); err != nil {
				t.Fatal(err)
			}
			seeds := im.Seeds("/a", "sha256:base", "a", nil)
			if len(seeds) != 1 {
				t.Fatal("what was handed on is not there")
			}
			if rc, err := seeds[0].Open(t.Context()); text(t, rc, err) != "based "+name {
				t.Error("what was handed on is something else")
			}

			// The reader chooses, too.
			from["mounts"] = "none"
			if im, err = there.load(e.Type, from); err != nil || len(im.Seeds("/a", "", "a", nil)) > 0 {
				t.Errorf("mounts=none: %v", err)
			}
			from["mounts"] = "a"
			if im, err = there.load(e.Type, from); err != nil || len(im.Seeds("/a", "", "a", []string{"ns", ""})) != 1 || len(im.Seeds("/a", "", "a", []string{"ns"})) != 0 {
				t.Errorf("mounts=a: %v", err)
			}
		})
	}
	if im, err := place().load("local", map[string]string{"src": "cache", "digest": "x"}); err == nil {
		t.Error(im)
	}
}

func manifestOf(t *testing.T, resp map[string]string) string {
	t.Helper()
	at := strings.Index(resp["cache.manifest"], "sha256:")
	if at < 0 {
		return "" // a store without manifests
	}
	return resp["cache.manifest"][at : at+len("sha256:")+64]
}

// TestStrangeMounts leaves out what makes no sense of a config, and nothing else.
func TestStrangeMounts(t *testing.T) {
	good := digest.FromString("x").String()
	about := func(size int, diff string) string {
		return fmt.Sprintf(`"annotations":{"mediaType":"x","size":%d,"diffID":%q}`, size, diff)
	}
	s := &shelf{configs: [][]byte{[]byte(`{"dbuild.mounts":[` + strings.Join([]string{
		`{"id":"nothing"}`, `{"id":"digest","blob":"sha256:1",` + about(1, good) + `}`, `{"id":"size","blob":"` + good + `",` + about(-1, good) + `}`,
		`{"id":"diff","blob":"` + good + `",` + about(1, "md5:1") + `}`, `{"id":"good","new":1,"blob":"` + good + `",` + about(1, good) + `}`,
	}, ",") + `]}`)}}
	im, err := shelved(t, s).load("s3", inBucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"nothing", "digest", "size", "diff", "good"} {
		if n := len(im.Seeds(id, "", id, nil)); (n == 1) != (id == "good") {
			t.Errorf("%s: %d", id, n)
		}
	}
	if rc, err := im.Seeds("good", "", "", nil)[0].Open(t.Context()); err == nil {
		rc.Close()
		t.Error("a blob that is not there was opened")
	}
}

func TestMountsOfAnExporter(t *testing.T) {
	p := newPlace(t)
	for v, want := range map[string]string{
		"": "", "none": "", "*": "//root/.cache /a ns/a ns/b/c", "all": "//root/.cache /a ns/a ns/b/c", "a": "/a ns/a", "b;a": "/a ns/a",
		" a , /root/.cache/ ": "//root/.cache /a ns/a", "ns/a": "ns/a", "b/c": "ns/b/c", "c": "", ";,": "",
	} {
		x, err := remote.NewExporter(p.cfg, remote.Entry{Type: "registry", Attrs: map[string]string{"ref": "x", "mounts": v}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		ids, spaces := []string{"//root/.cache", "/a", "ns/a", "ns/b/c"}, []string{"", "ns"}
		for _, id := range ids {
			if x.Mounts().Has(id, spaces) {
				got = append(got, id)
			}
		}
		if strings.Join(got, " ") != want || x.Mounts().None() != (want == "" && v != "c") {
			t.Errorf("mounts=%s: %q", v, got)
		}
		if unknown := x.Mounts().Unknown(ids, spaces); !slices.Equal(unknown, map[string][]string{"b;a": {"b"}, "c": {"c"}}[v]) {
			t.Errorf("mounts=%s: %q are unknown", v, unknown)
		}
	}
	for attr, value := range map[string]string{"mounts-max": "x", "mount": "a"} {
		if _, err := remote.NewExporter(p.cfg, remote.Entry{Type: "registry", Attrs: map[string]string{"ref": "x", attr: value}}); err == nil {
			t.Errorf("%s=%s is accepted", attr, value)
		}
	}
	if _, err := remote.NewExporter(p.cfg, remote.Entry{Type: "inline", Attrs: map[string]string{"mounts": "a"}}); err == nil || !strings.Contains(err.Error(), "an image carries no cache mounts") {
		t.Error(err)
	}
}
