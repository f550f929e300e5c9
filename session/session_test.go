package session_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/session"
	controlapi "github.com/moby/buildkit/api/services/control"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward"
	"golang.org/x/crypto/ssh/agent"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A control serves sessions, as the daemon does.
type control struct {
	controlapi.UnimplementedControlServer
	m *session.Manager
}

func (c *control) Session(s controlapi.Control_SessionServer) error {
	return c.m.Handle(s.Context(), s)
}

// serve returns a manager and a client of the control API that reaches it.
func serve(t *testing.T, opts ...grpc.ServerOption) (*session.Manager, controlapi.ControlClient) {
	t.Helper()
	m, err := session.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(opts...)
	controlapi.RegisterControlServer(srv, &control{m: m})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	cc, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close()
		srv.Stop()
		<-done
	})
	return m, controlapi.NewControlClient(cc)
}

// join connects a session that offers what is given.
func join(t *testing.T, c controlapi.ControlClient, offers ...bksession.Attachable) *bksession.Session {
	t.Helper()
	s, err := bksession.NewSession(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offers {
		s.Allow(o)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(context.WithoutCancel(t.Context()), grpchijack.Dialer(c))
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return s
}

func secret(id, value string) bksession.Attachable {
	return secretsprovider.FromMap(map[string][]byte{id: []byte(value)})
}

func TestSecret(t *testing.T) {
	for _, opts := range [][]grpc.ServerOption{nil, {grpc.ForceServerCodecV2(session.Codec{})}} {
		m, c := serve(t, opts...)
		big := strings.Repeat("0123456789", 40_000)
		one, two, none := join(t, c, secret("a", big)), join(t, c, secret("b", "two")), join(t, c)
		g := session.NewGroup(none.ID(), one.ID(), two.ID())
		for id, want := range map[string]string{"a": big, "b": "two"} {
			if got, err := m.Secret(t.Context(), g, id); err != nil || string(got) != want {
				t.Errorf("secret %s is %.20q, %v", id, got, err)
			}
		}
		if _, err := m.Secret(t.Context(), g, "c"); !errors.Is(err, session.ErrNoSecret) {
			t.Errorf("got %v, want no such secret", err)
		}
		if _, err := m.Secret(t.Context(), session.NewGroup(none.ID()), "a"); !errors.Is(err, session.ErrNoSecret) {
			t.Errorf("a client without secrets: got %v, want no such secret", err)
		}
	}
}

func TestGetWaits(t *testing.T) {
	m, c := serve(t)
	s, err := bksession.NewSession(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	found := make(chan error)
	go func() {
		_, err := m.Get(t.Context(), "prefix:"+s.ID())
		found <- err
	}()
	go func() { _ = s.Run(t.Context(), grpchijack.Dialer(c)) }()
	defer s.Close()
	if err := <-found; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := m.Get(ctx, "nobody"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the error of the context", err)
	}
}

func TestAnyWithoutSessions(t *testing.T) {
	m, _ := serve(t)
	for _, g := range []session.Group{nil, session.NewGroup()} {
		err := m.Any(t.Context(), g, func(context.Context, string, session.Caller) error { return nil })
		if !errors.Is(err, session.ErrNoSession) {
			t.Errorf("got %v", err)
		}
	}
}

// What a step does with a session ends when the client leaves, and says why.
func TestClientLeaves(t *testing.T) {
	m, c := serve(t)
	s := join(t, c)
	err := m.Any(t.Context(), session.NewGroup(s.ID()), func(ctx context.Context, _ string, _ session.Caller) error {
		s.Close()
		<-ctx.Done()
		return ctx.Err()
	})
	if err == nil || !strings.Contains(err.Error(), "client left") {
		t.Errorf("got %v", err)
	}
}

func TestBadSessions(t *testing.T) {
	m, c := serve(t)
	s := join(t, c)
	if _, err := m.Get(t.Context(), s.ID()); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]codes.Code{
		"": codes.InvalidArgument, "a:b": codes.InvalidArgument, strings.Repeat("x", 300): codes.InvalidArgument, s.ID(): codes.AlreadyExists,
	} {
		stream, err := c.Session(metadata.AppendToOutgoingContext(t.Context(), "x-docker-expose-session-uuid", id))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != want {
			t.Errorf("id %.10q: got %v, want %v", id, err, want)
		}
	}
}

// An agentServer forwards to a keyring, as clients do.
type agentServer struct {
	sshforward.UnimplementedSSHServer
	keys agent.Agent
}

func (a *agentServer) Register(s *grpc.Server) { sshforward.RegisterSSHServer(s, a) }

func (a *agentServer) CheckAgent(_ context.Context, r *sshforward.CheckAgentRequest) (*sshforward.CheckAgentResponse, error) {
	if r.ID != "default" {
		return nil, fmt.Errorf("unset ssh forward key %s", r.ID)
	}
	return &sshforward.CheckAgentResponse{}, nil
}

func (a *agentServer) ForwardAgent(s sshforward.SSH_ForwardAgentServer) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	if id := md.Get(sshforward.KeySSHID); len(id) != 1 || id[0] != "default" {
		return status.Error(codes.NotFound, "no such agent")
	}
	one, two := net.Pipe()
	go func() {
		_ = agent.ServeAgent(a.keys, one)
		one.Close()
	}()
	return sshforward.Copy(s.Context(), two, s, nil)
}

func TestSSHSocket(t *testing.T) {
	m, c := serve(t)
	s := join(t, c, &agentServer{keys: agent.NewKeyring()})
	g := session.NewGroup(s.ID())
	if _, _, err := m.SSHSocket(t.Context(), g, session.SSHOptions{ID: "other", Dir: t.TempDir()}); !errors.Is(err, session.ErrNoSSH) {
		t.Errorf("got %v, want no such ssh agent", err)
	}
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path, cleanup, err := m.SSHSocket(t.Context(), g, session.SSHOptions{Dir: dir, UID: 12, GID: 34, Mode: 0o640})
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("socket is %v, %v", fi, err)
	}
	short := filepath.Join(t.TempDir(), "d")
	if err := os.Symlink(dir, short); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := net.Dial("unix", filepath.Join(short, filepath.Base(path)))
		if err != nil {
			t.Fatal(err)
		}
		if keys, err := agent.NewClient(conn).List(); err != nil || len(keys) != 0 {
			t.Errorf("List: %v, %v", keys, err)
		}
		defer conn.Close()
	}
	if err := cleanup(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is left")
	}
}

