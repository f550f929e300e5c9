package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/mountinfo"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

// What a process finds mounted, and what of it is kept.
func TestMounts(t *testing.T) {
	w := newWorld(t)
	src := files("/f", "1", "/d", "x")
	w.exec.do = func(_ context.Context, p runc.Process) error {
		for at, want := range map[string]string{"/ro": "1", "/rw": "1", "/thrown": "1", "/cache": "1"} {
			if got, err := os.ReadFile(filepath.Join(mountAt(p, at), "f")); err != nil || string(got) != want {
				return fmt.Errorf("%s has %q, %v", at, got, err)
			}
		}
		if got, err := os.ReadFile(mountAt(p, "/file")); err != nil || string(got) != "x" {
			return fmt.Errorf("the part of a mount is %q, %v", got, err)
		}
		for _, m := range p.Mounts {
			if want := m.Target == "/ro" || m.Target == "/file"; m.ReadOnly != want {
				return fmt.Errorf("%s is read-only: %v", m.Target, m.ReadOnly)
			}
			if m.Target == "/tmp" && (m.Type != "tmpfs" || m.Size != 1<<20) {
				return fmt.Errorf("got %+v", m)
			}
		}
		if err := os.WriteFile(filepath.Join(mountAt(p, "/ro"), "w"), nil, 0o644); err == nil {
			return errors.New("what is mounted read-only can be written")
		}
		for _, at := range []string{p.Rootfs, mountAt(p, "/rw"), mountAt(p, "/new"), mountAt(p, "/thrown"), mountAt(p, "/cache")} {
			if err := os.WriteFile(filepath.Join(at, "w"), []byte("2"), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
	res := run(files("/bin", ""), "x",
		llb.Mount{Target: "/ro", Source: src, Readonly: true}, llb.Mount{Target: "/rw", Source: src}, llb.Mount{Target: "/new"},
		llb.Mount{Target: "/thrown", Source: src, NoOutput: true}, llb.Mount{Target: "/cache", Source: src, CacheID: "c"},
		llb.Mount{Target: "/file", Source: src, Selector: "/d", Readonly: true}, llb.Mount{Target: "/tmp", Tmpfs: true, TmpfsSize: 1 << 20},
	)
	_, got := w.build(res.Root())
	only(t, got, "bin=", "w=2")
	for at, want := range map[string][]string{"/rw": {"f=1", "d=x", "w=2"}, "/new": {"w=2"}, "/ro": {"f=1", "d=x"}} {
		o, ok := res.Mount(at)
		if !ok {
			t.Fatal(at)
		}
		_, got := w.build(o)
		only(t, got, want...)
	}
	if n := w.exec.runs(); n != 1 {
		t.Errorf("%d runs", n)
	}
	// What a cache mount holds stays for the next run.
	w.exec.do = func(_ context.Context, p runc.Process) error {
		_, err := os.Stat(filepath.Join(mountAt(p, "/cache"), "w"))
		return err
	}
	w.build(run(files("/bin", ""), "y", llb.Mount{Target: "/cache", Source: src, CacheID: "c"}).Root())
}

func TestMissingMountSource(t *testing.T) {
	w := newWorld(t)
	src := files("/config", "1")
	for want, m := range map[string]llb.Mount{
		`"/confg": not found (did you mean "/config"?)`: {Target: "/m", Source: src, Readonly: true, Selector: "/confg"},
		`mount source "/nothing": not found`:            {Target: "/m", Source: src, Selector: "/nothing"},
	} {
		if err := w.fails(run(files("/bin", ""), "x", m).Root(), request{}); err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if n := w.exec.runs(); n != 0 {
		t.Errorf("%d runs", n)
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		exit  int
		valid []int32
		ok    bool
	}{
		{0, nil, true}, {1, nil, false}, {137, nil, false},
		{0, []int32{0, 3}, true}, {3, []int32{0, 3}, true}, {3, []int32{3}, true}, {0, []int32{3}, false}, {4, []int32{3}, false},
	} {
		w := newWorld(t)
		w.exec.do = func(context.Context, runc.Process) error {
			if tt.exit == 0 {
				return nil
			}
			return &runc.ExitError{Code: tt.exit}
		}
		o := llb.Exec(llb.ExecOptions{Root: files("/bin", ""), Args: []string{"/bin/false", "a b"}, Cwd: "/", ExitCodes: tt.valid}, llb.Meta{}).Root()
		if tt.ok {
			w.build(o)
			continue
		}
		err := w.fails(o, request{})
		want := fmt.Sprintf(`process "/bin/false a b" did not complete successfully: exit code: %d`, tt.exit)
		if tt.exit == 137 {
			want += " (killed by SIGKILL; if nobody sent it, the machine ran out of memory)"
		}
		if err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		var exit *runc.ExitError
		var exec *worker.ExecError
		var vertex *solver.VertexError
		if !errors.As(err, &exit) || exit.Code != tt.exit || !errors.As(err, &exec) || !errors.As(err, &vertex) {
			t.Errorf("%v does not say what failed", err)
		}
	}
}

// A step for a platform that nothing here runs says what is missing, if that may be why.
func TestForeignPlatforms(t *testing.T) {
	for _, tt := range []struct {
		arch string
		code int
		says bool
	}{{"arm64", 255, true}, {"arm64", 1, false}, {"amd64", 255, false}} {
		w := newWorld(t)
		w.exec.do = func(context.Context, runc.Process) error { return &runc.ExitError{Code: tt.code} }
		p := ocispec.Platform{OS: "linux", Architecture: tt.arch}
		err := w.fails(llb.Exec(llb.ExecOptions{Root: files("/bin", ""), Args: []string{"x"}, Cwd: "/", Platform: &p}, llb.Meta{}).Root(), request{})
		if strings.Contains(err.Error(), "no emulator") != tt.says || !strings.Contains(err.Error(), fmt.Sprintf("exit code: %d", tt.code)) {
			t.Errorf("%s, exit code %d: %v", tt.arch, tt.code, err)
		}
	}
}

// A process that could not be started is no exit code, even if every one is fine.
func TestProcessThatDoesNotStart(t *testing.T) {
	w := newWorld(t)
	w.exec.do = func(context.Context, runc.Process) error { return errors.New("no such program") }
	o := llb.Exec(llb.ExecOptions{Root: files("/bin", ""), Args: []string{"x"}, Cwd: "/", ExitCodes: []int32{0, 1}}, llb.Meta{}).Root()
	if err := w.fails(o, request{}); !strings.Contains(err.Error(), "no such program") {
		t.Errorf("got %v", err)
	}
}

func TestProcessIsAsAsked(t *testing.T) {
	w := newWorld(t)
	stream := progress.NewStream()
	w.exec.do = func(_ context.Context, p runc.Process) error {
		fmt.Fprintln(p.Stdout, "to stdout")
		fmt.Fprint(p.Stderr, "to stderr, unfinished")
		return nil
	}
	o := llb.Exec(llb.ExecOptions{
		Root: files("/bin", ""), Args: []string{"a"}, Cwd: "/w", Env: []string{"A=1"}, User: "u", Hostname: "h",
		ExtraHosts: []*pb.HostIP{{Host: "db", IP: "::1"}}, Network: pb.NetMode_NONE, Ulimits: []*pb.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
		Proxy: &pb.ProxyEnv{HttpProxy: "http://p", NoProxy: "n"}, CgroupParent: "c",
	}, llb.Meta{Name: "name"}).Root()
	w.finish(w.try(w.marshal(o), request{stream: stream}))
	p := w.exec.ran[0]
	env := strings.Join(p.Env, " ")
	for _, want := range []string{"A=1", "http_proxy=http://p", "HTTP_PROXY=http://p", "no_proxy=n", "NO_PROXY=n"} {
		if !strings.Contains(env, want) {
			t.Errorf("the environment is %q", env)
		}
	}
	if strings.Contains(env, "https_proxy") || p.Cwd != "/w" || p.User != "u" || p.Hostname != "h" || p.Network != pb.NetMode_NONE ||
		p.ExtraHosts[0].Host != "db" || p.ExtraHosts[0].IP.String() != "::1" || p.Ulimits[0].Name != "nofile" || p.CgroupParent != "c" {
		t.Errorf("got %+v", p)
	}
	if got := output(stream); !strings.Contains(got, "to stdout\n") || !strings.Contains(got, "to stderr, unfinished") {
		t.Errorf("shown: %q", got)
	}
	bad := llb.Exec(llb.ExecOptions{Root: files("/bin", ""), Args: []string{"a"}, Cwd: "/", ExtraHosts: []*pb.HostIP{{Host: "db", IP: "nowhere"}}}, llb.Meta{}).Root()
	if err := w.fails(bad, request{}); err.Error() != `host db: "nowhere" is not an IP address` {
		t.Errorf("got %v", err)
	}
}

func TestRefused(t *testing.T) {
	root := files("/bin", "")
	exec := func(change func(*llb.ExecOptions)) llb.Output {
		o := llb.ExecOptions{Root: root, Args: []string{"x"}, Cwd: "/"}
		change(&o)
		return llb.Exec(o, llb.Meta{Name: "RUN x"}).Root()
	}
	host := exec(func(o *llb.ExecOptions) { o.Network = pb.NetMode_HOST })
	insecure := exec(func(o *llb.ExecOptions) { o.Security = pb.SecurityMode_INSECURE })
	device := exec(func(o *llb.ExecOptions) { o.Devices = []*pb.CDIDevice{{Name: "gpu"}} })
	w := newWorld(t)
	for _, tt := range []struct {
		o    llb.Output
		load worker.LoadOptions
		want string
	}{
		{host, worker.LoadOptions{}, "network.host is not allowed"},
		{host, worker.LoadOptions{Insecure: true}, "network.host is not allowed"},
		{insecure, worker.LoadOptions{HostNetwork: true}, "security.insecure is not allowed"},
		{device, worker.LoadOptions{HostNetwork: true, Insecure: true}, `CDI device "gpu" is required by step "RUN x", but CDI device support is disabled`},
		{llb.Source("ftp://x", nil, nil, llb.Meta{}), worker.LoadOptions{}, "not implemented: sources of the kind ftp://"},
		{llb.Source("local://x", map[string]string{pb.AttrIncludePatterns: "*"}, nil, llb.Meta{}), worker.LoadOptions{}, "want a JSON list"},
		{llb.Source("docker-image://x", map[string]string{pb.AttrImageLayerLimit: "0"}, nil, llb.Meta{}), worker.LoadOptions{}, "want a positive number"},
		{llb.Source("oci-layout://x", map[string]string{pb.AttrOCILayoutLayerLimit: "x"}, nil, llb.Meta{}), worker.LoadOptions{}, "want a positive number"},
	} {
		err := w.fails(tt.o, request{load: tt.load})
		var vertex *solver.VertexError
		if !strings.Contains(err.Error(), tt.want) || !errors.As(err, &vertex) || vertex.Vertex.Show.Digest == "" {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	w.finish(w.try(w.marshal(host), request{load: worker.LoadOptions{HostNetwork: true}}))
	w.finish(w.try(w.marshal(insecure), request{load: worker.LoadOptions{Insecure: true}}))
	if n := w.exec.runs(); n != 2 {
		t.Errorf("%d runs", n)
	}
}

func TestSecrets(t *testing.T) {
	w := newWorld(t)
	s := w.join("k", secretsprovider.FromMap(map[string][]byte{"token": []byte("s3cret"), "empty": {}}))
	with := request{client: client{sessions: []string{s.ID()}}}
	need := func(secrets ...llb.Secret) llb.Output {
		return llb.Exec(llb.ExecOptions{Root: files("/bin", ""), Args: []string{"x", fmt.Sprint(secrets)}, Cwd: "/", Secrets: secrets}, llb.Meta{}).Root()
	}
	var dir string
	w.exec.do = func(_ context.Context, p runc.Process) error {
		path := mountAt(p, "/run/secrets/token")
		dir = filepath.Dir(path)
		b, err := os.ReadFile(path)
		if err != nil || string(b) != "s3cret" {
			return fmt.Errorf("the secret is %q, %v", b, err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode() != 0o440 {
			return fmt.Errorf("it is %v, %v", st.Mode(), err)
		}
		if list, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir)); err != nil || len(list) != 1 || list[0].FSType != "tmpfs" {
			return fmt.Errorf("the secret is on a disk: %v, %v", list, err)
		}
		if env := strings.Join(p.Env, " "); !strings.Contains(env, "TOKEN=s3cret") || !strings.Contains(env, "EMPTY=") || strings.Contains(env, "ABSENT") {
			return fmt.Errorf("the environment is %q", env)
		}
		if len(p.Mounts) != 1 {
			return fmt.Errorf("the mounts are %+v", p.Mounts)
		}
		return nil
	}
	w.finish(w.try(w.marshal(need(
		llb.Secret{ID: "token", Target: "/run/secrets/token", Mode: 0o440}, llb.Secret{ID: "token", Env: "TOKEN"}, llb.Secret{ID: "empty", Env: "EMPTY"},
		llb.Secret{ID: "absent", Target: "/run/secrets/absent", Optional: true}, llb.Secret{ID: "absent", Env: "ABSENT", Optional: true},
	)), with))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the secret is left: %v", err)
	}
	w.exec.runs()
	for _, o := range []llb.Output{need(llb.Secret{ID: "absent", Target: "/s"}), need(llb.Secret{ID: "absent", Env: "S"})} {
		if err := w.fails(o, with); err.Error() != "secret absent: not found; pass it with --secret id=absent,src=FILE" {
			t.Errorf("got %v", err)
		}
		if err := w.fails(o, request{}); err == nil || w.exec.runs() > 0 {
			t.Errorf("without a client: %v", err)
		}
	}
	// A process that fails leaves no secret either.
	w.exec.do = func(context.Context, runc.Process) error { return &runc.ExitError{Code: 1} }
	w.fails(need(llb.Secret{ID: "token", Target: "/t"}), with)
}

// An agent answers for one id and nothing else.
type agent struct {
	sshforward.UnimplementedSSHServer
	checked atomic.Int32
}

func (a *agent) Register(s *grpc.Server) { sshforward.RegisterSSHServer(s, a) }

func (a *agent) CheckAgent(_ context.Context, r *sshforward.CheckAgentRequest) (*sshforward.CheckAgentResponse, error) {
	a.checked.Add(1)
	if r.ID != "default" {
		return nil, fmt.Errorf("unset ssh forward key %s", r.ID)
	}
	return &sshforward.CheckAgentResponse{}, nil
}

func TestSSH(t *testing.T) {
	w := newWorld(t)
	s := w.join("k", &agent{})
	with := request{client: client{sessions: []string{s.ID()}}}
	need := func(ssh ...llb.SSH) llb.Output {
		return llb.Exec(llb.ExecOptions{Root: files("/bin", ""), Args: []string{"x"}, Cwd: "/", SSH: ssh}, llb.Meta{}).Root()
	}
	var path string
	w.exec.do = func(_ context.Context, p runc.Process) error {
		path = mountAt(p, "/run/buildkit/ssh_agent.0")
		if st, err := os.Stat(path); err != nil || st.Mode().Type() != os.ModeSocket || st.Mode().Perm() != 0o620 {
			return fmt.Errorf("the socket is %v, %v", st, err)
		}
		if len(p.Mounts) != 1 || !strings.Contains(strings.Join(p.Env, " "), "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0") {
			return fmt.Errorf("got %+v", p)
		}
		return nil
	}
	w.finish(w.try(w.marshal(need(llb.SSH{ID: "default", Mode: 0o620}, llb.SSH{ID: "other", Optional: true})), with))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := w.fails(need(llb.SSH{ID: "other"}), with); err.Error() != `no SSH key "other": unset ssh forward key other; pass it with --ssh other` {
		t.Errorf("got %v", err)
	}
	nobody := w.join("k2")
	if err := w.fails(need(llb.SSH{ID: "default"}), request{client: client{sessions: []string{nobody.ID()}}}); !strings.Contains(err.Error(), "--ssh default") {
		t.Errorf("a client without agents: got %v", err)
	}
}

// When nobody wants a process any more it ends, and nothing of it is left.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	s := w.join("k", secretsprovider.FromMap(map[string][]byte{"token": []byte("x")}), &agent{})
	src := files("/f", "1")
	started := make(chan runc.Process)
	w.exec.do = func(ctx context.Context, p runc.Process) error {
		if err := os.WriteFile(filepath.Join(p.Rootfs, "half"), []byte("written"), 0o644); err != nil {
			return err
		}
		started <- p
		<-ctx.Done()
		return &runc.ExitError{Code: 137}
	}
	o := llb.Exec(llb.ExecOptions{
		Root: src, Args: []string{"x"}, Cwd: "/",
		Mounts:  []llb.Mount{{Target: "/a", Source: src, Readonly: true}, {Target: "/b", Source: src}, {Target: "/c", CacheID: "c"}, {Target: "/d"}},
		Secrets: []llb.Secret{{ID: "token", Target: "/s", Mode: 0o400}}, SSH: []llb.SSH{{ID: "default"}},
	}, llb.Meta{}).Root()
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	def := w.marshal(o)
	go func() {
		_, err := w.try(def, request{client: client{sessions: []string{s.ID()}}, ctx: ctx})
		errs <- err
	}()
	p := wait(t, started)
	if len(w.mounts()) < 3 {
		t.Errorf("mounted: %q", w.mounts())
	}
	cancel()
	if err := wait(t, errs); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.clean()
	if n := w.layers(); n != 1 {
		t.Errorf("%d layers are kept, of which one is src", n)
	}
	if _, err := os.Stat(filepath.Join(p.Rootfs, "half")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was half written is left: %v", err)
	}
	// It can be built afterwards.
	w.exec.do = nil
	_, got := w.finish(w.try(def, request{client: client{sessions: []string{s.ID()}}}))
	only(t, got, "f=1")
}

// A process that takes its own mounts away cannot be committed, and leaks nothing.
func TestCommitFails(t *testing.T) {
	w := newWorld(t)
	src := files("/f", "1")
	w.exec.do = func(_ context.Context, p runc.Process) error { return unmount(p.Rootfs) }
	if err := w.fails(run(src, "x", llb.Mount{Target: "/b", Source: src}).Root(), request{}); err == nil {
		t.Error("should fail")
	}
	w.clean()
}

// The outputs of a process are not more than its mounts can be at once, however many
// builds ask.
func TestParallelism(t *testing.T) {
	w := newWorld(t)
	cfg := w.worker.Config
	cfg.Parallelism = 2
	w.worker = worker.New(cfg)
	var now, most atomic.Int32
	gate := make(chan struct{})
	w.exec.do = func(context.Context, runc.Process) error {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-gate
		return nil
	}
	var all []llb.Output
	for i := range 6 {
		all = append(all, run(files("/bin", ""), fmt.Sprint("x", i)).Root())
	}
	go func() {
		for range all {
			gate <- struct{}{}
		}
	}()
	w.build(llb.Merge(all, llb.Meta{}))
	if n := most.Load(); n > 2 {
		t.Errorf("%d processes at once", n)
	}
}
