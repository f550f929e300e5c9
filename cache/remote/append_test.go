package remote_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dbuild/dbuild/cache/remote"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
)

// TestTwoWriters has a second build write a cache while the first one appends to it: after the
// first has read it, and after it has written it. Both are in it in the end.
func TestTwoWriters(t *testing.T) {
	for _, c := range []struct {
		name   string
		asked  int // when the first asks for the manifest so often, the second writes
		append string
	}{
		{"before it is written", 2, "true"},
		{"after it is written", 3, "false"},
		{"after it was looked at", 4, "false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			backend, _ := rt.Start(t)
			proxy := rt.NewProxy(t, backend)
			write := func(addr string, id byte, appended string) {
				p := newPlace(t)
				ref := xt.Ref(t, p.cfg.Store, nil, "file", string(rune(id)))
				p.export("registry", map[string]string{"ref": addr + "/cache", "mode": "max", "append": appended}, []solver.Entry{p.entry(id, ref)}, ref)
			}
			asked := 0
			proxy.Break(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/") {
					if asked++; asked == c.asked {
						write(backend, 2, c.append)
					}
				}
				return false
			})
			write(backend, 3, "true")
			write(proxy.Addr, 1, "true")
			im, err := newPlace(t).load("registry", map[string]string{"ref": backend + "/cache"})
			if err != nil {
				t.Fatal(err)
			}
			for id := byte(1); id <= 3; id++ {
				want := id != 3 || c.append == "true" // whoever does not append replaces
				if known := im.Known(solver.ID{id}); known != want {
					t.Errorf("%d known: %v", id, known)
				}
			}
		})
	}
}

// TestAppendBound keeps the newest builds, and the newest copies of cache mounts.
func TestAppendBound(t *testing.T) {
	addr, _ := rt.Start(t)
	var opened atomic.Int32
	for id := byte(1); id <= 5; id++ {
		p := newPlace(t)
		ref := xt.Ref(t, p.cfg.Store, nil, "file", string(rune(id)))
		base := xt.Ref(t, p.cfg.Store, nil, "base", "base")
		e := remote.Entry{Type: "registry", Attrs: map[string]string{"ref": addr + "/cache", "mode": "max", "append": "true", "append-max": "3"}}
		p.write(e, remote.Build{
			Entries: []solver.Entry{p.entry(100, base, sum(id%2)), p.entry(id, ref)}, Targets: []*snapshot.Ref{ref},
			Mounts: []remote.Mount{holding("/shared", "", "of "+string(rune(id)), &opened), holding("/of/"+string(rune(id)), "", "own of "+string(rune(id)), &opened)},
		})
	}
	p := newPlace(t)
	im, err := p.load("registry", map[string]string{"ref": addr + "/cache"})
	if err != nil {
		t.Fatal(err)
	}
	for id := byte(1); id <= 5; id++ {
		if got := p.get(im, id); (got != nil) != (id > 2) {
			t.Errorf("%d: %v", id, got)
		}
		if seeds := im.Seeds("/of/"+string(rune(id)), "", "", nil); (len(seeds) == 1) != (id > 2) {
			t.Errorf("cache mounts of %d: %v", id, seeds)
		}
	}
	if seeds := im.Seeds("/shared", "", "", nil); len(seeds) != 1 || seeds[0].Blob.Digest != digest.FromString("of "+string(rune(5))) {
		t.Errorf("the shared cache mount: %v", seeds)
	}
	if got := p.get(im, 100); got["base"] != "base" {
		t.Errorf("what every build has is %v", got)
	}
	for _, part := range []byte{0, 1} {
		if s, _, ok := im.Sum(solver.ID{100}, solver.Part{part}); !ok || s != sum(part).Sum {
			t.Errorf("sum of part %d: %v %v", part, s, ok)
		}
	}
}