// Large data cross the tunnel whole in both directions.
func TestConn(t *testing.T) {
	m, c := serve(t, grpc.ForceServerCodecV2(session.Codec{}))
	data := bytes.Repeat([]byte("all work and no play "), 200_000)
	s := join(t, c, secret("x", "y"), &echo{})
	err := m.Any(t.Context(), session.NewGroup(s.ID()), func(ctx context.Context, _ string, c session.Caller) error {
		stream, err := sshforward.NewSSHClient(c.Conn()).ForwardAgent(ctx)
		if err != nil {
			return err
		}
		go func() {
			for rest := data; len(rest) > 0; {
				n := min(len(rest), 100_000)
				if stream.Send(&sshforward.BytesMessage{Data: rest[:n]}) != nil {
					return
				}
				rest = rest[n:]
			}
			_ = stream.CloseSend()
		}()
		var got []byte
		for {
			msg, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			got = append(got, msg.Data...)
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back, of %d", len(got), len(data))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

type echo struct {
	sshforward.UnimplementedSSHServer
}

func (e *echo) Register(s *grpc.Server) { sshforward.RegisterSSHServer(s, e) }

func (e *echo) ForwardAgent(s sshforward.SSH_ForwardAgentServer) error {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(m); err != nil {
			return err
		}
	}
}

func TestLane(t *testing.T) {
	m, c := serve(t, grpc.ForceServerCodecV2(session.Codec{}))
	if m.Lane(t.Context(), "nobody") != nil {
		t.Fatal("a lane of nobody")
	}
	client, err := grpchijack.Dialer(c)(t.Context(), "", map[string][]string{session.LaneHeader: {"id"}})
	if err != nil {
		t.Fatal(err)
	}
	var daemon net.Conn
	for deadline := time.Now().Add(10 * time.Second); daemon == nil && time.Now().Before(deadline); runtime.Gosched() {
		daemon = m.Lane(t.Context(), "id") // until the stream has arrived
	}
	if daemon == nil {
		t.Fatal("no lane")
	}
	frame, err := session.AppendFrame(nil, session.LaneRequest{Name: "context"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := daemon.Write(frame); err != nil {
		t.Fatal(err)
	}
	var req session.LaneRequest
	in := bufio.NewReader(client)
	if err := session.ReadFrame(in, &req); err != nil || req.Name != "context" {
		t.Fatal(req, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if m.Lane(ended, "id") != nil {
		t.Fatal("the same lane twice")
	}
	daemon.Close()
	if err := session.ReadFrame(in, &req); !errors.Is(err, io.EOF) && status.Code(err) != codes.OK {
		t.Fatal(err)
	}
}

func TestReadFrameRefusesLargeOnes(t *testing.T) {
	b := binary.AppendUvarint(nil, session.MaxFrame+1)
	if err := session.ReadFrame(bufio.NewReader(bytes.NewReader(b)), new(session.LaneReply)); err == nil {
		t.Fatal("no error")
	}
}
