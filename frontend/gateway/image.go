package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/distribution/reference"
	apitypes "github.com/moby/buildkit/api/types"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Labels that frontend images have.
const (
	labelNoNetwork = "moby.buildkit.frontend.network.none"
	labelCaps      = "moby.buildkit.frontend.caps"
)

// capInputs is demanded of a frontend that is given inputs.
const capInputs = "moby.buildkit.frontend.inputs"

// exitGrace is how long a frontend that has returned may take to exit.
const exitGrace = 2 * time.Second

// An Image is a frontend that is run in a container: its filesystem and its config.
type Image struct {
	Definition *pb.Definition
	Config     []byte // JSON image config
}

// ImagesConfig says how frontends that are images are found and served.
type ImagesConfig struct {
	// Find returns the image that the request means by name.
	Find func(ctx context.Context, b frontend.Bridge, req *frontend.Request, name string) (*Image, error)
	// Builtin names the frontend of the daemon that stands for an image, or is "".
	Builtin func(name string) string
	// Allowed are the repositories that frontends may come from; none means all.
	Allowed []string
	Workers func() []*apitypes.WorkerRecord
	// Server are options of the connections to frontends.
	Server []grpc.ServerOption
}

// Images is the frontend "gateway.v0": it runs the frontend that is in the image which the
// option "source" names.
type Images struct {
	config  ImagesConfig
	allowed []string // normalized
}

// NewImages returns the frontend that runs images.
func NewImages(c ImagesConfig) (*Images, error) {
	f := &Images{config: c}
	for _, a := range c.Allowed {
		ref, err := reference.ParseNormalizedNamed(a)
		if err != nil {
			return nil, fmt.Errorf("allowed repository %q: %w", a, err)
		}
		f.allowed = append(f.allowed, reference.TrimNamed(ref).Name())
	}
	return f, nil
}

// Solve implements frontend.Frontend.
func (f *Images) Solve(ctx context.Context, b frontend.Bridge, req *frontend.Request) (*frontend.Result, error) {
	source := req.Opts["source"]
	if source == "" {
		return nil, cerrdefs.ErrInvalidArgument.WithMessage("no source specified for gateway: the option source names the frontend's image")
	}
	if name := f.config.Builtin(source); name != "" {
		inner := *req
		inner.Opts = maps.Clone(req.Opts)
		// Whoever reads a syntax directive again must not come back here.
		inner.Opts["cmdline"] = cmp.Or(inner.Opts["cmdline"], source)
		return b.SolveFrontend(ctx, name, &inner)
	}
	if err := f.permit(source); err != nil {
		return nil, err
	}
	img, err := f.config.Find(ctx, b, req, source)
	if err != nil {
		return nil, fmt.Errorf("frontend %s: %w", source, err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(img.Config, &config); len(img.Config) > 0 && err != nil {
		return nil, fmt.Errorf("frontend %s: config of the image: %w", source, err)
	}
	if err := checkCaps(config.Config.Labels[labelCaps], req); err != nil {
		return nil, err
	}
	root, err := b.Solve(ctx, img.Definition)
	if err != nil {
		return nil, err
	}
	return f.run(ctx, b, req, &program{source: source, root: root, config: &config.Config})
}

// permit says why a frontend may not be run here.
func (f *Images) permit(source string) error {
	if len(f.allowed) == 0 {
		return nil
	}
	ref, err := reference.ParseNormalizedNamed(source)
	if err != nil {
		return cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("frontend %q: %v", source, err))
	}
	if !slices.Contains(f.allowed, reference.TrimNamed(ref).Name()) {
		return cerrdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("'%s' is not an allowed gateway source", source))
	}
	return nil
}

// checkCaps refuses what an image does not say it can do.
func checkCaps(has string, req *frontend.Request) error {
	names := func(list string) (out []string) {
		for c := range strings.SplitSeq(list, ",") {
			if name, _, _ := strings.Cut(c, "+"); name != "" {
				out = append(out, name)
			}
		}
		return out
	}
	want := names(req.Opts["frontend.caps"])
	if len(req.Inputs) > 0 {
		want = append(want, capInputs)
	}
	can := names(has)
	for _, c := range want {
		if !slices.Contains(can, c) {
			return errdefs.NewUnsupportedFrontendCapError(c)
		}
	}
	return nil
}

// A program is a frontend that is ready to run.
type program struct {
	source string
	root   frontend.Ref
	config *ocispec.ImageConfig
}

func (p *program) container() (frontend.ContainerRequest, error) {
	r := frontend.ContainerRequest{
		Mounts: []frontend.ContainerMount{{Mount: &pb.Mount{Dest: pb.RootMount}, Ref: p.root}},
	}
	if p.root != nil {
		def, err := p.root.Definition().MarshalVT()
		if err != nil {
			return r, err
		}
		r.Mounts = append(r.Mounts, frontend.ContainerMount{
			Mount: &pb.Mount{Dest: "/run/config/buildkit/metadata", Readonly: true},
			Files: map[string][]byte{"frontend.bin": def},
		})
	}
	if off, err := strconv.ParseBool(p.config.Labels[labelNoNetwork]); err == nil && off {
		r.Network = pb.NetMode_NONE
	}
	return r, nil
}

