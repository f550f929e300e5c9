package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/llb"
	controlapi "github.com/moby/buildkit/api/services/control"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type solved struct {
	resp *controlapi.SolveResponse
	err  error
}

// solve sends a request in the background.
func solve(ctx context.Context, c controlapi.ControlClient, req *controlapi.SolveRequest) <-chan solved {
	out := make(chan solved, 1)
	go func() {
		resp, err := c.Solve(ctx, req)
		out <- solved{resp, err}
	}()
	return out
}

// follow reads the status of a build in the background.
func follow(ctx context.Context, c controlapi.ControlClient, id string) <-chan shown {
	out := make(chan shown, 1)
	go func() { out <- read(c.Status(ctx, &controlapi.StatusRequest{Ref: id})) }()
	return out
}

// In whatever order the calls of a client arrive, they find each other.
func TestRendezvous(t *testing.T) {
	s := start(t)
	for i, order := range permutations("solve", "session", "status", "gateway") {
		id := fmt.Sprint("build-", i)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		ses := newSession(t, directory(t, "dir", map[string]string{"f": id}))
		c := s.control()
		bridge := gwpb.NewLLBBridgeClient(s.conn())
		var result <-chan solved
		var seen <-chan shown
		pinged := make(chan error, 1)
		s.serves(0)
		for n, call := range order {
			switch call {
			case "solve":
				result = solve(ctx, c, &controlapi.SolveRequest{Ref: id, Session: ses.ID()})
			case "session":
				s.joinAs(ses)
			case "status":
				seen = follow(ctx, c, id)
			case "gateway":
				go func() {
					_, err := bridge.Ping(calls(ctx, id), &gwpb.PingRequest{})
					pinged <- err
				}()
			}
			if call != "gateway" && !slices.Contains(order[:n], "gateway") {
				s.serves(n + 1)
			}
		}
		if err := wait(t, pinged); err != nil {
			t.Fatalf("%v: %v", order, err)
		}
		def := marshal(t, llb.File(llb.Output{}, []llb.FileAction{llb.Copy{From: llb.Local("dir", llb.LocalOptions{}, llb.Meta{}), Src: "/f", Dest: "/", Mode: llb.KeepMode}}, llb.Meta{Name: "copy"}))
		resp, err := bridge.Solve(calls(ctx, id), &gwpb.SolveRequest{Definition: def, AllowResultReturn: true, AllowResultArrayRef: true, Evaluate: true})
		must(t, err)
		f, err := bridge.ReadFile(calls(ctx, id), &gwpb.ReadFileRequest{Ref: resp.Result.GetRef().Id, FilePath: "/f"})
		if err != nil || string(f.Data) != id {
			t.Errorf("%v: read %v, %v", order, f, err)
		}
		_, err = bridge.Return(calls(ctx, id), &gwpb.ReturnRequest{Result: resp.Result})
		must(t, err)
		if r := wait(t, result); r.err != nil {
			t.Errorf("%v: %v", order, r.err)
		}
		if st := wait(t, seen); st.err != nil || !slices.Contains(st.names, "copy") {
			t.Errorf("%v: shown %+v", order, st)
		}
		ses.Close()
		cancel()
	}
}

func permutations(list ...string) (out [][]string) {
	if len(list) <= 1 {
		return [][]string{list}
	}
	for i := range list {
		rest := slices.Delete(slices.Clone(list), i, i+1)
		for _, p := range permutations(rest...) {
			out = append(out, append([]string{list[i]}, p...))
		}
	}
	return out
}

// The client's frontend is served although its session is still on its way.
func TestGatewayDoesNotWaitForTheSession(t *testing.T) {
	s := start(t)
	c, bridge := s.control(), gwpb.NewLLBBridgeClient(s.conn())
	ses := newSession(t)
	result := solve(t.Context(), c, &controlapi.SolveRequest{Ref: "b", Session: ses.ID()})
	if _, err := bridge.Ping(calls(t.Context(), "b"), &gwpb.PingRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := bridge.Return(calls(t.Context(), "b"), &gwpb.ReturnRequest{}); err != nil {
		t.Fatal(err)
	}
	if !s.running("b") {
		t.Error("the build ended without its session")
	}
	s.joinAs(ses)
	if r := wait(t, result); r.err != nil {
		t.Error(r.err)
	}
}

func TestSessionThatNeverArrives(t *testing.T) {
	t.Parallel()
	s := start(t)
	gateway := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: "a", Session: "nobody"})
	done := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: "b", Session: "nobody", Definition: marshal(t, tiny("x"))})
	for _, c := range []<-chan solved{gateway, done} {
		if r := wait(t, c); r.err == nil || !strings.Contains(r.err.Error(), "session did not arrive") {
			t.Errorf("got %v", r.err)
		}
	}
}

