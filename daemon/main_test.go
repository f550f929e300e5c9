package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	containerdlog "github.com/containerd/log"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/network"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/mountinfo"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) {
	runc.Init()
	_ = containerdlog.SetLevel("fatal")
	goleak.VerifyTestMain(m)
}

var amd = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// A server is a daemon that serves a socket in this process.
type server struct {
	*Daemon
	t    testing.TB
	addr string
	log  *log
	stop context.CancelFunc
	done chan error // what serve returned
}

// A log collects what a daemon says.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start starts a daemon that ends with the test.
func start(t testing.TB, change ...func(*Config)) *server {
	t.Helper()
	s := &server{t: t, log: &log{}, addr: "unix://" + filepath.Join(shortDir(t), "s"), done: make(chan error, 1)}
	cfg := Config{Root: t.TempDir(), Network: network.Config{Mode: "host"}, Log: LogConfig{Output: s.log}, GC: GCConfig{Disabled: true}}
	for _, c := range change {
		c(&cfg)
	}
	cfg.Addrs = append(cfg.Addrs, s.addr)
	logger, err := newLogger(cfg.Log)
	must(t, err)
	s.Daemon, err = New(context.Background(), cfg, logger)
	must(t, err)
	listeners, err := listenAll(cfg)
	must(t, err)
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	go func() { s.done <- s.serve(ctx, listeners) }()
	t.Cleanup(func() {
		s.end()
		must(t, s.Close())
		if m := s.mounts(); len(m) > 0 {
			t.Errorf("left mounted: %q", m)
		}
		if t.Failed() {
			t.Logf("the daemon's log:\n%.4000s", s.log)
		}
	})
	return s
}

// end stops serving and checks that nothing is left of the builds. It may be called again.
func (s *server) end() {
	s.stop()
	err := wait(s.t, s.done)
	s.done <- err
	if err != nil {
		s.t.Errorf("serve: %v", err)
	}
	if st := s.solver.Stats(); st.Jobs != 0 || st.Cells != 0 || st.Working != 0 {
		s.t.Errorf("the solver holds %+v", st)
	}
}

func (s *server) mounts() []string {
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(s.cfg.Root))
	must(s.t, err)
	var out []string
	for _, m := range list {
		out = append(out, m.Mountpoint)
	}
	return out
}

// dial opens a connection to the daemon.
func (s *server) dial() *grpc.ClientConn {
	s.t.Helper()
	cc, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(s.t, err)
	return cc
}

// conn is a new connection to the daemon, closed with the test.
func (s *server) conn() *grpc.ClientConn {
	s.t.Helper()
	cc := s.dial()
	s.t.Cleanup(func() { cc.Close() })
	return cc
}

func (s *server) control() controlapi.ControlClient { return controlapi.NewControlClient(s.conn()) }

// client is BuildKit's own client.
func (s *server) client() *client.Client {
	s.t.Helper()
	c, err := client.New(context.Background(), s.addr)
	must(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// serves waits until the daemon serves n requests.
func (s *server) serves(n int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprint(n, " requests are served"), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.Daemon.active == n
	})
}

// running reports whether a build is known to run.
func (s *server) running(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.builds[id] != nil
}

// calls is the context of a gateway call that belongs to a build.
func calls(ctx context.Context, id string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "buildkit-controlapi-buildid", id)
}

var busybox = sync.OnceValue(func() []byte {
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		panic(err)
	}
	return b
})

// base is a root filesystem with busybox; its number makes it another one.
func base(n int) llb.Output {
	return llb.File(llb.Output{}, []llb.FileAction{
		llb.Mkdir{Path: "/bin", Mode: 0o755}, llb.Mkdir{Path: "/tmp", Mode: 0o777}, llb.Mkfile{Path: "/number", Mode: 0o644, Data: []byte(fmt.Sprint(n))},
		llb.Mkfile{Path: "/bin/sh", Mode: 0o755, Data: busybox()}, llb.Mkfile{Path: "/bin/busybox", Mode: 0o755, Data: busybox()},
	}, llb.Meta{Name: "base"})
}

// sh is a step that runs a shell script.
func sh(root llb.Output, script string, m llb.Meta) llb.Output {
	return llb.Exec(llb.ExecOptions{Root: root, Args: []string{"/bin/sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}}, m).Root()
}

// tiny is a result that costs nothing; its name makes it another one.
func tiny(name string) llb.Output {
	return llb.File(llb.Output{}, []llb.FileAction{llb.Mkfile{Path: "/name", Mode: 0o644, Data: []byte(name)}}, llb.Meta{Name: "make " + name})
}

func marshal(t testing.TB, o llb.Output) *pb.Definition {
	t.Helper()
	def, err := llb.Marshal(context.Background(), o, amd)
	must(t, err)
	return def
}

// join connects a session that offers what is given.
func (s *server) join(offers ...bksession.Attachable) *bksession.Session {
	s.t.Helper()
	return s.joinAs(newSession(s.t, offers...))
}

func newSession(t testing.TB, offers ...bksession.Attachable) *bksession.Session {
	t.Helper()
	ses, err := bksession.NewSession(context.Background(), "key")
	must(t, err)
	for _, o := range offers {
		ses.Allow(o)
	}
	return ses
}

func (s *server) joinAs(ses *bksession.Session) *bksession.Session {
	s.t.Cleanup(connect(s.control(), ses))
	return ses
}

// connect runs a session until the function it returns is called.
func connect(c controlapi.ControlClient, ses *bksession.Session) (leave func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = ses.Run(context.Background(), grpchijack.Dialer(c))
	}()
	return func() {
		ses.Close()
		<-done
	}
}

// directory offers a directory with these files.
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

// A shown is what a Status call delivered.
type shown struct {
	names  []string
	errors []string
	output string
	err    error
}

// read reads a Status stream to its end.
func read(stream controlapi.Control_StatusClient, err error) (out shown) {
	if err != nil {
		return shown{err: err}
	}
	named := map[string]bool{}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			out.err = err
			return out
		}
		for _, v := range msg.Vertexes {
			if !named[v.Name] {
				named[v.Name] = true
				out.names = append(out.names, v.Name)
			}
			if v.Error != "" {
				out.errors = append(out.errors, v.Error)
			}
		}
		for _, l := range msg.Logs {
			out.output += string(l.Msg)
		}
	}
}

// clean fails if err looks like an accident and not like an answer.
func clean(t testing.TB, err error) {
	t.Helper()
	st, ok := status.FromError(err)
	if !ok {
		t.Errorf("%v is no status", err)
	}
	switch st.Code() {
	case codes.Internal, codes.DeadlineExceeded:
		t.Errorf("code %s: %v", st.Code(), st.Message())
	}
	for _, bad := range []string{"panic", "goroutine", "runtime error", "nil pointer", "*pb.", "*controlapi", "rpc error", "transport", "%!"} {
		if strings.Contains(st.Message(), bad) {
			t.Errorf("%q in %q", bad, st.Message())
		}
	}
	if len(st.Message()) == 0 || len(st.Message()) > 1000 {
		t.Errorf("%d bytes of message: %.200q", len(st.Message()), st.Message())
	}
}

func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "db")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

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
	case <-time.After(30 * time.Second):
		t.Fatal("nothing happened for 30 s")
		panic("unreachable")
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not so after 30 s: %s", what)
		}
	}
}
