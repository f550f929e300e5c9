package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	r.Read(b)
	return b
}

func descOf(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

func quick() *registry.Client {
	return registry.New(registry.Config{Backoff: time.Millisecond, StallTimeout: 2 * time.Second}, nil)
}

func mem(b []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

func TestResolveAndBytes(t *testing.T) {
	addr, _ := rt.Start(t)
	desc := rt.PutImage(t, addr, "team/app", "v1", ocispec.Platform{OS: "linux", Architecture: "amd64"}, rt.Files(t, "a", "b"))
	c := quick()
	name, got, err := c.Resolve(t.Context(), nil, addr+"/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if name != addr+"/team/app:v1" || got.Digest != desc.Digest || got.Size != desc.Size || got.MediaType != desc.MediaType {
		t.Fatalf("got %s %+v, want %+v", name, got, desc)
	}
	b, err := c.Bytes(t.Context(), nil, name, got)
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(b) != desc.Digest {
		t.Fatal("other bytes")
	}
	if _, byDigest, err := c.Resolve(t.Context(), nil, addr+"/team/app:v9@"+desc.Digest.String()); err != nil || byDigest.Digest != desc.Digest {
		t.Fatalf("by digest: %v %v", byDigest, err)
	}
}

func TestErrorsNameImageRegistryAndCause(t *testing.T) {
	addr, _ := rt.Start(t)
	p := rt.NewProxy(t, addr)
	c := quick()
	tests := []struct {
		name, ref string
		fault     rt.Fault
		class     error
		words     []string
	}{
		{"missing", p.Addr + "/no/such:v1", nil, registry.ErrNotFound, []string{"no/such:v1", p.Addr, "not found"}},
		{"denied", p.Addr + "/no/such:v1", rt.Status(403, ""), registry.ErrDenied, []string{"no/such:v1", p.Addr, "denied"}},
		{"unauthorized", p.Addr + "/no/such:v1", rt.Status(401, ""), registry.ErrDenied, []string{"no/such:v1", p.Addr, "denied"}},
		{"unreachable", "127.0.0.1:1/app:v1", nil, registry.ErrUnreachable, []string{"app:v1", "127.0.0.1:1", "refused"}},
		{"failing", p.Addr + "/no/such:v1", rt.Status(500, ""), registry.ErrUnreachable, []string{"no/such:v1", p.Addr, "500"}},
		{"invalid", "not a name", nil, registry.ErrInvalid, []string{"not a name", "not a valid"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			p.Reset()
			if tc.fault != nil {
				p.Break(tc.fault)
			}
			_, _, err := c.Resolve(t.Context(), nil, tc.ref)
			if !errors.Is(err, tc.class) {
				t.Fatalf("%v is not %v", err, tc.class)
			}
			for _, w := range tc.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a sentence: %q", err)
			}
		})
	}
}

func TestManifestWithWrongDigestIsRefused(t *testing.T) {
	addr, _ := rt.Start(t)
	desc := rt.PutImage(t, addr, "app", "v1", ocispec.Platform{OS: "linux", Architecture: "amd64"})
	p := rt.NewProxy(t, addr)
	c := quick()
	p.Break(rt.Times(1, "GET .*/manifests/", rt.Flip()))
	if _, err := c.Bytes(t.Context(), nil, p.Addr+"/app:v1", desc); err != nil {
		t.Fatalf("one flipped bit: %v", err)
	}
	p.Break(rt.Times(9, "GET .*/manifests/", rt.Flip()))
	if _, err := c.Bytes(t.Context(), nil, p.Addr+"/app:v1", desc); !errors.Is(err, registry.ErrCorrupt) {
		t.Fatalf("got %v", err)
	}
	desc.Size = registry.MaxManifest + 1
	if _, err := c.Bytes(t.Context(), nil, p.Addr+"/app:v1", desc); !errors.Is(err, registry.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}

func TestOpenHeals(t *testing.T) {
	addr, _ := rt.Start(t)
	blob := random(2 << 20)
	rt.PutBlob(t, addr, "app", blob)
	p := rt.NewProxy(t, addr)
	from := []registry.Location{{Repo: p.Addr + "/app"}}
	const get = "GET .*/blobs/"
	tests := []struct {
		name  string
		fault rt.Fault
		gets  int
	}{
		{"nothing", nil, 1},
		{"drop at once", rt.Times(1, get, rt.Drop(0)), 2},
		{"drop midway", rt.Times(1, get, rt.Drop(700<<10)), 2},
		{"drop three times", rt.Times(3, get, rt.Drop(300<<10)), 4},
		{"truncated", rt.Times(1, get, rt.Truncate(100<<10)), 2},
		{"stalled", rt.Times(1, get, rt.Stall(100<<10)), 2},
		{"too many requests", rt.Times(1, get, rt.Status(429, "0")), 2},
		{"bad gateway", rt.Times(2, get, rt.Status(502, "")), 3},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			p.Reset()
			if tc.fault != nil {
				p.Break(tc.fault)
			}
			rc, err := quick().Open(t.Context(), nil, from, descOf(blob))
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			got, err := io.ReadAll(rc)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, blob) {
				t.Fatal("other bytes")
			}
			if n := p.Count(get); n != tc.gets {
				t.Errorf("%d requests, want %d: %q", n, tc.gets, p.Log())
			}
		})
	}
}

