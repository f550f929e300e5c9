package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc/network"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A daemon that stops ends its builds first, and leaves nothing of them.
func TestStopDuringABuild(t *testing.T) {
	s := start(t)
	result := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: "b", Definition: marshal(t, sh(base(1), "/bin/busybox sleep 76543", llb.Meta{}))})
	gateway := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: "g"})
	s.join()
	process(t, "sleep", "76543")
	if len(s.mounts()) == 0 {
		t.Error("nothing is mounted")
	}
	s.end()
	if pid := find("sleep", "76543"); pid != 0 {
		t.Errorf("process %d goes on", pid)
	}
	if m := s.mounts(); len(m) > 0 {
		t.Errorf("left mounted: %q", m)
	}
	for _, c := range []<-chan solved{result, gateway} {
		if r := wait(t, c); r.err == nil {
			t.Error("should be canceled")
		}
	}
}

// Builds of a client that leaves end, unless another client waits for the same step.
func TestClientLeaves(t *testing.T) {
	s := start(t)
	shared := func(try int) bool {
		def := marshal(t, sh(base(try), "echo begun; /bin/busybox sleep 65432 || echo ended", llb.Meta{Name: "step"}))
		ids := []string{fmt.Sprint("one", try), fmt.Sprint("two", try)}
		first, leave := context.WithCancel(t.Context())
		defer leave()
		one := solve(first, s.control(), &controlapi.SolveRequest{Ref: ids[0], Definition: def})
		pid := process(t, "sleep", "65432")
		two := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: ids[1], Definition: def})
		seen := follow(t.Context(), s.control(), ids[1])
		eventually(t, "the second build has come to the step", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.builds[ids[1]] != nil && s.builds[ids[1]].job.Stats().Vertices == 2
		})
		leave()
		if r := wait(t, one); status.Code(r.err) != codes.Canceled {
			t.Errorf("got %v", r.err)
		}
		eventually(t, "the first build ends", func() bool { return !s.running(ids[0]) })
		now := find("sleep", "65432")
		eventually(t, "the second build ends", func() bool {
			if pid := find("sleep", "65432"); pid != 0 {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
			return len(two) > 0
		})
		if r := wait(t, two); r.err != nil {
			t.Errorf("the second: %v", r.err)
		}
		if st := wait(t, seen); !strings.HasPrefix(st.output, "begun\n") || !strings.Contains(st.output, "ended\n") {
			t.Errorf("the second client saw %q", st.output)
		}
		return now == pid
	}
	// That the second build waits already when the first leaves cannot be seen from here.
	if !slices.ContainsFunc([]int{1, 2, 3, 4, 5}, shared) {
		t.Error("the step of the second client always ends with the first")
	}

	// Alone, it is ended.
	ctx, cancel := context.WithCancel(t.Context())
	three := solve(ctx, s.control(), &controlapi.SolveRequest{Ref: "three", Definition: marshal(t, sh(base(1), "/bin/busybox sleep 65433", llb.Meta{Name: "step"}))})
	late := follow(t.Context(), s.control(), "three")
	process(t, "sleep", "65433")
	cancel()
	wait(t, three)
	eventually(t, "the process ends", func() bool { return find("sleep", "65433") == 0 })
	if st := wait(t, late); len(st.errors) == 0 || !strings.HasSuffix(st.errors[len(st.errors)-1], "context canceled") {
		t.Errorf("shown: %+v", st)
	}
}

// A client whose session breaks off is gone, even if its connection is not.
func TestSessionLeaves(t *testing.T) {
	s := start(t)
	ses := s.join()
	result := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: "b", Session: ses.ID(), Definition: marshal(t, sh(base(1), "/bin/busybox sleep 54321", llb.Meta{}))})
	process(t, "sleep", "54321")
	ses.Close()
	if r := wait(t, result); status.Code(r.err) != codes.Canceled || !strings.Contains(r.err.Error(), "the client left") {
		t.Errorf("got %v", r.err)
	}
	eventually(t, "the process ends", func() bool { return find("sleep", "54321") == 0 })
}

