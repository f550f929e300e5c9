package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/gateway"
	"github.com/dbuild/dbuild/internal/rpcerror"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A host is a container that contains nothing: its processes are processes of the machine.
type host struct {
	request frontend.ContainerRequest

	mu       sync.Mutex
	released bool
	running  map[*hostProcess]bool
	lives    sync.WaitGroup
}

func (h *host) Start(ctx context.Context, p frontend.Process) (frontend.Running, error) {
	r, err := h.start(ctx, p)
	if err != nil {
		for _, c := range []io.Closer{p.Stdin, p.Stdout, p.Stderr} {
			if c != nil {
				c.Close()
			}
		}
		return nil, err
	}
	return r, nil
}

func (h *host) start(_ context.Context, p frontend.Process) (*hostProcess, error) {
	if p.Security != pb.SecurityMode_SANDBOX {
		return nil, cerrdefs.ErrPermissionDenied.WithMessage("security.insecure is not allowed")
	}
	if p.Meta.Args[0] == "panic" {
		panic("as asked")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		return nil, errors.New("released")
	}
	r := &hostProcess{h: h, ended: make(chan struct{}), cmd: exec.Command(p.Meta.Args[0], p.Meta.Args[1:]...)}
	r.cmd.Env = append(os.Environ(), p.Meta.Env...)
	var child []*os.File
	input := func(from io.Reader, to *os.File) {
		_, _ = io.Copy(to, from)
		to.Close()
	}
	if p.Stdin != nil {
		in, out, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		r.cmd.Stdin, child = in, append(child, in)
		h.lives.Go(func() { input(p.Stdin, out) })
	}
	for _, o := range []struct {
		to  io.WriteCloser
		set *io.Writer
	}{{p.Stdout, &r.cmd.Stdout}, {p.Stderr, &r.cmd.Stderr}} {
		if o.to == nil {
			continue
		}
		in, out, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*o.set, child = out, append(child, out)
		r.outputs.Go(func() {
			_, _ = io.Copy(o.to, in)
			in.Close()
			o.to.Close()
		})
	}
	err := r.cmd.Start()
	for _, f := range child {
		f.Close()
	}
	if err != nil {
		return nil, err
	}
	h.running[r] = true
	h.lives.Go(func() {
		defer close(r.ended)
		err := r.cmd.Wait()
		if p.Stdin != nil {
			p.Stdin.Close()
		}
		r.outputs.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			ws := exit.Sys().(syscall.WaitStatus)
			code := ws.ExitStatus()
			if ws.Signaled() {
				code = 128 + int(ws.Signal())
			}
			err = hostExit(code)
		}
		r.err = err
	})
	return r, nil
}

type hostExit int

func (e hostExit) Error() string { return fmt.Sprintf("exit code: %d", int(e)) }
func (e hostExit) ExitCode() int { return int(e) }

type hostProcess struct {
	h       *host
	cmd     *exec.Cmd
	outputs sync.WaitGroup
	ended   chan struct{}
	err     error
	size    string // the last Resize
}

func (r *hostProcess) Resize(_ context.Context, rows, cols uint32) error {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	r.size = fmt.Sprint(rows, "x", cols)
	return r.cmd.Process.Signal(syscall.SIGTERM)
}

func (r *hostProcess) Signal(_ context.Context, sig syscall.Signal) error {
	return r.cmd.Process.Signal(sig)
}

func (r *hostProcess) Wait() error {
	<-r.ended
	return r.err
}

func (h *host) processes() []*hostProcess {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.running))
}

func (h *host) Release(context.Context) error {
	h.mu.Lock()
	h.released = true
	for r := range h.running {
		_ = r.cmd.Process.Kill()
	}
	h.mu.Unlock()
	h.lives.Wait()
	return nil
}

func (h *host) ReadFile(_ context.Context, mount int, path string, offset, length int64) ([]byte, error) {
	return fmt.Appendf(nil, "%d %s %d %d", mount, path, offset, length), nil
}

func (h *host) ReadDir(_ context.Context, mount int, path, include string) ([]*fstypes.Stat, error) {
	return []*fstypes.Stat{{Path: fmt.Sprint(mount, path, include)}}, nil
}

func (h *host) StatFile(_ context.Context, mount int, path string) (*fstypes.Stat, error) {
	return &fstypes.Stat{Path: fmt.Sprint(mount, path)}, nil
}