func TestOpenGivesUp(t *testing.T) {
	addr, _ := rt.Start(t)
	blob := random(1 << 20)
	rt.PutBlob(t, addr, "app", blob)
	p := rt.NewProxy(t, addr)
	p.Break(rt.Times(1000, "GET .*/blobs/", rt.Drop(10)))
	rc, err := quick().Open(t.Context(), nil, []registry.Location{{Repo: p.Addr + "/app"}}, descOf(blob))
	if err == nil {
		defer rc.Close()
		_, err = io.ReadAll(rc)
	}
	if !errors.Is(err, registry.ErrUnreachable) {
		t.Fatalf("got %v", err)
	}
	if n := p.Count("GET"); n > 100 {
		t.Errorf("%d requests", n)
	}
}

func TestOpenTriesEveryLocation(t *testing.T) {
	addr, _ := rt.Start(t)
	blob := random(1000)
	rt.PutBlob(t, addr, "b", blob)
	rc, err := quick().Open(t.Context(), nil, []registry.Location{{Repo: "127.0.0.1:1/x"}, {Repo: addr + "/a"}, {Repo: addr + "/b"}}, descOf(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, blob) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if _, err := quick().Open(t.Context(), nil, []registry.Location{{Repo: addr + "/a"}}, descOf(blob)); !errors.Is(err, registry.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	if _, err := quick().Open(t.Context(), nil, nil, descOf(blob)); !errors.Is(err, registry.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	addr, _ := rt.Start(t)
	blob := random(1000)
	rt.PutBlob(t, addr, "app", blob)
	p := rt.NewProxy(t, addr)
	p.Break(rt.Times(1, "GET .*/blobs/", rt.Status(429, "1")))
	start := time.Now()
	rc, err := quick().Open(t.Context(), nil, []registry.Location{{Repo: p.Addr + "/app"}}, descOf(blob))
	if err != nil {
		t.Fatal(err)
	}
	rc.Close()
	// Not how long it took, but that it did wait: one second is what the registry said.
	if time.Since(start) < time.Second {
		t.Error("asked again too early")
	}
	p.Reset()
	p.Break(rt.Times(1, "GET .*/blobs/", rt.Status(429, "86400")))
	if _, err = quick().Open(t.Context(), nil, []registry.Location{{Repo: p.Addr + "/app"}}, descOf(blob)); err == nil || !strings.Contains(err.Error(), "429") {
		t.Fatalf("got %v", err)
	}
}

func TestExists(t *testing.T) {
	addr, _ := rt.Start(t)
	blob := random(10)
	rt.PutBlob(t, addr, "app", blob)
	for repo, want := range map[string]bool{"app": true, "other": false} {
		got, err := quick().Exists(t.Context(), nil, registry.Location{Repo: addr + "/" + repo}, descOf(blob))
		if err != nil || got != want {
			t.Errorf("%s: %v %v", repo, got, err)
		}
	}
}

func TestPushTakesTheCheapestWay(t *testing.T) {
	addr, _ := rt.Start(t)
	other, _ := rt.Start(t)
	a, b := rt.NewProxy(t, addr), rt.NewProxy(t, other)
	blob := random(3 << 20)
	rt.PutBlob(t, addr, "base", blob)
	base := []registry.Location{{Repo: a.Addr + "/base"}}
	forbidden := func(context.Context) (io.ReadCloser, error) { return nil, errors.New("must not be read") }
	c := quick()
	tests := []struct {
		name   string
		target string
		blob   registry.Blob
		want   registry.Pushed
		// requests at a: blob GETs, mounts, PUTs; at b: PUTs
		gets, mounts, puts, bputs int
	}{
		{"mounted in the same registry", a.Addr + "/app", registry.Blob{Desc: descOf(blob), From: base, Open: forbidden}, registry.Mounted, 0, 1, 0, 0},
		{"there already", a.Addr + "/app", registry.Blob{Desc: descOf(blob), From: base, Open: forbidden}, registry.Existed, 0, 0, 0, 0},
		{"streamed to another", b.Addr + "/app", registry.Blob{Desc: descOf(blob), From: base}, registry.Sent, 1, 0, 0, 1},
		{"there already in another", b.Addr + "/app", registry.Blob{Desc: descOf(blob), From: base, Open: forbidden}, registry.Existed, 0, 0, 0, 0},
		{"sent from here", a.Addr + "/app", registry.Blob{Desc: descOf(blob[1:]), Open: mem(blob[1:])}, registry.Sent, 0, 0, 1, 0},
		{"empty", a.Addr + "/app", registry.Blob{Desc: descOf(nil), Open: mem(nil)}, registry.Sent, 0, 0, 1, 0},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			a.Reset()
			b.Reset()
			got, err := c.PushBlob(t.Context(), nil, registry.Target{Ref: tc.target}, tc.blob)
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			for _, n := range []struct {
				p       *rt.Proxy
				pattern string
				want    int
			}{{a, "GET .*/blobs/", tc.gets}, {a, "POST .*mount=", tc.mounts}, {a, "PUT ", tc.puts}, {b, "PUT ", tc.bputs}} {
				if got := n.p.Count(n.pattern); got != n.want {
					t.Errorf("%d requests %q, want %d: %q", got, n.pattern, n.want, n.p.Log())
				}
			}
		})
	}
	for _, addr := range []string{a.Addr, b.Addr} {
		rc, err := c.Open(t.Context(), nil, []registry.Location{{Repo: addr + "/app"}}, descOf(blob))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("%s: %d bytes, %v", addr, len(got), err)
		}
		rc.Close()
	}
}

