package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc"
)

// owned is the base of a cache mount with an owner.
func owned(uid uint32) llb.Output {
	return llb.File(llb.Output{}, []llb.FileAction{llb.Mkdir{Path: "/cache", Mode: 0o750, Owner: llb.IDs(uid, uid)}}, llb.Meta{})
}

// A step that has cache mounts of all kinds.
func caching(args string) llb.Output {
	return run(files("/bin", ""), args,
		llb.Mount{Target: "/plain", CacheID: "ns/plain"},
		llb.Mount{Target: "/owned", CacheID: "ns/plain", Source: owned(5), Selector: "/cache"},
		llb.Mount{Target: "/other", CacheID: "ns/plain", Source: owned(6), Selector: "/cache"},
		llb.Mount{Target: "/bound", CacheID: "ns/plain", Source: run(files("/bin", ""), "base").Root()},
	).Root()
}

var cached = []string{"/plain", "/owned", "/other", "/bound"}

// uses are the cache mounts of a step.
func (w *world) uses(o llb.Output) []worker.CacheUse {
	w.t.Helper()
	g, err := llb.Load(w.marshal(o), llb.Limits{})
	must(w.t, err)
	var out []worker.CacheUse
	for _, v := range g.Vertices {
		out = append(out, worker.CacheUses(v)...)
	}
	return out
}

// What a step left in its cache mounts is there for the first step of another machine.
func TestCacheMountsTravel(t *testing.T) {
	here, there := newWorld(t), newWorld(t)
	here.exec.do = func(_ context.Context, p runc.Process) error {
		for _, at := range cached {
			if dir := mountAt(p, at); dir != "" {
				if err := write(dir+"/f", at); err != nil {
					return err
				}
			}
		}
		return nil
	}
	here.build(caching("fill"))

	seeds := map[worker.CacheMount][]snapshot.Seed{}
	bound := 0
	for _, use := range here.uses(caching("fill")) {
		if use.Bound {
			bound++
			continue
		}
		dirs, err := here.worker.CacheDirs(t.Context(), use)
		must(t, err)
		if len(dirs) != 1 {
			t.Fatalf("%+v is in %+v", use, dirs)
		}
		c, err := here.store.CopyDir(t.Context(), dirs[0], use.Sharing, nil)
		must(t, err)
		defer c.Close()
		broken := func(context.Context) (io.ReadCloser, error) { return nil, errors.New("it is gone") }
		seeds[use.CacheMount] = []snapshot.Seed{{Name: use.Name(), Blob: c.Blob, DiffID: c.DiffID, Open: broken}, {Name: use.Name(), Blob: c.Blob, DiffID: c.DiffID, Open: c.Open}}
	}
	if len(seeds) != 3 || bound != 1 {
		t.Fatalf("%d mounts can travel, %d cannot: %v", len(seeds), bound, seeds)
	}

	asked := 0
	r := request{stream: progress.NewStream(), client: client{seeds: func(m worker.CacheMount) []snapshot.Seed {
		asked++
		return seeds[m]
	}}}
	look := func(want bool) func(context.Context, runc.Process) error {
		return func(_ context.Context, p runc.Process) error {
			for _, at := range cached {
				dir := mountAt(p, at)
				if dir == "" {
					continue
				}
				b, err := os.ReadFile(dir + "/f")
				if (string(b) == at) != (want && at != "/bound") {
					return fmt.Errorf("%s has %q, %v", at, b, err)
				}
			}
			return nil
		}
	}
	there.exec.do = look(true)
	there.finish(there.try(there.marshal(caching("look")), r))
	if n := strings.Count(warnings(r.stream), "was not imported: it is gone"); n != 3 {
		t.Errorf("%d warnings", n)
	}
	// They are here now: what the next build brings along is not read.
	for m := range seeds {
		seeds[m] = seeds[m][:1]
	}
	r.stream = progress.NewStream()
	there.finish(there.try(there.marshal(caching("again")), r))
	if w := warnings(r.stream); w != "" {
		t.Error(w)
	}
	// A build without the cache has none of cache mounts, either.
	asked = 0
	there.exec.do = look(false)
	there.finish(there.try(there.marshal(llb.Exec(llb.ExecOptions{
		Root: files("/bin", ""), Args: []string{"anew"}, Cwd: "/", Mounts: []llb.Mount{{Target: "/plain", CacheID: "ns/plain"}},
	}, llb.Meta{IgnoreCache: true}).Root()), r))
	if asked > 0 {
		t.Error("asked for a mount that is to start empty")
	}
}

// warnings returns what a build warned of.
func warnings(s *progress.Stream) string {
	s.Close()
	var out strings.Builder
	for r := s.Reader(); ; {
		events, err := r.Next(context.Background(), 0)
		if err != nil {
			return out.String()
		}
		for _, e := range events {
			if e.Warning != nil {
				fmt.Fprintf(&out, "%s\n", e.Warning.Short)
			}
		}
	}
}

func TestCacheMountNames(t *testing.T) {
	for id, want := range map[string]string{"/go": "go", "ns/go": "ns/go", "//root/.cache": "/root/.cache", "": ""} {
		if got := (worker.CacheMount{ID: id}).Name(); got != want {
			t.Errorf("%q is called %q, want %q", id, got, want)
		}
	}
}
