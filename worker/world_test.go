package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	containerdlog "github.com/containerd/log"
	"github.com/dbuild/dbuild/cache/bolt"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/session"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/local"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/mountinfo"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) {
	_ = containerdlog.SetLevel("fatal") // about filesystems without fs-verity, sessions that end
	goleak.VerifyTestMain(m)
}

var amd = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// A world is a worker with everything around it but containers.
type world struct {
	t        testing.TB
	root     string
	store    *snapshot.Store
	cache    solver.Cache
	solver   *solver.Solver
	sessions *session.Manager
	worker   *worker.Worker
	exec     *executor
	jobs     int
}

// An executor runs processes as Go functions that see the mounts of the host.
type executor struct {
	worker.Executor // nothing else is asked for
	mu              sync.Mutex
	ran             []runc.Process
	do              func(context.Context, runc.Process) error
}

func (e *executor) Run(ctx context.Context, p runc.Process) error {
	e.mu.Lock()
	e.ran = append(e.ran, p)
	do := e.do
	e.mu.Unlock()
	if do == nil {
		return nil
	}
	return do(ctx, p)
}

// runs counts the processes since it was last called.
func (e *executor) runs() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.ran)
	e.ran = nil
	return n
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, root: t.TempDir(), exec: &executor{}}
	var err error
	w.store, err = snapshot.Open(t.Context(), snapshot.Config{
		Root: filepath.Join(w.root, "store"),
		Fetch: func(context.Context, bksession.Group, []registry.Location, ocispec.Descriptor) (io.ReadCloser, error) {
			return nil, errors.New("the registry does not serve it any more")
		},
	})
	must(t, err)
	w.cache, err = bolt.New(w.store, worker.NewRef)
	must(t, err)
	w.sessions, err = session.NewManager()
	must(t, err)
	steps := filepath.Join(w.root, "steps")
	must(t, os.Mkdir(steps, 0o711))
	w.worker = worker.New(worker.Config{
		Root: steps, Store: w.store, Executor: w.exec, Sessions: w.sessions,
		Locals:    local.New(local.Config{Store: w.store, Sessions: w.sessions}),
		Platforms: []ocispec.Platform{amd},
	})
	w.solver = solver.New(solver.Config{Cache: w.cache})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		must(t, w.solver.Wait(ctx))
		w.clean()
		must(t, w.store.Close())
	})
	return w
}

// clean checks that no step left anything: mounts, files of its own, results in use.
func (w *world) clean() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	must(w.t, w.solver.Wait(ctx))
	if st := w.solver.Stats(); st.Jobs != 0 || st.Cells != 0 {
		w.t.Errorf("the solver holds %+v", st)
	}
	if m := w.mounts(); len(m) > 0 {
		w.t.Errorf("left mounted: %q", m)
	}
	entries, err := os.ReadDir(filepath.Join(w.root, "steps"))
	must(w.t, err)
	if len(entries) > 0 {
		w.t.Errorf("steps left %v", entries)
	}
	records, err := w.store.Usage(ctx, nil)
	must(w.t, err)
	for _, r := range records {
		if r.InUse {
			w.t.Errorf("in use: %s %q", r.ID, r.Description)
		}
	}
}

func (w *world) mounts() []string {
	w.t.Helper()
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(w.root))
	must(w.t, err)
	var out []string
	for _, m := range list {
		out = append(out, m.Mountpoint)
	}
	return out
}

// layers is how many results the store keeps.
func (w *world) layers() int {
	w.t.Helper()
	records, err := w.store.Usage(context.Background(), []string{"type==regular"})
	must(w.t, err)
	return len(records)
}

// A client asks for builds.
type client struct {
	sessions []string
	blobs    *snapshot.Compression
	seeds    func(worker.CacheMount) []snapshot.Seed
}

var _ worker.CacheSeeder = client{}

func (c client) CacheSeeds(m worker.CacheMount) []snapshot.Seed {
	if c.seeds == nil {
		return nil
	}
	return c.seeds(m)
}

func (c client) Eager() bool        { return false }
func (c client) Pins() *worker.Pins { return &worker.Pins{} }
func (c client) Sessions() []string { return c.sessions }
func (c client) Blobs() (snapshot.Compression, bool) {
	if c.blobs == nil {
		return snapshot.Compression{}, false
	}
	return *c.blobs, true
}

// A request is how one build is made, if not as usual.
type request struct {
	client client
	load   worker.LoadOptions
	stream *progress.Stream
	ctx    context.Context
}

// result is the outcome of a build; files reads it.
type result struct {
	w   *world
	key solver.Key
	ref solver.Ref
}

// try builds a definition.
func (w *world) try(def *pb.Definition, r request) (*result, error) {
	w.t.Helper()
	if r.ctx == nil {
		r.ctx = w.t.Context()
	}
	g, err := llb.Load(def, llb.Limits{})
	must(w.t, err)
	edge, ok, err := w.worker.Load(g, r.load)
	if err != nil {
		return nil, err
	}
	if !ok {
		w.t.Fatal("nothing to build")
	}
	w.jobs++
	job := w.solver.NewJob(fmt.Sprint("job", w.jobs), solver.JobOptions{Value: r.client, Stream: r.stream})
	defer job.Close()
	res, err := job.Build(r.ctx, edge)
	if err != nil {
		return nil, err
	}
	return &result{w, res.Key, res.Ref}, nil
}

// build builds o, which must succeed, and returns its key and its files.
func (w *world) build(o llb.Output) (solver.Key, map[string]string) {
	w.t.Helper()
	return w.finish(w.try(w.marshal(o), request{}))
}

