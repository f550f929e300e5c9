package remote_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	xt "github.com/dbuild/dbuild/exporter/exportertest"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
)

// TestCheck asks for all layers of a result at the same time: each question is answered only
// when all have arrived.
func TestCheck(t *testing.T) {
	const layers = 20
	addr, _ := rt.Start(t)
	here := newPlace(t)
	var top *snapshot.Ref
	for i := range layers {
		top = xt.Ref(t, here.cfg.Store, top, "f", fmt.Sprint(i))
	}
	here.export("registry", map[string]string{"ref": addr + "/cache"}, []solver.Entry{here.entry(1, top)}, top)
	p := rt.NewProxy(t, addr)

	var all sync.WaitGroup
	all.Add(layers)
	p.Break(rt.Times(layers, "HEAD .*/blobs/", func(http.ResponseWriter, *http.Request, http.Handler) bool {
		all.Done()
		all.Wait()
		return false
	}))
	found := func(there *place, attrs map[string]string) bool {
		t.Helper()
		im, err := there.load("registry", attrs)
		if err != nil {
			t.Fatal(err)
		}
		ref, _, err := im.Get(t.Context(), solver.ID{1})
		if err != nil || ref == nil {
			t.Fatal(ref, err)
		}
		defer ref.Release()
		return im.Check(t.Context(), ref)
	}
	from := map[string]string{"ref": p.Addr + "/cache"}
	there := newPlace(t)
	if !found(there, from) {
		t.Error("it is not found")
	}
	p.Forget()
	if !found(there, from) || p.Count("HEAD .*/blobs/") != 0 {
		t.Error("it is not found, or was asked for again:", p.Log())
	}

	p.Forget()
	unchecked := map[string]string{"ref": p.Addr + "/cache", "remote-check": "false"}
	if !found(newPlace(t), unchecked) || p.Count("HEAD .*/blobs/") != 0 {
		t.Error("it is not found, or was asked for:", p.Log())
	}
	p.Heal()
	p.Break(rt.Times(1, "HEAD .*/blobs/", rt.Status(http.StatusNotFound, "")))
	if found(newPlace(t), from) {
		t.Error("it is found although a layer is gone")
	}
	if _, err := there.load("registry", map[string]string{"ref": p.Addr + "/cache", "remote-check": "maybe"}); err == nil {
		t.Error("maybe is as good as false")
	}
}
