package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/cache/remote"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/history"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/policy"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc/proxy"
	"github.com/dbuild/dbuild/worker/runc/usage"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	bksession "github.com/moby/buildkit/session"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// A build is one client's request while it runs. It is the Bridge of its frontend, and
// the Value of its solver job.
type build struct {
	d        *Daemon
	id       string
	job      *solver.Job
	stream   *progress.Stream
	sessions []string
	load     worker.LoadOptions
	blobs    *snapshot.Compression // nil: no layers are exported
	policy   *policy.Policy        // of the request
	pins     worker.Pins
	eager    bool           // base images are read when they are named
	entry    *history.Entry // nil: the build is not remembered

	cacheDirs map[string]worker.CacheDir // by the id of the cache mount

	started       time.Time
	attests       attest.Options                // what the client wants to have said about the result
	system        *usage.Recorder[usage.System] // what the machine does; nil if nobody asked
	compatibility int                           // version of behaviour that the client wants; 0 is the newest
	planning      bool                          // nothing may be run
	direct        bool                          // the client asked for a frontend, and nothing else
	root          *question                     // what the client asked
	imports       *importing

	mu       sync.Mutex
	vertices map[digest.Digest]origin // of every definition loaded, for errors
	refs     []solver.Ref             // held until the build ends
	warned   map[string]bool
	answer   *question // of a frontend, the last
	answers  map[answerID]*provenance.Request
	solved   []*ref   // of every definition
	spoken   []string // namespaces of cache mounts that it has spoken of
	owner    string   // of the client's directories; "" until its session has arrived

	life context.Context // ends when the build is closed
	end  context.CancelFunc

	admitMu        sync.Mutex
	admitted, over bool // has a place among the working builds; had it
	// containers are those of frontends; those that still run are released at the end.
	containers []*container
	fetched    []*proxy.Record          // by containers
	failures   map[*worker.Failure]bool // whose results are held
	keeps      atomic.Bool              // what failed operations left may be looked at
	ended      bool                     // nothing more is kept
}

// origin is where an operation comes from.
type origin struct {
	vertex *llb.Vertex
	files  []*pb.SourceInfo // that its locations point into
}

var (
	_ frontend.Bridge = (*build)(nil)
	_ worker.Keeper   = (*build)(nil)

	_ worker.CacheDirLender = (*build)(nil)
	_ worker.CacheSeeder    = (*build)(nil)
	_ worker.SourceJudge    = (*build)(nil)
	_ worker.UsageAsker     = (*build)(nil)
)

func (d *Daemon) newBuild(r *request) *build {
	b := &build{
		d: d, id: r.id, blobs: r.blobs(), stream: progress.NewStream(),
		vertices:  map[digest.Digest]origin{},
		warned:    map[string]bool{},
		load:      worker.LoadOptions{Scope: r.session, Proxied: r.proxied || d.cfg.ProxyNetwork},
		answers:   map[answerID]*provenance.Request{},
		cacheDirs: r.cacheDirs,
		started:   time.Now(), planning: r.plan, direct: r.frontend != "", compatibility: int(r.compatibility),
	}
	b.life, b.end = context.WithCancel(context.Background())
	if r.session != "" {
		b.sessions = []string{r.session}
	}
	b.imports = &importing{life: context.Background(), Imports: remote.NewImports(d.cacheConfig(), b.group()), begun: map[string]bool{}}
	b.job = d.solver.NewJob(r.id, solver.JobOptions{Stream: b.stream, Value: b, Cache: b.imports, NoRuns: r.plan})
	b.root = b.ask("", r.attrs, r.inputs)
	return b
}