// keyOf builds o and returns its key.
func (w *world) keyOf(o llb.Output) solver.Key {
	w.t.Helper()
	key, _ := w.build(o)
	return key
}

func (w *world) finish(r *result, err error) (solver.Key, map[string]string) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.ref.Release()
	return r.key, r.files()
}

// fails builds o, which must fail, and returns why.
func (w *world) fails(o llb.Output, r request) error {
	w.t.Helper()
	res, err := w.try(w.marshal(o), r)
	if err == nil {
		res.ref.Release()
		w.t.Fatal("the build should fail")
	}
	return err
}

func (w *world) marshal(o llb.Output) *pb.Definition {
	w.t.Helper()
	def, err := llb.Marshal(w.t.Context(), o, amd)
	must(w.t, err)
	return def
}

// files returns what is in a result: the content of files, "-> x" for links, "dir".
func (r *result) files() map[string]string {
	t := r.w.t
	t.Helper()
	tree, err := r.w.worker.Files(context.Background(), snapshot.Access{}, r.ref)
	must(t, err)
	out := map[string]string{}
	var walk func(string)
	walk = func(dir string) {
		names, err := tree.ReadDir(dir)
		must(t, err)
		for _, n := range names {
			p := strings.TrimPrefix(dir+"/"+n, "/")
			out[p] = content(t, tree, p)
			if out[p] == "dir" {
				walk(p)
			}
		}
	}
	walk("")
	return out
}

func content(t testing.TB, tree treehash.FS, p string) string {
	t.Helper()
	st, err := tree.Lstat(p)
	must(t, err)
	switch mode := fs.FileMode(st.Mode); {
	case mode.IsDir():
		return "dir"
	case mode&fs.ModeSymlink != 0:
		return "-> " + st.Linkname
	}
	f, err := tree.Open(p)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return string(b)
}

// only fails unless the files are those wanted, given as path=content.
func only(t testing.TB, files map[string]string, want ...string) {
	t.Helper()
	var got []string
	for p, c := range files {
		got = append(got, p+"="+c)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the files are\n\t%q, want\n\t%q", got, want)
	}
}

// join connects, in memory, a client that offers what is given, and returns its id.
func (w *world) join(key string, offers ...bksession.Attachable) *bksession.Session {
	w.t.Helper()
	s, err := bksession.NewSession(context.Background(), key)
	must(w.t, err)
	for _, o := range offers {
		s.Allow(o)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.Run(context.Background(), func(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
			wg.Go(func() { _ = w.sessions.HandleConn(ctx, ours, meta) })
			return &closing{theirs, cancel}, nil
		})
	})
	w.t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return s
}

// A closing connection ends the call that carries it, as a stream does.
type closing struct {
	net.Conn
	closed func()
}

func (c *closing) Close() error {
	c.closed()
	return c.Conn.Close()
}

// directory offers a directory with these files as a local source.
func directory(t testing.TB, name string, files map[string]string) bksession.Attachable {
	t.Helper()
	dir := t.TempDir()
	for p, c := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, p), []byte(c), 0o644))
	}
	tree, err := fsutil.NewFS(dir)
	must(t, err)
	return filesync.NewFSSyncProvider(filesync.StaticDirSource{name: tree})
}

// files is a filesystem made by a file op.
func files(pairs ...string) llb.Output {
	var actions []llb.FileAction
	for i := 0; i < len(pairs); i += 2 {
		actions = append(actions, llb.Mkfile{Path: pairs[i], Mode: 0o644, Data: []byte(pairs[i+1])})
	}
	return llb.File(llb.Output{}, actions, llb.Meta{})
}

// run is a process that the executor knows by its arguments.
func run(root llb.Output, args string, mounts ...llb.Mount) llb.ExecResult {
	return llb.Exec(llb.ExecOptions{Root: root, Args: strings.Fields(args), Cwd: "/", Mounts: mounts}, llb.Meta{})
}

// wire makes a definition of ops as they are; its result is an output of the last.
func wire(t testing.TB, output int64, ops ...*pb.Op) *pb.Definition {
	t.Helper()
	def := &pb.Definition{}
	for _, op := range append(ops, &pb.Op{Inputs: []*pb.Input{input(t, ops[len(ops)-1], output)}}) {
		dt, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
		must(t, err)
		def.Def = append(def.Def, dt)
	}
	return def
}

func input(t testing.TB, op *pb.Op, output int64) *pb.Input {
	t.Helper()
	dt, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
	must(t, err)
	return &pb.Input{Digest: string(digest.FromBytes(dt)), Index: output}
}

// mountAt returns where the host sees what a process has at a path.
func mountAt(p runc.Process, target string) string {
	for _, m := range p.Mounts {
		if m.Target == target {
			return m.Source
		}
	}
	return ""
}

// output returns what a build shows of the output of its processes.
func output(s *progress.Stream) string {
	s.Close()
	var out bytes.Buffer
	for r := s.Reader(); ; {
		events, err := r.Next(context.Background(), 0)
		if err != nil {
			return out.String()
		}
		for _, e := range events {
			if e.Output != nil {
				out.Write(e.Output.Data)
			}
		}
	}
}

func access() snapshot.Access { return snapshot.Access{} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait returns what comes from a channel, soon.
func wait[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing happened for 20 s")
		panic("unreachable")
	}
}

func write(path, content string) error { return os.WriteFile(path, []byte(content), 0o644) }