func (p *program) process(req *frontend.Request, workers []*apitypes.WorkerRecord) (frontend.Process, error) {
	env := slices.Clone(p.config.Env)
	for i, k := range slices.Sorted(maps.Keys(req.Opts)) {
		env = append(env, fmt.Sprintf("BUILDKIT_FRONTEND_OPT_%d=%s=%s", i, k, req.Opts[k]))
	}
	list, err := json.Marshal(workerInfos(workers))
	if err != nil {
		return frontend.Process{}, err
	}
	env = append(env, "BUILDKIT_SESSION_ID="+req.Session, "BUILDKIT_WORKERS="+string(list), "BUILDKIT_EXPORTEDPRODUCT=dbuild")
	args := p.config.Entrypoint
	if len(args) == 0 {
		args = []string{"/run"}
	}
	return frontend.Process{Meta: &pb.Meta{
		Args: args, Env: env, Cwd: cmp.Or(p.config.WorkingDir, "/"), RemoveMountStubsRecursive: true,
	}}, nil
}

// A workerInfo is a worker in the JSON that frontends read.
type workerInfo struct {
	ID        string
	Labels    map[string]string
	Platforms []ocispec.Platform
}

func workerInfos(records []*apitypes.WorkerRecord) []workerInfo {
	out := make([]workerInfo, 0, len(records))
	for _, r := range records {
		w := workerInfo{ID: r.GetID(), Labels: r.GetLabels()}
		for _, p := range r.GetPlatforms() {
			w.Platforms = append(w.Platforms, *platform(p))
		}
		out = append(out, w)
	}
	return out
}

// run runs a frontend until it returns, and serves it meanwhile.
func (f *Images) run(ctx context.Context, b frontend.Bridge, req *frontend.Request, p *program) (_ *frontend.Result, err error) {
	workers := f.config.Workers()
	want, err := p.container()
	if err != nil {
		return nil, err
	}
	proc, err := p.process(req, workers)
	if err != nil {
		return nil, err
	}
	c, err := b.NewContainer(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("frontend %s: %w", p.source, err)
	}
	defer func() {
		if e := c.Release(context.WithoutCancel(ctx)); err == nil && e != nil {
			err = fmt.Errorf("frontend %s: %w", p.source, e)
		}
	}()
	s := newServing(ctx, Build{Bridge: b, Inputs: req.Inputs, Workers: workers})
	defer s.close()
	ours, theirs := net.Pipe()
	stop := f.serve(s, ours)
	defer stop()

	log := &tail{w: b.Log("frontend " + p.source)}
	proc.Stdin, proc.Stdout, proc.Stderr = theirs, theirs, log
	running, err := c.Start(ctx, proc)
	if err != nil {
		return nil, fmt.Errorf("frontend %s: %w", p.source, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- running.Wait() }() // Release ends it
	select {
	case o := <-s.done:
		grace := time.NewTimer(exitGrace)
		defer grace.Stop()
		select {
		case <-exited:
		case <-grace.C:
		case <-ctx.Done():
		}
		return o.res, o.err
	case err := <-exited:
		return s.exited(p.source, err, log)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// exited is the outcome of a frontend whose process has ended.
func (s *serving) exited(source string, err error, log *tail) (*frontend.Result, error) {
	select {
	case o := <-s.done:
		return o.res, o.err
	default:
	}
	s.mu.Lock()
	final := s.final
	s.mu.Unlock()
	if err == nil && final != nil {
		return final, nil
	}
	if err == nil {
		err = errors.New("it exited")
	}
	err = fmt.Errorf("frontend %s ended without a result: %w", source, err)
	if said := log.String(); said != "" {
		err = fmt.Errorf("%w\n%s", err, said)
	}
	return nil, err
}

// serve answers on conn until the function that it returns is called.
func (f *Images) serve(s *serving, conn net.Conn) (stop func()) {
	srv := grpc.NewServer(f.config.Server...)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	gwpb.RegisterLLBBridgeServer(srv, &service{find: func(context.Context) (*serving, error) { return s, nil }})
	l := &listener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conns <- conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	return func() {
		s.end(errEnded)
		srv.Stop()
		<-done
	}
}

// maxTail is how much of what a frontend logged an error repeats, in bytes.
const maxTail = 2 << 10

// A tail passes a log on and keeps its end.
type tail struct {
	w io.WriteCloser

	mu   sync.Mutex
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.last = append(t.last, p...)
	if over := len(t.last) - maxTail; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
	}
	t.mu.Unlock()
	return t.w.Write(p)
}

// Close ends the log.
func (t *tail) Close() error { return t.w.Close() }

// String returns the last lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := bytes.TrimSpace(t.last)
	if len(t.last) == maxTail { // the first line is cut
		if _, rest, ok := bytes.Cut(last, []byte("\n")); ok {
			last = rest
		}
	}
	return strings.ToValidUTF8(string(last), "\uFFFD")
}
