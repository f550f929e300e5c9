package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/explain"
	"github.com/dbuild/dbuild/history"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/local"
	"github.com/dbuild/dbuild/worker"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ownedBy notes whose directories the build reads.
func (b *build) ownedBy(owner string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.owner = owner
}

// rememberTrace adds to the history what later builds are compared with. It takes down what
// will be gone when the build is closed; the rest happens when nobody waits.
func (b *build) rememberTrace(r *request) {
	if b.entry == nil {
		return
	}
	t := b.takeTrace(r, b.job.Fate)
	b.entry.Before(func(e *history.Entry) {
		doc, err := t.finish()
		if err != nil {
			b.d.log.Warn("trace for the history", "build", b.id, "err", err)
			return
		}
		e.Attest("", ocispec.Descriptor{MediaType: explain.MediaType}, doc)
	})
}

// A taken is what is taken down of a build that ends.
type taken struct {
	head     explain.Trace
	refs     []*ref
	outcomes map[digest.Digest]explain.Outcome
	dirs     []*clientDir
}

// A clientDir is a directory of the client's.
type clientDir struct {
	name    string
	sum     string
	count   int
	items   iter.Seq[local.Item] // good for ever
	ignores []explain.Text
}

// takeTrace takes down what became of the build's steps, as fate says. The job must not be
// closed.
func (b *build) takeTrace(r *request, fate func(*solver.Vertex) (solver.Fate, bool)) *taken {
	b.mu.Lock()
	refs, owner := slices.Clone(b.solved), b.owner
	b.mu.Unlock()
	attrs := r.attrs
	t := &taken{refs: refs, outcomes: map[digest.Digest]explain.Outcome{}}
	t.head = explain.Trace{
		Build: b.id, Started: b.started.UTC(), Ended: time.Now().UTC(),
		Project: explain.Project{
			Frontend: r.frontend, Context: attest.Redact(attrs["context"]), File: attrs["filename"], Target: attrs["target"], Owner: owner,
		},
		Args: explain.Args(attrs), Removals: b.d.removals.list(),
	}
	if v, ok := attrs["no-cache"]; ok {
		if t.head.NoCache = v; v == "" {
			t.head.NoCache = "*"
		}
	}
	for _, e := range r.imports {
		a := e.GetAttrs()
		where := e.GetType()
		for _, k := range []string{"ref", "src", "name"} {
			if a[k] != "" {
				where += " " + a[k]
				break
			}
		}
		t.head.Imports = append(t.head.Imports, attest.Redact(where))
	}
	seen := map[*solver.Vertex]bool{}
	for _, r := range refs {
		for todo := []*solver.Vertex{r.edge.Vertex}; len(todo) > 0; {
			v := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if v == nil || seen[v] {
				continue
			}
			seen[v] = true
			for _, in := range v.Inputs {
				todo = append(todo, in.Vertex)
			}
			if _, ok := t.outcomes[v.Show.Digest]; ok {
				continue
			}
			if f, ok := fate(v); ok {
				t.outcomes[v.Show.Digest] = t.outcome(b, v, f)
			}
		}
	}
	return t
}

// outcome is what the trace keeps of the fate of a vertex.
func (t *taken) outcome(b *build, v *solver.Vertex, f solver.Fate) explain.Outcome {
	o := explain.Outcome{Name: v.Show.Name, State: explain.Idle, NoCache: f.NoCache, Stamped: f.Stamped, Took: f.Took}
	switch {
	case f.Made:
		o.State = explain.Ran
	case f.Found:
		o.State = explain.Hit
	case f.Unknown:
		o.State = explain.Unknown
	case f.Covered:
		o.State = explain.Covered
	}
	if f.Spec != (solver.ID{}) {
		o.Spec = hex.EncodeToString(f.Spec[:16])
	}
	if f.Key != (solver.ID{}) {
		o.Key = hex.EncodeToString(f.Key[:16])
	}
	for _, s := range f.Slots {
		o.Slots = append(o.Slots, hex.EncodeToString(s[:16]))
	}
	for _, ref := range f.Refs {
		if ref == nil {
			continue
		}
		if l, ok := ref.(*worker.Ref); ok && len(o.Layers) == 0 {
			o.Layers = []string{"scratch"}
			if s := l.Snapshot(); s != nil {
				ids := s.LayerIDs()
				o.Layers = []string{explain.Short(ids[len(ids)-1])}
			}
		}
		ref.Release()
	}
	if len(v.Inputs) > 0 {
		return o
	}
	if tree, name := worker.Directory(b.job, v); tree != nil {
		t.dirs = append(t.dirs, &clientDir{name, tree.Digest().Encoded(), tree.Len(), tree.Items(), ignoreFiles(tree)})
		o.Local = len(t.dirs)
	}
	o.Pin = pinOf(worker.Used(b.job, solver.Edge{Vertex: v})[v.Show.Digest])
	return o
}