// permit grants the build what it asks for, or says why not. What would change the result
// and is not known here is refused, not ignored.
func (b *build) permit(r *request) (err error) {
	if b.attests, err = attest.Parse(r.attrs); err != nil {
		return err
	}
	b.measure()
	for _, e := range r.entitlements {
		if name, spec, _ := strings.Cut(e, "="); name == "device" {
			if b.d.worker.Devices == nil {
				return errdefs.ErrPermissionDenied.WithMessage("entitlement device is not allowed by this daemon: CDI device support is disabled")
			}
			if err := b.load.Devices.Grant(spec); err != nil {
				return err
			}
			continue
		}
		if !slices.Contains(b.d.cfg.Entitlements, e) {
			return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("entitlement %s is not allowed by this daemon: start it with --allow %s", e, e))
		}
		b.load.HostNetwork = b.load.HostNetwork || e == "network.host"
		b.load.Insecure = b.load.Insecure || e == "security.insecure"
	}
	for i, e := range r.exporters {
		if e == nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("exporter %d is empty", i))
		}
	}
	if b.policy, err = b.policyOf(r); err != nil {
		return err
	}
	switch v := r.attrs["pull"]; v {
	case "", "lazy":
		b.eager = b.d.cfg.PullEager && v == ""
	case "eager":
		b.eager = true
	default:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("pull=%s is neither lazy nor eager", v))
	}
	switch r.compatibility {
	case 0, 10, 20, 30:
		return nil
	}
	return bkerrdefs.NewUnsupportedCompatibilityFeatureError(int(r.compatibility), "set: this daemon knows 10, 20 and 30")
}

// Sessions implements worker.Client.
func (b *build) Sessions() []string { return b.sessions }

// Pins implements worker.Client.
func (b *build) Pins() *worker.Pins { return &b.pins }

// Eager implements worker.Client.
func (b *build) Eager() bool { return b.eager }

// CacheDir implements worker.CacheDirLender.
func (b *build) CacheDir(id string) (worker.CacheDir, bool) {
	dir, ok := b.cacheDirs[id]
	return dir, ok
}

// JudgeSource implements worker.SourceJudge.
func (b *build) JudgeSource(ctx context.Context, op *pb.SourceOp) (*pb.SourceOp, error) {
	return b.policy.Source(ctx, op, nil)
}

// Keeps implements worker.Keeper.
func (b *build) Keeps() bool { return b.keeps.Load() }

// Keep implements worker.Keeper.
func (b *build) Keep(f *worker.Failure) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.failures[f] {
		return
	}
	if b.failures == nil {
		b.failures = map[*worker.Failure]bool{}
	}
	b.failures[f] = true
	for _, r := range slices.Concat(f.Inputs, f.Mounts) {
		if r != nil {
			b.refs = append(b.refs, r.Retain())
		}
	}
}

// shown returns what a failed operation saw as refs of the build, or false if the build
// holds nothing of it.
func (b *build) shown(f *worker.Failure) (inputs, mounts []frontend.Ref, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.failures[f] {
		return nil, nil, false
	}
	refs := func(list []solver.Ref) []frontend.Ref {
		out := make([]frontend.Ref, len(list))
		for i, r := range list {
			if r != nil {
				out[i] = &ref{b: b, res: r}
			}
		}
		return out
	}
	return refs(f.Inputs), refs(f.Mounts), true
}

// Blobs implements worker.Client.
func (b *build) Blobs() (c snapshot.Compression, ok bool) {
	if b.blobs == nil {
		return c, false
	}
	return *b.blobs, true
}

func (b *build) group() bksession.Group { return bksession.NewGroup(b.sessions...) }

// close ends the build: what it held may be collected, what it showed is complete. The
// context of the build has ended.
func (b *build) close() {
	b.end()
	if b.system != nil {
		b.system.Stop()
	}
	_ = b.imports.await(context.Background())
	b.warnings(b.stream.Unshown()...)
	b.stream.Close()
	b.mu.Lock()
	refs, containers := b.refs, b.containers
	b.refs, b.containers, b.ended = nil, nil, true
	b.mu.Unlock()
	for _, c := range containers {
		if err := c.Release(context.Background()); err != nil && !errors.Is(err, context.Canceled) {
			b.d.log.Error("release container", "build", b.id, "err", err)
		}
	}
	for _, r := range refs {
		r.Release()
	}
	b.pins.Close()
	b.job.Close()
	b.leave()
}

// step shows a piece of work that is not an operation of the graph.
func (b *build) step(id, name string) (*progress.Log, func(error)) {
	log := progress.NewLog()
	b.stream.Attach(log, progress.Vertex{Digest: digest.FromString(b.id + "\x00" + id), Name: attest.Redact(name)})
	return log, log.Start()
}

// notice shows one line under a step of its own: something the client should know that
// does not stop the build. It is shown once.
func (b *build) notice(name, text string) {
	b.mu.Lock()
	seen := b.warned[name+text]
	b.warned[name+text] = true
	b.mu.Unlock()
	if seen {
		return
	}
	log, done := b.step("notice:"+name, name)
	w := log.Output(2)
	fmt.Fprintln(w, text)
	w.Close()
	done(nil)
}