func TestRefusedMountIsStreamed(t *testing.T) {
	addr, _ := rt.Start(t)
	blob := random(1 << 20)
	rt.PutBlob(t, addr, "base", blob)
	p := rt.NewProxy(t, addr)
	for name, f := range map[string]rt.Fault{
		"not mounted": func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			r.URL.RawQuery = "" // as a registry that does not know mounting
			next.ServeHTTP(w, r)
			return true
		},
		"denied":   rt.Status(403, ""),
		"no mount": rt.Status(405, ""),
	} {
		t.Run(name, func(t *testing.T) {
			p.Reset()
			p.Break(rt.Times(1, "POST .*mount=", f))
			how, err := quick().PushBlob(t.Context(), nil, registry.Target{Ref: p.Addr + "/" + strings.ReplaceAll(name, " ", "-")},
				registry.Blob{Desc: descOf(blob), From: []registry.Location{{Repo: p.Addr + "/base"}}})
			if err != nil || how != registry.Sent {
				t.Fatalf("%v %v", how, err)
			}
			if n := p.Count("PUT .*digest="); n != 1 {
				t.Errorf("%d uploads", n)
			}
		})
	}
}

func TestPushHeals(t *testing.T) {
	addr, _ := rt.Start(t)
	src, _ := rt.Start(t)
	blob := random(2 << 20)
	rt.PutBlob(t, src, "base", blob)
	from, to := rt.NewProxy(t, src), rt.NewProxy(t, addr)
	lost := func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		io.CopyN(io.Discard, r.Body, 100<<10)
		panic(http.ErrAbortHandler)
	}
	for name, fault := range map[string]func(){
		"source drops":     func() { from.Break(rt.Times(2, "GET .*/blobs/", rt.Drop(500<<10))) },
		"source flips":     func() { from.Break(rt.Times(1, "GET .*/blobs/", rt.Flip())) },
		"source truncates": func() { from.Break(rt.Times(1, "GET .*/blobs/", rt.Truncate(99))) },
		"target drops":     func() { to.Break(rt.Times(2, "PUT ", lost)) },
		"target is busy":   func() { to.Break(rt.Times(2, "PUT ", rt.Status(503, "0"))) },
		"target says wait": func() { to.Break(rt.Times(1, "PUT ", rt.Status(429, "0"))) },
		"start is busy":    func() { to.Break(rt.Times(1, "POST ", rt.Status(500, ""))) },
		"upload forgotten": func() { to.Break(rt.Times(1, "PUT ", rt.Status(404, ""))) },
	} {
		t.Run(name, func(t *testing.T) {
			from.Reset()
			to.Reset()
			fault()
			repo := to.Addr + "/" + strings.ReplaceAll(name, " ", "-")
			if err := quick().Push(t.Context(), nil, repo, registry.Blob{Desc: descOf(blob), From: []registry.Location{{Repo: from.Addr + "/base"}}}); err != nil {
				t.Fatal(err)
			}
			if ok, err := quick().Exists(t.Context(), nil, registry.Location{Repo: repo}, descOf(blob)); !ok || err != nil {
				t.Fatalf("exists: %v %v", ok, err)
			}
		})
	}
}