// After any number of builds the daemon holds what it held before.
func TestNothingPilesUp(t *testing.T) {
	s := start(t)
	build := func(i int) {
		cc := s.dial()
		defer cc.Close()
		c, bridge := controlapi.NewControlClient(cc), gwpb.NewLLBBridgeClient(cc)
		ses := newSession(t, directory(t, "dir", map[string]string{"f": fmt.Sprint(i)}))
		defer connect(c, ses)()
		id := fmt.Sprint("build", i)
		result := solve(t.Context(), c, &controlapi.SolveRequest{Ref: id, Session: ses.ID()})
		seen := follow(t.Context(), c, id)
		root, path := tiny("x"), "/f"
		if i%10 == 0 { // a process takes long under the race detector
			root, path = base(1), "/tmp/g"
		}
		out := llb.File(root, []llb.FileAction{llb.Copy{From: llb.Local("dir", llb.LocalOptions{}, llb.Meta{}), Src: "/f", Dest: "/", Mode: llb.KeepMode}}, llb.Meta{})
		if i%10 == 0 {
			out = sh(out, "busybox cat /f > /tmp/g", llb.Meta{})
		}
		resp, err := bridge.Solve(calls(t.Context(), id), &gwpb.SolveRequest{Definition: marshal(t, out), AllowResultReturn: true, AllowResultArrayRef: true})
		must(t, err)
		f, err := bridge.ReadFile(calls(t.Context(), id), &gwpb.ReadFileRequest{Ref: resp.Result.GetRef().Id, FilePath: path})
		if err != nil || string(f.Data) != fmt.Sprint(i) {
			t.Errorf("got %v, %v", f, err)
		}
		_, err = bridge.Return(calls(t.Context(), id), &gwpb.ReturnRequest{Result: resp.Result})
		must(t, err)
		if r := wait(t, result); r.err != nil {
			t.Error(r.err)
		}
		wait(t, seen)
	}
	held := func() (int, int) {
		fds, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return runtime.NumGoroutine(), len(fds)
	}
	for i := range 5 {
		build(i)
	}
	s.serves(0)
	must(t, s.solver.Wait(t.Context()))
	goroutines, fds := held()
	for i := range 50 {
		build(i)
	}
	s.serves(0)
	eventually(t, "what the builds held is given back", func() bool {
		g, f := held()
		return g <= goroutines+10 && f <= fds+5
	})
	if st := s.solver.Stats(); st.Jobs != 0 || st.Cells != 0 || len(s.mounts()) != 0 {
		t.Errorf("held: %+v, %q", st, s.mounts())
	}
	for _, r := range recordsOf(t, s) {
		if r.InUse {
			t.Errorf("in use: %v", r)
		}
	}
}

func recordsOf(t testing.TB, s *server) []*controlapi.UsageRecord {
	t.Helper()
	du, err := s.control().DiskUsage(t.Context(), &controlapi.DiskUsageRequest{})
	must(t, err)
	return du.Record
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = time.Minute
		d := &Daemon{cfg: Config{IdleTimeout: timeout}, idle: time.Now()}
		left := make(chan bool, 1)
		began := time.Now()
		go func() { left <- d.waitIdle(t.Context()) }()
		time.Sleep(timeout / 2)
		d.begin()
		time.Sleep(10 * timeout)
		d.begin()
		d.end()
		if len(left) > 0 {
			t.Fatal("left during a request")
		}
		time.Sleep(timeout / 3)
		d.end()
		ended := time.Now()
		if !<-left {
			t.Error("did not leave")
		}
		if idle := time.Since(ended); idle < timeout || idle > timeout+time.Second {
			t.Errorf("left after %v of idleness, %v in all", idle, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { left <- d.waitIdle(ctx) }()
		d.begin()
		cancel()
		if <-left {
			t.Error("left because it was stopped")
		}
		go func() { left <- (&Daemon{}).waitIdle(ctx) }()
		if <-left {
			t.Error("left without a timeout")
		}
	})
}

func TestIdleEndsServe(t *testing.T) {
	s := start(t, func(c *Config) { c.IdleTimeout = 2 * time.Second }) // a busy machine may need one to connect
	_, err := s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "b", Definition: marshal(t, tiny("x"))})
	if err != nil {
		t.Error(err)
	}
	err = wait(t, s.done)
	s.done <- err
	if err != nil || !strings.Contains(s.log.String(), "idle") {
		t.Errorf("got %v", err)
	}
	if _, err := net.Dial("unix", strings.TrimPrefix(s.addr, "unix://")); err == nil {
		t.Error("it still listens")
	}
}