// What a build showed can be read when it has ended, and that of the last with its ref.
func TestStatusAfterTheEnd(t *testing.T) {
	s := start(t)
	c := s.control()
	for _, name := range []string{"one", "two"} {
		_, err := c.Solve(t.Context(), &controlapi.SolveRequest{Ref: "b", Definition: marshal(t, tiny(name))})
		must(t, err)
		for range 2 {
			if st := read(c.Status(t.Context(), &controlapi.StatusRequest{Ref: "b"})); st.err != nil || !slices.Equal(st.names, []string{"make " + name}) {
				t.Errorf("got %+v", st)
			}
		}
	}
	// Of a build that was refused there is nothing to see, and nothing to wait for.
	_, err := c.Solve(t.Context(), &controlapi.SolveRequest{Ref: "refused", Entitlements: []string{"x"}})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
	if st := read(c.Status(t.Context(), &controlapi.StatusRequest{Ref: "refused"})); st.err != nil || len(st.names) != 0 {
		t.Errorf("got %+v", st)
	}
}

func TestStatusOfUnknownBuild(t *testing.T) {
	t.Parallel()
	s := start(t)
	one, two := follow(t.Context(), s.control(), "nobody"), follow(t.Context(), s.control(), "")
	for _, c := range []<-chan shown{one, two} {
		if st := wait(t, c); status.Code(st.err) != codes.NotFound {
			t.Errorf("got %v", st.err)
		}
	}
}

func TestFindWaitsNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &Daemon{builds: map[string]*build{}, added: make(chan struct{}), gc: make(chan struct{}, 1)}
		began := time.Now()
		if _, err := d.find(t.Context(), "x"); !cerrdefs.IsNotFound(err) || err.Error() != "no such job x" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != waitForBuild {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.find(ctx, "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		// What others add meanwhile does not shorten the wait, and the build itself ends it.
		found := make(chan *progress.Stream)
		go func() {
			s, _ := d.find(t.Context(), "x")
			found <- s
		}()
		synctest.Wait()
		must(t, d.add(&build{id: "y", stream: progress.NewStream()}))
		synctest.Wait()
		x := &build{id: "x", stream: progress.NewStream()}
		must(t, d.add(x))
		if s := <-found; s != x.stream {
			t.Error("found another build")
		}
		// It can be found for a while after it has ended.
		d.remove(x)
		time.Sleep(keepEnded / 2)
		if s, err := d.find(t.Context(), "x"); s != x.stream || err != nil {
			t.Errorf("got %v", err)
		}
		time.Sleep(keepEnded)
		d.remove(&build{id: "z", stream: progress.NewStream()})
		if _, err := d.find(t.Context(), "x"); !cerrdefs.IsNotFound(err) {
			t.Errorf("kept for ever: %v", err)
		}
		for i := range 3 * maxEnded {
			d.remove(&build{id: fmt.Sprint(i), stream: progress.NewStream()})
		}
		if len(d.ended) != maxEnded {
			t.Errorf("%d ended builds are kept", len(d.ended))
		}
	})
}

func TestDuplicateRef(t *testing.T) {
	s := start(t)
	c, bridge := s.control(), gwpb.NewLLBBridgeClient(s.conn())
	first := solve(t.Context(), c, &controlapi.SolveRequest{Ref: "b"})
	_, err := bridge.Ping(calls(t.Context(), "b"), &gwpb.PingRequest{})
	must(t, err)
	for _, req := range []*controlapi.SolveRequest{{Ref: "b"}, {Ref: "b", Definition: marshal(t, tiny("x"))}, {Ref: "b", Entitlements: []string{"x"}}} {
		if _, err := c.Solve(t.Context(), req); status.Code(err) != codes.AlreadyExists {
			t.Errorf("got %v", err)
		}
	}
	if _, err := bridge.Return(calls(t.Context(), "b"), &gwpb.ReturnRequest{Result: &gwpb.Result{Metadata: map[string][]byte{"frontend.x": []byte("y")}}}); err != nil {
		t.Error(err)
	}
	if r := wait(t, first); r.err != nil || r.resp.ExporterResponse["frontend.x"] != "y" {
		t.Errorf("the first: %v, %v", r.resp, r.err)
	}
}
