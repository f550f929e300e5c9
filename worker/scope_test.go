package worker_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc"
	"golang.org/x/sys/unix"

	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func unmount(path string) error { return unix.Unmount(path, 0) }

// defs returns the defs of a definition's vertices, by name.
func (w *world) defs(o llb.Output, scope string) map[string]solver.Def {
	w.t.Helper()
	g, err := llb.Load(w.marshal(o), llb.Limits{})
	must(w.t, err)
	edge, _, err := w.worker.Load(g, worker.LoadOptions{Scope: scope})
	must(w.t, err)
	out := map[string]solver.Def{}
	var walk func(*solver.Vertex)
	walk = func(v *solver.Vertex) {
		out[v.Show.Name] = v.Def
		for _, in := range v.Inputs {
			walk(in.Vertex)
		}
	}
	walk(edge.Vertex)
	return out
}

// A directory of whoever asks means something else for each client, and so does what is
// made of it; what is named by its session, or has nothing to do with it, does not.
func TestScope(t *testing.T) {
	w := newWorld(t)
	local := llb.Local("dir", llb.LocalOptions{}, llb.Meta{Name: "local"})
	ours := llb.Local("dir", llb.LocalOptions{SessionID: "s1"}, llb.Meta{Name: "ours"})
	base := llb.File(llb.Output{}, []llb.FileAction{llb.Mkdir{Path: "/x"}}, llb.Meta{Name: "base"})
	copied := llb.File(base, []llb.FileAction{llb.Copy{From: local, Src: "/", Dest: "/", Mode: llb.KeepMode}}, llb.Meta{Name: "copied"})
	process := llb.Exec(llb.ExecOptions{Root: copied, Args: []string{"x"}, Cwd: "/"}, llb.Meta{Name: "process"}).Root()
	own := llb.File(base, []llb.FileAction{llb.Copy{From: ours, Src: "/", Dest: "/", Mode: llb.KeepMode}}, llb.Meta{Name: "own"})
	all := llb.Merge([]llb.Output{process, own}, llb.Meta{Name: "all"})

	a, again, b := w.defs(all, "a"), w.defs(all, "a"), w.defs(all, "b")
	seen := map[solver.Def]string{}
	for name, def := range a {
		if again[name] != def {
			t.Errorf("%s differs for one client", name)
		}
		if other, ok := seen[def]; ok {
			t.Errorf("%s and %s have one def", name, other)
		}
		seen[def] = name
		scoped := name == "local" || name == "copied" || name == "process" || name == "all"
		if (b[name] != def) != scoped {
			t.Errorf("%s differs between clients: %v", name, b[name] != def)
		}
	}
}

// Two clients lend different directories under one name, at the same time.
func TestClientsWithDirectoriesOfOneName(t *testing.T) {
	w := newWorld(t)
	o := llb.File(llb.Output{}, []llb.FileAction{llb.Copy{From: llb.Local("dir", llb.LocalOptions{}, llb.Meta{}), Src: "/f", Dest: "/", Mode: llb.KeepMode}}, llb.Meta{})
	def := w.marshal(o)
	for range 5 {
		results := make(chan [2]string, 2)
		for _, who := range []string{"one", "two"} {
			s := w.join(who, directory(t, "dir", map[string]string{"f": who}))
			g, err := llb.Load(def, llb.Limits{})
			must(t, err)
			edge, _, err := w.worker.Load(g, worker.LoadOptions{Scope: s.ID()})
			must(t, err)
			build := func() string {
				job := w.solver.NewJob(s.ID(), solver.JobOptions{Value: client{sessions: []string{s.ID()}}})
				defer job.Close()
				res, err := job.Build(context.Background(), edge)
				if err != nil {
					return err.Error()
				}
				defer res.Ref.Release()
				return (&result{w, res.Key, res.Ref}).files()["f"]
			}
			go func() { results <- [2]string{who, build()} }()
		}
		for range 2 {
			if r := wait(t, results); r[0] != r[1] {
				t.Errorf("%s got %q", r[0], r[1])
			}
		}
	}
}