// pinOf is what a source was, in a word.
func pinOf(u provenance.Used) string {
	for _, m := range u.Materials {
		for _, algorithm := range []string{"sha256", "sha1"} {
			if d := m.Digest[algorithm]; d != "" {
				return algorithm + ":" + d
			}
		}
	}
	return ""
}

// finish makes the document.
func (t *taken) finish() ([]byte, error) {
	taker := explain.Taker{Trace: t.head}
	for _, d := range t.dirs {
		taker.Trace.Locals = append(taker.Trace.Locals, d.list())
		taker.Trace.Ignores = append(taker.Trace.Ignores, d.ignores...)
	}
	for _, r := range t.refs {
		taker.Graph(r.graph, func(d digest.Digest) (explain.Outcome, bool) {
			o, ok := t.outcomes[d]
			return o, ok
		})
	}
	return taker.Trace.Encode()
}

// list is what the directory has.
func (d *clientDir) list() explain.Local {
	out := explain.Local{Name: d.name, Sum: d.sum, Count: d.count}
	if out.Count > explain.MaxFiles {
		return out
	}
	out.Files = make([]explain.File, 0, out.Count)
	for it := range d.items {
		f := explain.File{Path: it.Path, Mode: it.Mode.String()}
		if it.UID != 0 || it.GID != 0 {
			f.Mode += fmt.Sprintf(" %d:%d", it.UID, it.GID)
		}
		if it.Xattrs != "" {
			sum := sha256.Sum256([]byte(it.Xattrs))
			f.Mode += " xattrs " + hex.EncodeToString(sum[:4])
		}
		switch it.Mode.Type() {
		case 0:
			f.Sum = hex.EncodeToString(it.Sum[:8])
		case fs.ModeSymlink:
			f.Sum = it.Link
		}
		out.Files = append(out.Files, f)
	}
	return out
}

// maxOfFrontend is how many files a directory has, at most, that a frontend asked for to
// read instructions from it.
const maxOfFrontend = 16

// ignoreFiles are those among what a frontend read.
func ignoreFiles(tree *local.Tree) (out []explain.Text) {
	if tree.Len() > maxOfFrontend {
		return nil
	}
	for it := range tree.Items() {
		if !it.Mode.IsRegular() || !strings.HasSuffix(path.Base(it.Path), "ignore") {
			continue
		}
		f, err := tree.Open(it.Path)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(f, maxReadFile))
		f.Close()
		if err == nil {
			out = append(out, explain.NewText(it.Path, text))
		}
	}
	return out
}

// Bounds of what is remembered about removals.
const (
	maxRemovals      = 16
	maxRemovedLayers = 1000
)

// removals are those of late. The zero value is none.
type removals struct {
	mu   sync.Mutex
	last []explain.Removal // the last first
}

// A removal gathers what one collection removes.
type removal struct {
	by     string
	all    bool
	layers []string
}

func (r *removal) add(rec snapshot.Record) {
	if len(r.layers) < maxRemovedLayers {
		r.layers = append(r.layers, explain.Short(rec.ID))
	}
}

// add notes a removal, if it removed anything.
func (r *removals) add(one removal) {
	if len(one.layers) == 0 && !one.all {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = append([]explain.Removal{{At: time.Now().UTC(), By: one.by, All: one.all, Layers: one.layers}}, r.last[:min(len(r.last), maxRemovals-1)]...)
}

// list is a copy that does not change.
func (r *removals) list() []explain.Removal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.last)
}