// Solve implements frontend.Bridge: it checks a definition now and builds it when its
// result is read or exported.
func (b *build) Solve(ctx context.Context, def *pb.Definition) (frontend.Ref, error) {
	return b.solveUnder(ctx, b.policy, def)
}

func (b *build) solveUnder(ctx context.Context, p *policy.Policy, def *pb.Definition) (frontend.Ref, error) {
	if err := b.admit(ctx); err != nil {
		return nil, err
	}
	def, g, err := b.graph(ctx, p, def)
	if err != nil {
		return nil, err
	}
	opt := b.load
	opt.Nested = func(ctx context.Context, def *pb.Definition) (*llb.Graph, error) {
		_, g, err := b.graph(ctx, p, def)
		return g, err
	}
	edge, ok, err := b.d.worker.Load(g, opt)
	if err != nil {
		return nil, b.locate(err)
	}
	r := &ref{b: b, def: def, graph: g, edge: edge, empty: !ok}
	b.mu.Lock()
	b.solved = append(b.solved, r)
	b.mu.Unlock()
	return r, nil
}

// ResolveImage implements frontend.Bridge.
func (b *build) ResolveImage(ctx context.Context, name string, opt frontend.ResolveOpt) (*frontend.ImageMeta, error) {
	return b.resolveImageUnder(ctx, b.policy, name, opt)
}

// ResolveSource implements frontend.Bridge.
func (b *build) ResolveSource(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	return b.resolveSourceUnder(ctx, b.policy, req)
}

// Platforms implements frontend.Bridge.
func (b *build) Platforms() []ocispec.Platform { return b.d.worker.Platforms }

// Warn implements frontend.Bridge. A warning about a vertex of a definition that was not
// built yet waits until it is; one about anything else gets a step of its own.
func (b *build) Warn(_ context.Context, w frontend.Warning) {
	out := progress.Warning{Level: w.Level, Short: []byte(w.Short), URL: w.URL, Source: w.Source, Ranges: w.Ranges}
	for _, l := range w.Detail {
		out.Detail = append(out.Detail, []byte(l))
	}
	if b.stream.Warn(w.Vertex, out) {
		return
	}
	b.mu.Lock()
	_, loaded := b.vertices[w.Vertex]
	b.mu.Unlock()
	if loaded {
		b.stream.WarnLater(w.Vertex, out)
		return
	}
	b.warnings(out)
}

// warnings shows warnings under a step of their own.
func (b *build) warnings(list ...progress.Warning) {
	if len(list) == 0 {
		return
	}
	log, done := b.step("warnings", "warnings")
	for _, w := range list {
		log.Warn(w)
	}
	done(nil)
}

func (b *build) locate(err error) error {
	var f *worker.Failure
	if errors.As(err, &f) {
		if inputs, mounts, ok := b.shown(f); ok {
			err = &frontend.FailedResults{Err: err, Inputs: inputs, Mounts: mounts}
		}
	}
	return locate(err, func(ve *solver.VertexError) (*llb.Vertex, []*pb.SourceInfo) {
		b.mu.Lock()
		defer b.mu.Unlock()
		o := b.vertices[ve.Vertex.Show.Digest]
		return o.vertex, o.files
	})
}

// hold keeps r until the build ends.
func (b *build) hold(r solver.Ref) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refs = append(b.refs, r)
}

// evaluate builds every ref of a result, at the same time.
func (b *build) evaluate(ctx context.Context, res *frontend.Result) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range results(res) {
		if r != nil {
			g.Go(func() error { return r.Evaluate(ctx) })
		}
	}
	return g.Wait()
}

func results(res *frontend.Result) []frontend.Ref {
	out := []frontend.Ref{res.Ref}
	for _, platform := range slices.Sorted(maps.Keys(res.Refs)) {
		out = append(out, res.Refs[platform])
	}
	return out
}

// layers returns the layers of r, built; nil is an empty filesystem.
func (b *build) layers(ctx context.Context, r frontend.Ref) (*snapshot.Ref, error) {
	br, ok := r.(*ref)
	if !ok || br == nil {
		return nil, nil
	}
	res, err := br.result(ctx)
	if err != nil || res == nil {
		return nil, err
	}
	return b.d.worker.Layers(ctx, res)
}