// serverOptions make errors what clients decode.
var serverOptions = []grpc.ServerOption{
	grpc.WaitForHandlers(true),
	grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		resp, err := h(ctx, req)
		return resp, rpcerror.Status(err)
	}),
	grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		return rpcerror.Status(h(srv, ss))
	}),
}

// dial serves f and returns a client whose calls belong to the build "b".
func dial(t *testing.T, f *gateway.Forwarder) (gwpb.LLBBridgeClient, context.Context) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(serverOptions...)
	gwpb.RegisterLLBBridgeServer(srv, f)
	go func() { _ = srv.Serve(l) }()
	cc, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close(); srv.Stop() })
	return gwpb.NewLLBBridgeClient(cc), metadata.AppendToOutgoingContext(t.Context(), "buildkit-controlapi-buildid", "b")
}

var rootMount = []*pb.Mount{{Dest: "/"}}

// executing returns a stream of processes, and the container "c" to start them in.
func executing(t *testing.T) (*bridge, gwpb.LLBBridgeClient, gwpb.LLBBridge_ExecProcessClient, context.CancelFunc) {
	t.Helper()
	b := &bridge{}
	f, _, _ := start(t, gateway.Build{Bridge: b})
	c, ctx := dial(t, f)
	if _, err := c.NewContainer(ctx, &gwpb.NewContainerRequest{ContainerID: "c", Mounts: rootMount}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel)
	s, err := c.ExecProcess(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return b, c, s, cancel
}

func initMessage(id string, fds []uint32, args ...string) *gwpb.ExecMessage {
	return &gwpb.ExecMessage{ProcessID: id, Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{
		ContainerID: "c", Meta: &pb.Meta{Args: args}, Fds: fds,
	}}}
}

func fileMessage(id string, data string, eof bool) *gwpb.ExecMessage {
	return &gwpb.ExecMessage{ProcessID: id, Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Data: []byte(data), EOF: eof}}}
}

// A told is what the client hears of a process.
type told struct {
	out  map[uint32]string
	eof  map[uint32]bool
	exit *gwpb.ExitMessage
}

// hear reads a stream until each of the processes is done.
func hear(t *testing.T, s gwpb.LLBBridge_ExecProcessClient, ids ...string) map[string]*told {
	t.Helper()
	all := map[string]*told{}
	for left := len(ids); left > 0; {
		msg, err := s.Recv()
		if err != nil {
			t.Fatalf("%v; heard %v", err, all)
		}
		p := all[msg.ProcessID]
		if started := msg.GetStarted() != nil; started != (p == nil) {
			t.Fatalf("%s: a process starts once, and first: %v", msg.ProcessID, msg)
		}
		switch in := msg.Input.(type) {
		case *gwpb.ExecMessage_Started:
			all[msg.ProcessID] = &told{out: map[uint32]string{}, eof: map[uint32]bool{}}
		case *gwpb.ExecMessage_File:
			p.out[in.File.Fd] += string(in.File.Data)
			p.eof[in.File.Fd] = p.eof[in.File.Fd] || in.File.EOF
		case *gwpb.ExecMessage_Exit:
			p.exit = in.Exit
		case *gwpb.ExecMessage_Done:
			if p.exit == nil {
				t.Errorf("%s is done before it exited", msg.ProcessID)
			}
			left--
		}
	}
	return all
}

