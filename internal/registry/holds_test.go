package registry_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
)

// Whether a blob is there is asked once by all who want to know, and remembered; that it is
// not, or that the registry did not say, is not.
func TestHolds(t *testing.T) {
	t.Parallel()
	addr, _ := rt.Start(t)
	blob, other := random(1000), random(1001)
	rt.PutBlob(t, addr, "base", blob)
	p := rt.NewProxy(t, addr)
	c := registry.New(registry.Config{Backoff: time.Millisecond}, nil)
	loc := registry.Location{Repo: p.Addr + "/base"}
	ask := func(b []byte, want, wantKnown bool) {
		t.Helper()
		if holds, known := c.Holds(t.Context(), nil, loc, descOf(b)); holds != want || known != wantKnown {
			t.Errorf("holds %v, known %v", holds, known)
		}
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { ask(blob, true, true) })
	}
	wg.Wait()
	ask(blob, true, true)
	if n := p.Count("HEAD"); n != 1 {
		t.Errorf("%d questions for one blob", n)
	}

	ask(other, false, true)
	if err := c.Push(t.Context(), nil, loc.Repo, registry.Blob{Desc: descOf(other), Open: mem(other)}); err != nil {
		t.Fatal(err)
	}
	p.Forget()
	ask(other, true, true)
	if n := p.Count("HEAD"); n != 0 {
		t.Errorf("%d questions for what was pushed", n)
	}

	// What turns out to be gone is asked for again.
	p.Break(rt.Times(1<<30, ".*/blobs/.*", rt.Status(http.StatusNotFound, "")))
	if err := drain(t.Context(), c, loc.Repo, blob); err == nil {
		t.Fatal("it is there")
	}
	ask(blob, false, true)
	p.Heal()
	ask(blob, true, true)

	// Refused is not gone; who does not say is left alone for a while.
	third := random(1002)
	p.Break(rt.Times(1<<30, ".*/blobs/.*", rt.Status(http.StatusForbidden, "")))
	p.Forget()
	ask(third, false, false)
	ask(third, false, false)
	p.Heal()
	p.Break(rt.Times(1<<30, ".*/blobs/.*", rt.Status(http.StatusServiceUnavailable, "")))
	loc.Repo = p.Addr + "/another"
	ask(third, false, false)
	loc.Repo = p.Addr + "/third"
	ask(third, false, false)
	if n := p.Count("HEAD"); n != 2 {
		t.Errorf("%d questions to those who do not say: %v", n, p.Log())
	}
	loc.Repo = p.Addr + "/base"
	ask(blob, true, true)
}