func TestRun(t *testing.T) {
	if err := Run(t.Context(), Config{Root: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no address") {
		t.Errorf("got %v", err)
	}
	cfg := Config{Root: t.TempDir(), Network: network.Config{Mode: "host"}, Log: LogConfig{Output: io.Discard, Format: "json"}}
	cfg.Addrs = []string{"unix://" + filepath.Join(shortDir(t), "s"), "nonsense"}
	if err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("got %v", err)
	}
	// It has given up its directory and its socket.
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Addrs = cfg.Addrs[:1]
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	eventually(t, "the daemon answers", func() bool {
		c, err := client.New(t.Context(), cfg.Addrs[0])
		must(t, err)
		defer c.Close()
		_, err = c.Info(t.Context())
		return err == nil
	})
	other := cfg
	other.Addrs = []string{"unix://" + filepath.Join(shortDir(t), "s")}
	if err := Run(t.Context(), other); err == nil || !strings.Contains(err.Error(), cfg.Root) || !strings.Contains(err.Error(), "in use by another daemon") {
		t.Errorf("a second daemon: got %v", err)
	}
	cancel()
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
}

func TestAboutItself(t *testing.T) {
	s := start(t)
	c := s.client()
	info, err := c.Info(t.Context())
	if err != nil || info.BuildkitVersion.Package != Package {
		t.Errorf("got %v, %v", info, err)
	}
	workers, err := c.ListWorkers(t.Context())
	must(t, err)
	if len(workers) != 1 || len(workers[0].ID) < 8 || len(workers[0].Platforms) == 0 || workers[0].Labels["org.mobyproject.buildkit.worker.executor"] != "oci" {
		t.Errorf("got %+v", workers)
	}
	// The id belongs to the state directory.
	if id, err := workerID(s.cfg.Root); err != nil || id != workers[0].ID {
		t.Errorf("got %s, %v", id, err)
	}
	if _, err := s.control().UpdateBuildHistory(t.Context(), &controlapi.UpdateBuildHistoryRequest{Ref: "x", Finalize: true}); err != nil {
		t.Error(err)
	}
	if _, err := s.control().UpdateBuildHistory(t.Context(), &controlapi.UpdateBuildHistoryRequest{Ref: "x", Delete: true}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestUsageAndPrune(t *testing.T) {
	s := start(t)
	c := s.client()
	_, err := s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "b", Definition: marshal(t, tiny("x"))})
	must(t, err)
	du, err := c.DiskUsage(t.Context())
	must(t, err)
	if len(du) != 1 || du[0].Description != "make x" || du[0].Size == 0 || du[0].InUse {
		t.Errorf("got %+v", du)
	}
	if du, err := c.DiskUsage(t.Context(), client.WithFilter([]string{"type==nothing"})); err != nil || len(du) != 0 {
		t.Errorf("filtered: %v, %v", du, err)
	}
	for _, bad := range []string{"type==", "!!!", "a=="} {
		if _, err := c.DiskUsage(t.Context(), client.WithFilter([]string{bad})); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v", bad, err)
		}
		if err := c.Prune(t.Context(), nil, client.WithFilter([]string{bad})); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v", bad, err)
		}
	}
	pruned := make(chan client.UsageInfo, 10)
	must(t, c.Prune(t.Context(), pruned, client.PruneAll))
	if len(pruned) != 1 || (<-pruned).Description != "make x" {
		t.Error("pruned something else")
	}
	if du, err := c.DiskUsage(t.Context()); err != nil || len(du) != 0 {
		t.Errorf("left: %v, %v", du, err)
	}
	_, err = s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "b", Definition: marshal(t, tiny("x"))})
	if err != nil {
		t.Errorf("after pruning: %v", err)
	}
}

// A result whose bytes are gone is made again, whether it is read or exported.
func TestLostResult(t *testing.T) {
	s := start(t)
	lose := func(def *solver.Key) {
		lost, err := s.store.Image(t.Context(), []snapshot.ImageLayer{{
			Blob:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("blob"), Size: 10},
			DiffID: digest.FromString("layer"), From: []registry.Location{{Repo: "127.0.0.1:1/x"}},
		}})
		must(t, err)
		ref := worker.NewRef(lost)
		s.cache.Put(solver.OutputID(def.ID, 0), ref)
		ref.Release()
	}
	key := func(o llb.Output) *solver.Key {
		g, err := llb.Load(marshal(t, o), llb.Limits{})
		must(t, err)
		edge, _, err := s.worker.Load(g, worker.LoadOptions{})
		must(t, err)
		job := s.solver.NewJob("key", solver.JobOptions{})
		defer job.Close()
		res, err := job.Build(t.Context(), edge)
		must(t, err)
		res.Ref.Release()
		return &res.Key
	}
	read := tiny("read")
	lose(key(read))
	bridge := gwpb.NewLLBBridgeClient(s.conn())
	result := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: "b"})
	resp, err := bridge.Solve(calls(t.Context(), "b"), &gwpb.SolveRequest{Definition: marshal(t, read), AllowResultReturn: true, AllowResultArrayRef: true, Evaluate: true})
	must(t, err)
	f, err := bridge.ReadFile(calls(t.Context(), "b"), &gwpb.ReadFileRequest{Ref: resp.Result.GetRef().Id, FilePath: "/name"})
	if err != nil || string(f.Data) != "read" {
		t.Errorf("got %v, %v", f, err)
	}
	_, err = bridge.Return(calls(t.Context(), "b"), &gwpb.ReturnRequest{Result: resp.Result})
	must(t, err)
	if r := wait(t, result); r.err != nil {
		t.Error(r.err)
	}

	exported := tiny("exported")
	lose(key(exported))
	out := shortDir(t)
	_, err = s.client().Build(t.Context(), client.SolveOpt{Exports: []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: out}}}, "", passOn(marshal(t, exported)), nil)
	must(t, err)
	if b, err := os.ReadFile(filepath.Join(out, "name")); err != nil || string(b) != "exported" {
		t.Errorf("exported %q, %v", b, err)
	}
}