func TestCorruptBlobIsNeverCommitted(t *testing.T) {
	addr, _ := rt.Start(t)
	p := rt.NewProxy(t, addr)
	var completed bool
	p.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if r.Method == http.MethodPut {
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				completed = true
			}
			w.WriteHeader(http.StatusCreated) // a registry that verifies nothing
			return true
		}
		return false
	})
	blob := random(1 << 20)
	bad := bytes.Clone(blob)
	bad[len(bad)-1] ^= 1
	err := quick().Push(t.Context(), nil, p.Addr+"/app", registry.Blob{Desc: descOf(blob), Open: mem(bad)})
	if !errors.Is(err, registry.ErrCorrupt) {
		t.Fatalf("got %v", err)
	}
	if completed {
		t.Error("the whole of it was sent")
	}
	short := registry.Blob{Desc: descOf(blob), Open: mem(blob[:1000])}
	if err := quick().Push(t.Context(), nil, p.Addr+"/app", short); err == nil || completed {
		t.Fatalf("short blob: %v %v", err, completed)
	}
}

func TestPushManifest(t *testing.T) {
	addr, _ := rt.Start(t)
	c := quick()
	idx := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(idx), Size: int64(len(idx))}
	for _, ref := range []string{addr + "/app:v1", addr + "/app", addr + "/only@" + d.Digest.String()} {
		if err := c.PushManifest(t.Context(), nil, ref, d, idx); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Resolve(t.Context(), nil, ref); err != nil || got.Digest != d.Digest {
			t.Errorf("%s: %v %v", ref, got, err)
		}
	}
	// A registry refuses a manifest whose blobs it has not, and says why.
	m := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":1},"layers":[]}`,
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, digest.FromString("nowhere"))
	d = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m))}
	if err := c.PushManifest(t.Context(), nil, addr+"/app:v2", d, m); err == nil || !strings.Contains(err.Error(), "blob unknown") {
		t.Fatalf("got %v", err)
	}
}

func TestPushIsParallelAndBounded(t *testing.T) {
	addr, _ := rt.Start(t)
	p := rt.NewProxy(t, addr)
	at := make(chan struct{}, 100)
	release := make(chan struct{})
	p.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if r.Method == http.MethodPut {
			at <- struct{}{}
			<-release
		}
		return false
	})
	var blobs []registry.Blob
	for i := range 10 {
		b := random(100 + i)
		blobs = append(blobs, registry.Blob{Desc: descOf(b), Open: mem(b)})
	}
	blobs = append(blobs, blobs[0]) // twice is once
	done := make(chan error, 1)
	go func() { done <- quick().Push(context.Background(), nil, p.Addr+"/app", blobs...) }()
	for range 4 {
		<-at
	}
	select {
	case <-at:
		t.Error("a fifth upload began")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := p.Count("PUT"); n != 10 {
		t.Errorf("%d uploads", n)
	}
}

func TestMirrorIsAskedFirst(t *testing.T) {
	addr, _ := rt.Start(t)
	mirror, _ := rt.Start(t)
	blob := random(100)
	rt.PutBlob(t, addr, "app", blob)
	rt.PutBlob(t, mirror, "app", blob)
	m, own := rt.NewProxy(t, mirror), rt.NewProxy(t, addr)
	c := registry.New(registry.Config{Backoff: time.Millisecond, Hosts: map[string]registry.Host{own.Addr: {Mirrors: []string{m.Addr}}}}, nil)
	read := func() {
		t.Helper()
		rc, err := c.Open(t.Context(), nil, []registry.Location{{Repo: own.Addr + "/app"}}, descOf(blob))
		if err != nil {
			t.Fatal(err)
		}
		rc.Close()
	}
	read()
	if m.Count("GET") != 1 || own.Count("GET") != 0 {
		t.Errorf("mirror %q, own %q", m.Log(), own.Log())
	}
	m.Break(rt.Status(500, ""))
	read()
	if own.Count("GET") != 1 {
		t.Errorf("own %q", own.Log())
	}
}

func TestCancelEndsATransfer(t *testing.T) {
	addr, _ := rt.Start(t)
	blob := random(1 << 20)
	rt.PutBlob(t, addr, "app", blob)
	p := rt.NewProxy(t, addr)
	p.Break(rt.Times(1, "GET .*/blobs/", rt.Stall(10)))
	ctx, cancel := context.WithCancel(t.Context())
	c := registry.New(registry.Config{}, nil)
	rc, err := c.Open(ctx, nil, []registry.Location{{Repo: p.Addr + "/app"}}, descOf(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.ReadFull(rc, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel() // the rest never comes
	if _, err := io.ReadAll(rc); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