func send(t *testing.T, s gwpb.LLBBridge_ExecProcessClient, msgs ...*gwpb.ExecMessage) {
	t.Helper()
	for _, m := range msgs {
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProcesses(t *testing.T) {
	_, _, s, _ := executing(t)
	long := strings.Repeat("0123456789", 300_000) // more than waits for a process, and than a frame
	insecureInit := initMessage("insecure", []uint32{1}, "true")
	insecureInit.GetInit().Security = pb.SecurityMode_INSECURE
	send(t, s,
		initMessage("cat", []uint32{0, 1, 2}, "cat"), fileMessage("cat", "hello ", false), fileMessage("cat", "world", true),
		initMessage("both", []uint32{1, 2}, "sh", "-c", "echo out; echo err >&2; exit 3"),
		initMessage("silent", nil, "sh", "-c", "echo nobody hears"),
		initMessage("long", []uint32{0, 1}, "cat"), fileMessage("long", long, false), fileMessage("long", long, true),
		initMessage("missing", []uint32{0, 1}, "/there/is/no/such/program"), fileMessage("missing", "x", true),
		initMessage("panics", []uint32{1}, "panic"),
		insecureInit,
		initMessage("killed", nil, "sleep", "1000"), &gwpb.ExecMessage{ProcessID: "killed", Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{Name: "KILL"}}},
		initMessage("resized", nil, "sleep", "1000"), &gwpb.ExecMessage{ProcessID: "resized", Input: &gwpb.ExecMessage_Resize{Resize: &gwpb.ResizeMessage{Rows: 2, Cols: 3}}},
	)
	all := hear(t, s, "cat", "both", "silent", "long", "missing", "panics", "insecure", "killed", "resized")
	for id, want := range map[string]struct {
		out, err string
		code     uint32
		why      string
	}{
		"cat":      {out: "hello world"},
		"both":     {out: "out\n", err: "err\n", code: 3, why: "exit code: 3"},
		"silent":   {},
		"long":     {out: long + long},
		"missing":  {code: 255, why: "no such file"},
		"panics":   {code: 255, why: "internal error: as asked"},
		"insecure": {code: 255, why: "security.insecure is not allowed"},
		"killed":   {code: 137, why: "exit code: 137"},
		"resized":  {code: 143, why: "exit code: 143"},
	} {
		got := all[id]
		if got.out[1] != want.out || got.out[2] != want.err {
			t.Errorf("%s: printed %d and %d bytes: %.50q %.50q", id, len(got.out[1]), len(got.out[2]), got.out[1], got.out[2])
		}
		if got.exit.Code != want.code || !strings.Contains(got.exit.Error.GetMessage(), want.why) || (want.code != 0) != (got.exit.Error != nil) {
			t.Errorf("%s: %v", id, got.exit)
		}
	}
	if !all["cat"].eof[1] || !all["cat"].eof[2] || all["silent"].eof[1] {
		t.Errorf("ends of output: %v", all)
	}
	// Input of a process that has ended is dropped, and others start after it.
	send(t, s, fileMessage("cat", "late", false), initMessage("next", []uint32{1}, "echo", "next"))
	if got := hear(t, s, "next")["next"]; got.out[1] != "next\n" {
		t.Errorf("got %v", got)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}
}

// A client that has said all has ended the input of its processes too, and hears the rest.
func TestProcessesOfClosedStream(t *testing.T) {
	_, _, s, _ := executing(t)
	send(t, s, initMessage("cat", []uint32{0, 1}, "cat"), fileMessage("cat", "rest", false))
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if got := hear(t, s, "cat")["cat"]; got.out[1] != "rest" || got.exit.Code != 0 {
		t.Errorf("got %v", got)
	}
}

func TestBadExecMessages(t *testing.T) {
	elsewhere := initMessage("x", nil, "true")
	elsewhere.GetInit().ContainerID = "../c"
	for name, tt := range map[string]struct {
		msgs []*gwpb.ExecMessage
		code codes.Code
	}{
		"empty":           {[]*gwpb.ExecMessage{{}}, codes.InvalidArgument},
		"no input":        {[]*gwpb.ExecMessage{{ProcessID: "x"}}, codes.NotFound},
		"long id":         {[]*gwpb.ExecMessage{initMessage(strings.Repeat("x", 300), nil, "true")}, codes.InvalidArgument},
		"no init":         {[]*gwpb.ExecMessage{{ProcessID: "x", Input: &gwpb.ExecMessage_Init{}}}, codes.InvalidArgument},
		"no args":         {[]*gwpb.ExecMessage{initMessage("x", nil)}, codes.InvalidArgument},
		"fd":              {[]*gwpb.ExecMessage{initMessage("x", []uint32{3}, "true")}, codes.InvalidArgument},
		"container":       {[]*gwpb.ExecMessage{elsewhere}, codes.NotFound},
		"unknown process": {[]*gwpb.ExecMessage{fileMessage("x", "y", false)}, codes.NotFound},
		"twice":           {[]*gwpb.ExecMessage{initMessage("x", nil, "sleep", "1000"), initMessage("x", nil, "true")}, codes.AlreadyExists},
		"no stdin":        {[]*gwpb.ExecMessage{initMessage("x", nil, "sleep", "1000"), fileMessage("x", "y", false)}, codes.InvalidArgument},
		"signal": {[]*gwpb.ExecMessage{initMessage("x", nil, "sleep", "1000"),
			{ProcessID: "x", Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{Name: "NOPE"}}}}, codes.InvalidArgument},
		"nil signal": {[]*gwpb.ExecMessage{initMessage("x", nil, "sleep", "1000"), {ProcessID: "x", Input: &gwpb.ExecMessage_Signal{}}}, codes.InvalidArgument},
		"ours":       {[]*gwpb.ExecMessage{initMessage("x", nil, "sleep", "1000"), {ProcessID: "x", Input: &gwpb.ExecMessage_Done{}}}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, s, _ := executing(t)
			send(t, s, tt.msgs...)
			for {
				_, err := s.Recv()
				if err == nil {
					continue
				}
				if status.Code(err) != tt.code {
					t.Errorf("got %v", err)
				}
				return
			}
		})
	}
}