func TestReading(t *testing.T) {
	s := start(t)
	bridge := gwpb.NewLLBBridgeClient(s.conn())
	result := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: "b"})
	o := llb.File(llb.Output{}, []llb.FileAction{
		llb.Mkdir{Path: "/d/sub", Parents: true, Mode: 0o755}, llb.Mkfile{Path: "/d/a.txt", Mode: 0o644, Data: []byte("0123456789")},
		llb.Mkfile{Path: "/d/b.md", Mode: 0o600}, llb.Symlink{Old: "d/a.txt", New: "/link"}, llb.Symlink{Old: "/link", New: "/d/up"}, llb.Symlink{Old: "loop", New: "/loop"},
	}, llb.Meta{})
	ctx := calls(t.Context(), "b")
	resp, err := bridge.Solve(ctx, &gwpb.SolveRequest{Definition: marshal(t, o), AllowResultReturn: true, AllowResultArrayRef: true})
	must(t, err)
	id := resp.Result.GetRef().Id
	for _, tt := range []struct {
		path           string
		offset, length int64
		want           string
	}{
		{"/d/a.txt", 0, 0, "0123456789"}, {"d/a.txt", 3, 0, "3456789"}, {"/d/a.txt", 3, 2, "34"}, {"/d/a.txt", 8, 100, "89"},
		{"/d/a.txt", 10, 0, ""}, {"/d/a.txt", 1 << 62, 1 << 62, ""}, {"/link", 0, 0, "0123456789"}, {"/d/up", 0, 1, "0"}, {"/../../d/./a.txt", 0, 1, "0"}, {"/d/b.md", 0, 0, ""},
	} {
		f, err := bridge.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: id, FilePath: tt.path, Range: &gwpb.FileRange{Offset: tt.offset, Length: tt.length}})
		if err != nil || string(f.Data) != tt.want {
			t.Errorf("%+v: got %q, %v", tt, f.GetData(), err)
		}
	}
	for _, p := range []string{"/none", "/d", "", "/d/a.txt/x", "/loop", "/etc/passwd", strings.Repeat("x/", 3000)} {
		if _, err := bridge.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: id, FilePath: p}); err == nil {
			t.Errorf("%.20s can be read", p)
		} else if strings.Contains(err.Error(), s.cfg.Root) {
			t.Errorf("%.20s: where it is stored is told: %v", p, err)
		}
	}
	list := func(dir, pattern string) []string {
		d, err := bridge.ReadDir(ctx, &gwpb.ReadDirRequest{Ref: id, DirPath: dir, IncludePattern: pattern})
		if err != nil {
			return []string{err.Error()}
		}
		var names []string
		for _, e := range d.Entries {
			names = append(names, e.Path)
		}
		return names
	}
	if got := list("/d", ""); !slices.Equal(got, []string{"a.txt", "b.md", "sub", "up"}) {
		t.Errorf("got %q", got)
	}
	if got := list("d", "*.txt"); !slices.Equal(got, []string{"a.txt"}) {
		t.Errorf("got %q", got)
	}
	if got := list("/d", "["); len(got) != 1 || !strings.Contains(got[0], "pattern") {
		t.Errorf("a bad pattern: got %q", got)
	}
	st, err := bridge.StatFile(ctx, &gwpb.StatFileRequest{Ref: id, Path: "/d/a.txt"})
	if err != nil || st.Stat.Path != "a.txt" || st.Stat.Size != 10 {
		t.Errorf("got %v, %v", st, err)
	}
	if _, err := bridge.Return(ctx, &gwpb.ReturnRequest{}); err != nil {
		t.Error(err)
	}
	wait(t, result)
}
