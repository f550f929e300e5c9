package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/gateway"
	apitypes "github.com/moby/buildkit/api/types"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spolicy "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"
	"go.uber.org/goleak"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) {
	if os.Getenv(actAsFrontend) != "" {
		os.Exit(runFrontend())
	}
	goleak.VerifyTestMain(m)
}

// A bridge answers from memory.
type bridge struct {
	mu       sync.Mutex
	solved   []*pb.Definition
	resolved []frontend.ResolveOpt
	warnings []frontend.Warning
	hosts    []*host
	refuse   bool // a container
	log      bytes.Buffer
	// frontend answers SolveFrontend.
	frontend func(ctx context.Context, name string, r *frontend.Request) (*frontend.Result, error)
	policies string // how many were added
}

func (b *bridge) Solve(_ context.Context, def *pb.Definition) (frontend.Ref, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if string(def.Def[0]) == "bad" {
		return nil, cerrdefs.ErrInvalidArgument.WithMessage("a bad definition")
	}
	b.solved = append(b.solved, def)
	return &ref{name: string(def.Def[0]), def: def}, nil
}

func (b *bridge) ResolveImage(_ context.Context, name string, opt frontend.ResolveOpt) (*frontend.ImageMeta, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resolved = append(b.resolved, opt)
	return &frontend.ImageMeta{Ref: name + "@resolved", Digest: digest.FromString(name), Config: []byte("{}")}, nil
}

func (b *bridge) ResolveSource(_ context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	return &gwpb.ResolveSourceMetaResponse{Source: req.Source, Image: &gwpb.ResolveSourceImageResponse{Digest: b.policies}}, nil
}

func (b *bridge) WithPolicies(p []*spolicy.Policy) (frontend.Bridge, error) {
	if len(p) == 0 {
		return b, nil
	}
	if p[0].GetVersion() != 1 {
		return nil, cerrdefs.ErrInvalidArgument
	}
	return &bridge{policies: fmt.Sprint(len(p))}, nil
}

func (b *bridge) Warn(_ context.Context, w frontend.Warning) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.warnings = append(b.warnings, w)
}

func (b *bridge) ImportCache(...frontend.CacheEntry) {}

func (b *bridge) SolveFrontend(ctx context.Context, name string, r *frontend.Request) (*frontend.Result, error) {
	return b.frontend(ctx, name, r)
}

func (b *bridge) Log(string) io.WriteCloser { return logOf{b} }

type logOf struct{ b *bridge }

func (l logOf) Write(p []byte) (int, error) {
	l.b.mu.Lock()
	defer l.b.mu.Unlock()
	return l.b.log.Write(p)
}

func (logOf) Close() error { return nil }

func (b *bridge) NewContainer(_ context.Context, r frontend.ContainerRequest) (frontend.Container, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse {
		return nil, cerrdefs.ErrPermissionDenied.WithMessage("network.host is not allowed")
	}
	h := &host{request: r, running: map[*hostProcess]bool{}}
	b.hosts = append(b.hosts, h)
	return h, nil
}

// host is the first container.
func (b *bridge) host(t *testing.T) *host {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.hosts) == 0 {
		t.Fatal("there is no container")
	}
	return b.hosts[0]
}

func (b *bridge) Platforms() []ocispec.Platform {
	return []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}
}

// A ref has one file, /name, that holds its name.
type ref struct {
	name string
	def  *pb.Definition

	mu        sync.Mutex
	evaluated int
}

var errBroken = errors.New("this result is broken")

func (r *ref) Definition() *pb.Definition { return r.def }

func (r *ref) Evaluate(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evaluated++
	if r.name == "broken" {
		return errBroken
	}
	return nil
}

func (r *ref) ReadFile(_ context.Context, p string, offset, length int64) ([]byte, error) {
	if p != "/name" {
		return nil, fs.ErrNotExist
	}
	b := []byte(r.name)[offset:] // a negative offset would panic
	if length > 0 {
		b = b[:min(length, int64(len(b)))]
	}
	return b, nil
}

func (r *ref) ReadDir(context.Context, string, string) ([]*fstypes.Stat, error) {
	return []*fstypes.Stat{{Path: "name"}}, nil
}

func (r *ref) StatFile(_ context.Context, p string) (*fstypes.Stat, error) {
	return &fstypes.Stat{Path: strings.TrimPrefix(p, "/"), Size: int64(len(r.name))}, nil
}

// call is the context of a call that belongs to a build.
func call(ctx context.Context, ids ...string) context.Context {
	md := metadata.MD{}
	for _, id := range ids {
		md.Append("buildkit-controlapi-buildid", id)
	}
	return metadata.NewIncomingContext(ctx, md)
}

type outcome struct {
	res *frontend.Result
	err error
}

// serve serves a build in the background.
func serve(ctx context.Context, f *gateway.Forwarder, id string, b gateway.Build) <-chan outcome {
	out := make(chan outcome, 1)
	go func() {
		res, err := f.Serve(ctx, id, b)
		out <- outcome{res, err}
	}()
	return out
}

