package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	digest "github.com/opencontainers/go-digest"
)

// What a registry may do, once or for ever, while a blob is pulled and while it is pushed.
// What passes is survived. What does not is an error, no byte of another blob is taken for
// the blob, and when the registry is well again so is everything else.
func TestFaults(t *testing.T) {
	t.Parallel()
	blob := random(1 << 20)
	cut := func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		io.CopyN(io.Discard, r.Body, 100<<10)
		panic(http.ErrAbortHandler)
	}
	// More than fits on the way is not taken: a registry may think about what it has got.
	long := random(24 << 20)
	garbled := func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if len(b) > 0 {
			b[len(b)/2] ^= 1
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		next.ServeHTTP(w, r)
		return true
	}
	faults := []struct {
		name       string
		pull, push rt.Fault
	}{
		{"drops", rt.Drop(100 << 10), cut},
		{"drops at once", rt.Drop(0), abort},
		{"stalls", rt.Stall(100 << 10), nil},
		{"truncates", rt.Truncate(1000), nil},
		{"flips a bit", rt.Flip(), garbled},
		{"429", rt.Status(429, "0"), rt.Status(429, "0")},
		{"500", rt.Status(500, ""), rt.Status(500, "")},
		{"502", rt.Status(502, ""), rt.Status(502, "")},
		{"503", rt.Status(503, "0"), rt.Status(503, "0")},
	}
	client := func() *registry.Client {
		return registry.New(registry.Config{Backoff: time.Millisecond, StallTimeout: 300 * time.Millisecond}, nil)
	}
	for _, way := range []string{"pull", "push"} {
		for _, f := range faults {
			fault, pattern := f.pull, "GET .*/blobs/"
			if way == "push" {
				fault, pattern = f.push, "PUT .*digest="
			}
			if fault == nil && f.name != "stalls" {
				continue
			}
			t.Run(way+" "+f.name, func(t *testing.T) {
				t.Parallel()
				addr, _ := rt.Start(t)
				rt.PutBlob(t, addr, "base", blob)
				p := rt.NewProxy(t, addr)
				blob := blob
				if fault == nil {
					blob = long
					stop := make(chan struct{})
					t.Cleanup(func() { close(stop) })
					fault = func(http.ResponseWriter, *http.Request, http.Handler) bool {
						<-stop
						panic(http.ErrAbortHandler)
					}
				}
				// try moves the blob, and returns what is there then, or an error.
				n := 0
				try := func(c *registry.Client) ([]byte, error) {
					repo := p.Addr + "/base"
					if way == "push" {
						n++
						repo = fmt.Sprintf("%s/to%d", p.Addr, n)
						how := registry.Blob{Desc: descOf(blob), Open: mem(blob)}
						if err := c.Push(t.Context(), nil, repo, how); err != nil {
							if ok, _ := quick().Exists(t.Context(), nil, registry.Location{Repo: repo}, descOf(blob)); ok {
								t.Error("it failed and is there")
							}
							return nil, err
						}
					}
					rc, err := c.Open(t.Context(), nil, []registry.Location{{Repo: repo}}, descOf(blob))
					if err != nil {
						return nil, err
					}
					defer rc.Close()
					return io.ReadAll(rc)
				}
				whole := func(b []byte, err error) bool { return err == nil && digest.FromBytes(b) == descOf(blob).Digest }

				c := client()
				p.Break(rt.Times(1, pattern, fault))
				b, err := try(c)
				if f.name == "flips a bit" && way == "pull" && err == nil {
					// Open leaves the digest to its caller, who asks again; see TestFlippedLayer
					// of the snapshots.
					b, err = try(c)
				}
				if f.name == "flips a bit" && way == "push" && err != nil {
					b, err = try(c) // the registry has refused it
				}
				if !whole(b, err) {
					t.Errorf("once: %d bytes, %v", len(b), err)
				}
				p.Break(rt.Times(1<<30, pattern, fault))
				if b, err := try(c); whole(b, err) {
					t.Error("for ever: it succeeded")
				} else if err != nil && !strings.Contains(err.Error(), p.Addr) {
					t.Errorf("for ever: the error does not name the registry: %v", err)
				}
				p.Heal()
				if b, err := try(c); !whole(b, err) {
					t.Errorf("well again: %d bytes, %v", len(b), err)
				}
			})
		}
	}
}

// A registry that fails for ever is not asked for one object more than 5 times a second.
func TestPatienceIsPolite(t *testing.T) {
	t.Parallel()
	blob := random(1 << 20)
	faults := map[string]rt.Fault{"503": rt.Status(503, ""), "drops": rt.Drop(1000), "drops at once": rt.Drop(0)}
	for name, fault := range faults {
		for _, way := range []string{"pull", "push"} {
			t.Run(way+" "+name, func(t *testing.T) {
				t.Parallel()
				addr, _ := rt.Start(t)
				rt.PutBlob(t, addr, "base", blob)
				p := rt.NewProxy(t, addr)
				if way == "push" && name != "503" {
					fault = abort
				}
				var mu sync.Mutex
				asked := map[string][]time.Time{}
				p.Break(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
					object := r.Method + " " + r.URL.Path
					if strings.Contains(r.URL.Path, "/uploads/") {
						object = r.Method + " uploads" // each try has another address
					}
					mu.Lock()
					asked[object] = append(asked[object], time.Now())
					mu.Unlock()
					if way == "push" && r.Method != http.MethodPut || way == "pull" && r.Method != http.MethodGet {
						return false
					}
					return fault(w, r, next)
				})
				c := registry.New(registry.Config{}, nil)
				var err error
				if way == "push" {
					err = c.Push(t.Context(), nil, p.Addr+"/to", registry.Blob{Desc: descOf(blob), Open: mem(blob)})
				} else {
					err = drain(t.Context(), c, p.Addr+"/base", blob)
				}
				if err == nil {
					t.Fatal("it succeeded")
				}
				mu.Lock()
				defer mu.Unlock()
				for object, times := range asked {
					for i := 5; i < len(times); i++ {
						if d := times[i].Sub(times[i-5]); d < time.Second {
							t.Errorf("%s: 6 requests within %s", object, d)
						}
					}
				}
			})
		}
	}
}

func abort(http.ResponseWriter, *http.Request, http.Handler) bool { panic(http.ErrAbortHandler) }

func drain(ctx context.Context, c *registry.Client, repo string, blob []byte) error {
	rc, err := c.Open(ctx, nil, []registry.Location{{Repo: repo}}, descOf(blob))
	if err != nil {
		return err
	}
	defer rc.Close()
	_, err = io.Copy(io.Discard, rc)
	return err
}