// Whichever way a stream ends, its processes end.
func TestProcessesEndWithTheirStream(t *testing.T) {
	for name, end := range map[string]func(*bridge, gwpb.LLBBridgeClient, context.CancelFunc){
		"client leaves": func(_ *bridge, _ gwpb.LLBBridgeClient, cancel context.CancelFunc) { cancel() },
		"return": func(_ *bridge, c gwpb.LLBBridgeClient, _ context.CancelFunc) {
			_, _ = c.Return(metadata.AppendToOutgoingContext(context.Background(), "buildkit-controlapi-buildid", "b"), &gwpb.ReturnRequest{})
		},
		"release": func(_ *bridge, c gwpb.LLBBridgeClient, _ context.CancelFunc) {
			_, _ = c.ReleaseContainer(metadata.AppendToOutgoingContext(context.Background(), "buildkit-controlapi-buildid", "b"), &gwpb.ReleaseContainerRequest{ContainerID: "c"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, c, s, cancel := executing(t)
			send(t, s, initMessage("x", []uint32{0, 1}, "sh", "-c", "echo ready; exec sleep 1000"))
			for {
				msg, err := s.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if msg.GetFile() != nil {
					break
				}
			}
			end(b, c, cancel)
			h := b.host(t)
			processes := h.processes()
			if len(processes) != 1 {
				t.Fatalf("there are %d processes", len(processes))
			}
			for _, r := range processes {
				if err := r.Wait(); err == nil || err.Error() != "exit code: 137" {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

func TestContainerRequests(t *testing.T) {
	b := &bridge{}
	f, ctx, out := start(t, gateway.Build{Bridge: b})
	id := solve(t, f, ctx, "A")
	ssh := &pb.Mount{Dest: "/s", MountType: pb.MountType_SSH}
	for name, tt := range map[string]struct {
		req *gwpb.NewContainerRequest
		is  func(error) bool
	}{
		"nil":            {nil, cerrdefs.IsInvalidArgument},
		"no id":          {&gwpb.NewContainerRequest{Mounts: rootMount}, cerrdefs.IsInvalidArgument},
		"path":           {&gwpb.NewContainerRequest{ContainerID: "../x", Mounts: rootMount}, cerrdefs.IsInvalidArgument},
		"absolute":       {&gwpb.NewContainerRequest{ContainerID: "/x", Mounts: rootMount}, cerrdefs.IsInvalidArgument},
		"slash":          {&gwpb.NewContainerRequest{ContainerID: "a/b", Mounts: rootMount}, cerrdefs.IsInvalidArgument},
		"zero byte":      {&gwpb.NewContainerRequest{ContainerID: "a\x00", Mounts: rootMount}, cerrdefs.IsInvalidArgument},
		"newline":        {&gwpb.NewContainerRequest{ContainerID: "a\n", Mounts: rootMount}, cerrdefs.IsInvalidArgument},
		"long":           {&gwpb.NewContainerRequest{ContainerID: strings.Repeat("a", 4096), Mounts: rootMount}, cerrdefs.IsInvalidArgument},
		"no root":        {&gwpb.NewContainerRequest{ContainerID: "c"}, cerrdefs.IsInvalidArgument},
		"nil mount":      {&gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{nil}}, cerrdefs.IsInvalidArgument},
		"ssh":            {&gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{rootMount[0], ssh}}, cerrdefs.IsInvalidArgument},
		"type":           {&gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/", MountType: 77}}}, cerrdefs.IsInvalidArgument},
		"nil host":       {&gwpb.NewContainerRequest{ContainerID: "c", Mounts: rootMount, ExtraHosts: []*pb.HostIP{nil}}, cerrdefs.IsInvalidArgument},
		"unknown result": {&gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/", ResultID: "ref-99"}}}, cerrdefs.IsNotFound},
	} {
		if _, err := f.NewContainer(ctx, tt.req); !tt.is(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if b.hosts != nil {
		t.Fatal("a container was made for a bad request")
	}
	req := &gwpb.NewContainerRequest{
		ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/", ResultID: id}, {Dest: "/empty", MountType: pb.MountType_TMPFS}},
		Network: pb.NetMode_NONE, Hostname: "h", Platform: &pb.Platform{OS: "linux", Architecture: "riscv64"},
	}
	if _, err := f.NewContainer(ctx, req); err != nil {
		t.Fatal(err)
	}
	r := b.host(t).request
	if r.Network != pb.NetMode_NONE || r.Hostname != "h" || r.Platform.Architecture != "riscv64" || len(r.Mounts) != 2 ||
		nameOf(r.Mounts[0].Ref) != "A" || r.Mounts[1].Ref != nil || r.Mounts[1].MountType != pb.MountType_TMPFS {
		t.Errorf("got %+v", r)
	}
	if _, err := f.NewContainer(ctx, req); !cerrdefs.IsAlreadyExists(err) {
		t.Errorf("twice: got %v", err)
	}
	file, err := f.ReadFileContainer(ctx, &gwpb.ReadFileRequest{Ref: "c", FilePath: "/f", MountIndex: 1, Range: &gwpb.FileRange{Offset: 2, Length: 3}})
	if err != nil || string(file.Data) != "1 /f 2 3" {
		t.Errorf("got %v, %v", file, err)
	}
	if _, err := f.ReadFileContainer(ctx, &gwpb.ReadFileRequest{Ref: "c", Range: &gwpb.FileRange{Offset: -1}}); !cerrdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	if d, err := f.ReadDirContainer(ctx, &gwpb.ReadDirRequest{Ref: "c", DirPath: "/d", IncludePattern: "*", MountIndex: -1}); err != nil || d.Entries[0].Path != "-1/d*" {
		t.Errorf("got %v, %v", d, err)
	}
	if st, err := f.StatFileContainer(ctx, &gwpb.StatFileRequest{Ref: "c", Path: "/f"}); err != nil || st.Stat.Path != "0/f" {
		t.Errorf("got %v, %v", st, err)
	}
	if _, err := f.ReleaseContainer(ctx, &gwpb.ReleaseContainerRequest{ContainerID: "c"}); err != nil || !b.host(t).released {
		t.Errorf("got %v", err)
	}
	b.refuse = true
	forbidden := &gwpb.NewContainerRequest{ContainerID: "forbidden", Mounts: rootMount, Network: pb.NetMode_HOST}
	if _, err := f.NewContainer(ctx, forbidden); err != nil { // its processes are told
		t.Error(err)
	}
	b.refuse = false
	if _, err := f.ReadFileContainer(ctx, &gwpb.ReadFileRequest{Ref: "forbidden"}); !cerrdefs.IsPermissionDenied(err) {
		t.Errorf("got %v", err)
	}
	_, e1 := f.ReleaseContainer(ctx, &gwpb.ReleaseContainerRequest{ContainerID: "c"})
	_, e2 := f.ReadFileContainer(ctx, &gwpb.ReadFileRequest{Ref: "c"})
	_, e3 := f.ReadDirContainer(ctx, nil)
	_, e4 := f.StatFileContainer(ctx, &gwpb.StatFileRequest{Ref: "c"})
	for _, err := range []error{e1, e2, e3, e4} {
		if !cerrdefs.IsNotFound(err) {
			t.Errorf("after release: got %v", err)
		}
	}
	// What a frontend leaves behind ends with it.
	if _, err := f.NewContainer(ctx, req); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Return(ctx, &gwpb.ReturnRequest{}); err != nil {
		t.Fatal(err)
	}
	<-out
	if !b.hosts[1].released {
		t.Error("a container outlives its build")
	}
}