// start serves a build named "b" and returns the context of its calls.
func start(t *testing.T, b gateway.Build) (*gateway.Forwarder, context.Context, <-chan outcome) {
	t.Helper()
	f := gateway.NewForwarder()
	if b.Bridge == nil {
		b.Bridge = &bridge{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	out := make(chan outcome, 1)
	go func() {
		defer close(done)
		res, err := f.Serve(ctx, "b", b)
		out <- outcome{res, err}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return f, call(t.Context(), "b"), out
}

func define(name string) *pb.Definition { return &pb.Definition{Def: [][]byte{[]byte(name), nil}} }

// solve returns the id of a result.
func solve(t *testing.T, f *gateway.Forwarder, ctx context.Context, name string) string {
	t.Helper()
	resp, err := f.Solve(ctx, &gwpb.SolveRequest{Definition: define(name), AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Result.GetRef().GetId()
}

func TestCallBeforeItsBuildWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := gateway.NewForwarder()
		type pong struct {
			resp *gwpb.PongResponse
			err  error
		}
		answers := make(chan pong, 3)
		for range cap(answers) {
			go func() {
				resp, err := f.Ping(call(t.Context(), "late"), &gwpb.PingRequest{})
				answers <- pong{resp, err}
			}()
		}
		synctest.Wait()
		// Another build arrives first, which must not end the wait.
		ctx, cancel := context.WithCancel(t.Context())
		other := serve(ctx, f, "other", gateway.Build{Bridge: &bridge{}})
		synctest.Wait()
		if len(answers) != 0 {
			t.Fatal("answered for a build that is not there")
		}
		late := serve(ctx, f, "late", gateway.Build{Bridge: &bridge{}, Workers: []*apitypes.WorkerRecord{{ID: "w"}}})
		for range cap(answers) {
			a := <-answers
			if a.err != nil || len(a.resp.Workers) != 1 || len(a.resp.FrontendAPICaps) == 0 || len(a.resp.LLBCaps) == 0 {
				t.Errorf("got %v, %v", a.resp, a.err)
			}
		}
		cancel()
		if o := <-other; !errors.Is(o.err, context.Canceled) {
			t.Errorf("got %v", o.err)
		}
		<-late
	})
}

func TestUnknownBuildIsNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := gateway.NewForwarder()
		began := time.Now()
		_, err := f.Ping(call(t.Context(), "nobody"), &gwpb.PingRequest{})
		if !cerrdefs.IsNotFound(err) || err.Error() != "no such job nobody" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 1)
		go func() {
			_, err := f.Ping(call(ctx, "nobody"), &gwpb.PingRequest{})
			errs <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("a client that left: got %v", err)
		}
	})
}

func TestCallsWithoutBuild(t *testing.T) {
	f := gateway.NewForwarder()
	for name, ctx := range map[string]context.Context{
		"no metadata": t.Context(), "no id": call(t.Context()), "empty id": call(t.Context(), ""), "two ids": call(t.Context(), "a", "b"),
	} {
		if _, err := f.Ping(ctx, nil); !cerrdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestOneBuildPerID(t *testing.T) {
	f, ctx, out := start(t, gateway.Build{})
	if _, err := f.Ping(ctx, &gwpb.PingRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Serve(t.Context(), "b", gateway.Build{Bridge: &bridge{}}); !cerrdefs.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
	// The first is still served, and its id can be used again when it has ended.
	if _, err := f.Return(ctx, &gwpb.ReturnRequest{}); err != nil {
		t.Fatal(err)
	}
	if o := <-out; o.err != nil || o.res.Ref != nil || o.res.Refs != nil {
		t.Errorf("an empty return: got %+v, %v", o.res, o.err)
	}
	again := serve(t.Context(), f, "b", gateway.Build{Bridge: &bridge{}})
	if _, err := f.Return(ctx, &gwpb.ReturnRequest{}); err != nil {
		t.Fatal(err)
	}
	if o := <-again; o.err != nil {
		t.Error(o.err)
	}
}

// However many return at once, one does, and the build has its result.
func TestReturnTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := gateway.NewForwarder()
		out := serve(t.Context(), f, "b", gateway.Build{Bridge: &bridge{}})
		synctest.Wait()
		const n = 20
		errs := make(chan error, n)
		for i := range n {
			go func() {
				_, err := f.Return(call(t.Context(), "b"), &gwpb.ReturnRequest{Result: &gwpb.Result{Metadata: map[string][]byte{"by": []byte(fmt.Sprint(i))}}})
				errs <- err
			}()
		}
		accepted := 0
		for range n {
			err := <-errs
			switch {
			case err == nil:
				accepted++
			case cerrdefs.IsFailedPrecondition(err), cerrdefs.IsNotFound(err):
			default:
				t.Errorf("got %v", err)
			}
		}
		if accepted != 1 {
			t.Errorf("%d returns were accepted", accepted)
		}
		if o := <-out; o.err != nil || len(o.res.Metadata["by"]) == 0 {
			t.Errorf("got %+v", o)
		}
	})
}

func TestReturnedErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		in   *spb.Status
		code codes.Code
		msg  string
	}{
		"code":    {&spb.Status{Code: int32(codes.Unimplemented), Message: "cannot"}, codes.Unimplemented, "cannot"},
		"no code": {&spb.Status{Message: "odd"}, codes.Unknown, "odd"},
		"nothing": {&spb.Status{}, codes.Unknown, "did not say why"},
	} {
		f, ctx, out := start(t, gateway.Build{})
		if _, err := f.Return(ctx, &gwpb.ReturnRequest{Error: tt.in}); err != nil {
			t.Fatal(err)
		}
		o := <-out
		if o.res != nil || status.Code(o.err) != tt.code || !strings.Contains(fmt.Sprint(o.err), tt.msg) {
			t.Errorf("%s: got %+v, %v", name, o.res, o.err)
		}
	}
}

func TestReturnedResults(t *testing.T) {
	for name, tt := range map[string]struct {
		in     func(a, b string) *gwpb.Result
		single string
		many   map[string]string // "" is scratch
		err    string
	}{
		"nil":     {in: func(string, string) *gwpb.Result { return nil }},
		"scratch": {in: func(string, string) *gwpb.Result { return &gwpb.Result{Result: &gwpb.Result_Ref{}} }},
		"single":  {in: func(a, _ string) *gwpb.Result { return &gwpb.Result{Result: &gwpb.Result_Ref{Ref: &gwpb.Ref{Id: a}}} }, single: "A"},
		"single deprecated": {in: func(a, _ string) *gwpb.Result {
			return &gwpb.Result{Result: &gwpb.Result_RefDeprecated{RefDeprecated: a}}
		}, single: "A"},
		"map": {in: func(a, b string) *gwpb.Result {
			return &gwpb.Result{Result: &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: map[string]*gwpb.Ref{"x": {Id: a}, "y": {Id: b}, "z": nil}}}}
		}, many: map[string]string{"x": "A", "y": "B", "z": ""}},
		"map deprecated": {in: func(a, b string) *gwpb.Result {
			return &gwpb.Result{Result: &gwpb.Result_RefsDeprecated{RefsDeprecated: &gwpb.RefMapDeprecated{Refs: map[string]string{"x": a, "y": b, "z": ""}}}}
		}, many: map[string]string{"x": "A", "y": "B", "z": ""}},
		"empty maps":   {in: func(string, string) *gwpb.Result { return &gwpb.Result{Result: &gwpb.Result_Refs{}} }},
		"empty maps 2": {in: func(string, string) *gwpb.Result { return &gwpb.Result{Result: &gwpb.Result_RefsDeprecated{}} }},
		"unknown ref": {in: func(string, string) *gwpb.Result {
			return &gwpb.Result{Result: &gwpb.Result_RefDeprecated{RefDeprecated: "q"}}
		}, err: "no such result q"},
		"unknown ref in a map": {in: func(a, _ string) *gwpb.Result {
			return &gwpb.Result{Result: &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: map[string]*gwpb.Ref{"x": {Id: a}, "y": {Id: "q"}}}}}
		}, err: "no such result q"},
		"attestations": {in: func(a, _ string) *gwpb.Result {
			return &gwpb.Result{Result: &gwpb.Result_Ref{Ref: &gwpb.Ref{Id: a}}, Attestations: map[string]*gwpb.Attestations{"p": nil, "q": {
				Attestation: []*gwpb.Attestation{nil},
			}}}
		}, err: "attestation 0 of q: it has no predicate type"},
	} {
		t.Run(name, func(t *testing.T) {
			f, ctx, out := start(t, gateway.Build{})
			in := tt.in(solve(t, f, ctx, "A"), solve(t, f, ctx, "B"))
			if _, err := f.Return(ctx, &gwpb.ReturnRequest{Result: in}); err != nil {
				t.Fatal(err)
			}
			o := <-out
			if tt.err != "" {
				if o.err == nil || !strings.Contains(o.err.Error(), tt.err) {
					t.Errorf("got %v", o.err)
				}
				return
			}
			if o.err != nil {
				t.Fatal(o.err)
			}
			if o.res.Metadata == nil {
				t.Error("metadata cannot be written to")
			}
			if got := nameOf(o.res.Ref); got != tt.single {
				t.Errorf("got %q", got)
			}
			if len(o.res.Refs) != len(tt.many) {
				t.Errorf("got %v", o.res.Refs)
			}
			for k, want := range tt.many {
				if r, ok := o.res.Refs[k]; !ok || nameOf(r) != want {
					t.Errorf("%s is %q", k, nameOf(r))
				}
			}
		})
	}
}

func nameOf(r frontend.Ref) string {
	if r == nil {
		return ""
	}
	return r.(*ref).name
}