// The directory of a client is not remembered: the next build sees what it has then.
func TestDirectoryChanges(t *testing.T) {
	w := newWorld(t)
	o := llb.File(llb.Output{}, []llb.FileAction{llb.Copy{From: llb.Local("dir", llb.LocalOptions{}, llb.Meta{}), Src: "/f", Dest: "/", Mode: llb.KeepMode}}, llb.Meta{})
	for _, want := range []string{"1", "2", "2"} {
		s := w.join("k", directory(t, "dir", map[string]string{"f": want, "g": want}))
		_, got := w.finish(w.try(w.marshal(o), request{client: client{sessions: []string{s.ID()}}, load: worker.LoadOptions{Scope: s.ID()}}))
		only(t, got, "f="+want)
	}
}

// A client that is not there is no reason to wait for ever or to crash.
func TestNoClient(t *testing.T) {
	w := newWorld(t)
	err := w.fails(llb.Local("dir", llb.LocalOptions{}, llb.Meta{}), request{})
	if !strings.Contains(err.Error(), "not connected") {
		t.Errorf("got %v", err)
	}
	s := w.join("k", directory(t, "dir", nil))
	err = w.fails(llb.Local("other", llb.LocalOptions{}, llb.Meta{}), request{client: client{sessions: []string{s.ID()}}})
	if !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("got %v", err)
	}
}

// A result whose layers cannot be had any more is made again, whoever reads it.
func TestLostResult(t *testing.T) {
	base := run(files("/bin", "x"), "base").Root()
	for name, tt := range map[string]struct {
		o    llb.Output
		want []string
	}{
		"copy":             {llb.File(llb.Output{}, []llb.FileAction{llb.Copy{From: base, Src: "/made", Dest: "/", Mode: llb.KeepMode}}, llb.Meta{}), []string{"made=1"}},
		"base of a copy":   {llb.File(base, []llb.FileAction{llb.Copy{From: files("/f", "2"), Src: "/f", Dest: "/", Mode: llb.KeepMode}}, llb.Meta{}), []string{"bin=x", "made=1", "f=2"}},
		"root":             {run(base, "y").Root(), []string{"bin=x", "made=1"}},
		"read-only mount":  {run(files("/bin", "x"), "y", llb.Mount{Target: "/m", Source: base, Readonly: true}).Root(), []string{"bin=x"}},
		"writable mount":   {run(files("/bin", "x"), "y", llb.Mount{Target: "/m", Source: base}).Root(), []string{"bin=x"}},
		"start of a cache": {run(files("/bin", "x"), "y", llb.Mount{Target: "/m", Source: base, CacheID: "c"}).Root(), []string{"bin=x"}},
		"lower of a diff":  {llb.Diff(base, files("/f", "2"), llb.Meta{}), []string{"f=2"}},
		"upper of a diff":  {llb.Diff(files("/bin", "x"), base, llb.Meta{}), []string{"made=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.exec.do = func(_ context.Context, p runc.Process) error {
				if p.Args[0] == "base" {
					return write(p.Rootfs+"/made", "1")
				}
				return nil
			}
			key := w.keyOf(base)
			// As if the answer had been imported, and the registry had lost it since.
			lost, err := w.store.Image(t.Context(), []snapshot.ImageLayer{{
				Blob:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("blob"), Size: 10},
				DiffID: digest.FromString("layer"), From: []registry.Location{{Repo: "r/x"}},
			}})
			must(t, err)
			ref := worker.NewRef(lost)
			w.cache.Put(solver.OutputID(key.ID, 0), ref)
			ref.Release()
			w.exec.runs()
			_, got := w.build(tt.o)
			only(t, got, tt.want...)
			if w.exec.runs() == 0 {
				t.Error("nothing was made again")
			}
		})
	}
	// A merge moves nothing, so it cannot know; whoever reads it does.
	t.Run("error", func(t *testing.T) {
		w := newWorld(t)
		s, err := w.store.Image(t.Context(), []snapshot.ImageLayer{{
			Blob:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("blob"), Size: 10},
			DiffID: digest.FromString("layer"),
		}})
		must(t, err)
		ref := worker.NewRef(s)
		defer ref.Release()
		_, err = w.worker.Files(t.Context(), access(), ref)
		var lost *solver.LostError
		if !errors.As(err, &lost) || lost.Ref != ref {
			t.Errorf("got %v", err)
		}
	})
}
