package registry_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
)

// keeping makes a registry of one that forgets what it got of a request that broke off: each
// PUT of a blob is cut after some bytes, a number of times, and these bytes are kept. Where
// an upload stands is in its address, which clients are not told when it is cut.
func keeping(backend string, bytes int64, times int) rt.Fault {
	var mu sync.Mutex
	state := map[string]string{} // by upload
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/uploads/") || r.Method == http.MethodPost {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		id := path.Base(r.URL.Path)
		q := r.URL.Query()
		if s := state[id]; s != "" {
			q.Set("_state", s)
			r.URL.RawQuery = q.Encode()
			r.RequestURI = r.URL.RequestURI()
		}
		if r.Method != http.MethodPut || times == 0 || r.ContentLength <= bytes {
			return false
		}
		times--
		to := url.URL{Scheme: "http", Host: backend, Path: r.URL.Path, RawQuery: url.Values{"_state": q["_state"]}.Encode()}
		req, _ := http.NewRequest(http.MethodPatch, to.String(), io.LimitReader(r.Body, bytes))
		req.ContentLength = bytes
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if loc, err := resp.Location(); err == nil {
				state[id] = loc.Query().Get("_state")
			}
		}
		panic(http.ErrAbortHandler)
	}
}

// seeker counts what is read of a blob.
type seeker struct {
	*bytes.Reader
	n *int
}

func (s seeker) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	*s.n += n
	return n, err
}
func (s seeker) Close() error { return nil }

// An upload that was cut goes on where the registry says that it stands, and reads no more
// of its source than it must.
func TestUploadGoesOn(t *testing.T) {
	t.Parallel()
	blob := random(24 << 20)
	const cut = 7 << 20 // not where a sum is remembered
	for _, way := range []string{"seek", "skip", "remote"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			addr, _ := rt.Start(t)
			p := rt.NewProxy(t, addr)
			p.Break(keeping(addr, cut, 3))
			c := registry.New(registry.Config{Backoff: time.Millisecond, Attempts: 2}, nil)
			b := registry.Blob{Desc: descOf(blob)}
			read := 0
			from := rt.NewProxy(t, addr)
			switch way {
			case "seek":
				b.Open = func(context.Context) (io.ReadCloser, error) { return seeker{bytes.NewReader(blob), &read}, nil }
			case "skip":
				b.Open = mem(blob)
			case "remote":
				rt.PutBlob(t, addr, "base", blob)
				b.From = []registry.Location{{Repo: from.Addr + "/base"}}
			}
			how, err := c.PushBlob(t.Context(), nil, registry.Target{Ref: p.Addr + "/to"}, b)
			if err != nil || how != registry.Sent {
				t.Fatal(how, err)
			}
			if err := drain(t.Context(), c, addr+"/to", blob); err != nil {
				t.Error(err)
			}
			if n := p.Count("POST .*/uploads/"); n != 1 {
				t.Errorf("%d uploads were begun", n)
			}
			if n := p.Count("PUT .*/uploads/"); n != 4 {
				t.Errorf("%d times it was sent, after 3 cuts", n)
			}
			if want := len(blob) + 3*(8<<20); way == "seek" && read > want {
				t.Errorf("%d bytes were read of %d", read, len(blob))
			}
			if n := from.BlobBytes(); way == "remote" && n > int64(len(blob)+3*(12<<20)) {
				t.Errorf("%d bytes were pulled of %d", n, len(blob))
			}
		})
	}
}

// What the registry says it has is believed only if it may be: else everything is sent anew.
func TestUploadStandsElsewhere(t *testing.T) {
	t.Parallel()
	blob := random(12 << 20)
	for name, says := range map[string]string{"more than was sent": "0-99999999", "nonsense": "a-b", "the end": "5-10"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, _ := rt.Start(t)
			p := rt.NewProxy(t, addr)
			p.Break(rt.Times(1, "PUT .*digest=", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				io.CopyN(io.Discard, r.Body, 1<<20)
				panic(http.ErrAbortHandler)
			}))
			p.Break(rt.Times(1, "GET .*/uploads/", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				w.Header().Set("Range", says)
				w.WriteHeader(http.StatusNoContent)
				return true
			}))
			c := registry.New(registry.Config{Backoff: time.Millisecond}, nil)
			if err := c.Push(t.Context(), nil, p.Addr+"/to", registry.Blob{Desc: descOf(blob), Open: mem(blob)}); err != nil {
				t.Fatal(err)
			}
			if n := p.Count("POST .*/uploads/"); n != 2 {
				t.Errorf("%d uploads were begun", n)
			}
		})
	}
}

// A blob that is not what it should be is noticed by an upload that goes on, too.
func TestUploadGoesOnWithSomethingElse(t *testing.T) {
	t.Parallel()
	blob := random(24 << 20)
	addr, _ := rt.Start(t)
	p := rt.NewProxy(t, addr)
	p.Break(keeping(addr, 7<<20, 1))
	c := registry.New(registry.Config{Backoff: time.Millisecond, Attempts: 3}, nil)
	other := bytes.Clone(blob)
	other[20<<20] ^= 1
	err := c.Push(t.Context(), nil, p.Addr+"/to", registry.Blob{Desc: descOf(blob), Open: mem(other)})
	if err == nil || !strings.Contains(err.Error(), "another digest") {
		t.Error(err)
	}
	if ok, err := c.Exists(t.Context(), nil, registry.Location{Repo: addr + "/to"}, descOf(blob)); ok || err != nil {
		t.Error("it is there:", err)
	}
}
