package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/gateway"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protodelim"
)

// An echo is a container whose processes say what they are told.
type echo struct{ frontend.Container }

func (echo) Release(context.Context) error { return nil }

func (echo) Start(_ context.Context, p frontend.Process) (frontend.Running, error) {
	r := &echoing{ended: make(chan struct{}), stdin: p.Stdin}
	go func() {
		defer close(r.ended)
		if p.Stdin != nil {
			out := io.Discard
			if p.Stdout != nil {
				out = p.Stdout
			}
			_, r.err = io.Copy(out, p.Stdin)
		}
		for _, s := range []io.Closer{p.Stdin, p.Stdout, p.Stderr} {
			if s != nil {
				s.Close()
			}
		}
	}()
	return r, nil
}

type echoing struct {
	stdin io.Closer
	ended chan struct{}
	err   error
}

func (r *echoing) Resize(context.Context, uint32, uint32) error { return nil }

func (r *echoing) Signal(context.Context, syscall.Signal) error {
	if r.stdin != nil {
		return r.stdin.Close()
	}
	return nil
}

func (r *echoing) Wait() error {
	<-r.ended
	return r.err
}

// An echoBridge has containers that echo.
type echoBridge struct{ bridge }

func (*echoBridge) NewContainer(context.Context, frontend.ContainerRequest) (frontend.Container, error) {
	return echo{}, nil
}

// A script is a client that says what it was told to say, and then leaves.
type script struct {
	grpc.ServerStream
	ctx  context.Context
	says *bytes.Reader
	end  error

	mu    sync.Mutex
	hears int
}

func (s *script) Context() context.Context { return s.ctx }

func (s *script) Recv() (*gwpb.ExecMessage, error) {
	msg := &gwpb.ExecMessage{}
	if protodelim.UnmarshalFrom(s.says, msg) != nil {
		return nil, s.end
	}
	return msg, nil
}

func (s *script) Send(m *gwpb.ExecMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hears++; s.hears > 1000 {
		return errors.New("it hears no more")
	}
	_, err := protodelim.MarshalTo(io.Discard, m)
	return err
}

func FuzzExecProcess(f *testing.F) {
	add := func(msgs ...*gwpb.ExecMessage) {
		var b bytes.Buffer
		for _, m := range msgs {
			if _, err := protodelim.MarshalTo(&b, m); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(true, b.Bytes())
		f.Add(false, b.Bytes())
	}
	cat, next := initMessage("x", []uint32{0, 1, 2}, "cat"), initMessage("y", []uint32{0, 0, 1}, "cat")
	elsewhere, odd := initMessage("x", nil, "true"), initMessage("x", []uint32{7}, "true")
	elsewhere.GetInit().ContainerID = "../c"
	odd.GetInit().Fds, odd.GetInit().Security, odd.GetInit().Secretenv = nil, 99, []*pb.SecretEnv{{}}
	add()
	add(&gwpb.ExecMessage{})
	add(&gwpb.ExecMessage{ProcessID: "x", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{}}})
	add(&gwpb.ExecMessage{ProcessID: "x", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: "c", Meta: &pb.Meta{}}}})
	add(cat, fileMessage("x", "hello", false), fileMessage("x", "", true), fileMessage("x", "late", false))
	add(cat, cat)
	add(cat, next, fileMessage("y", strings.Repeat("x", 1000), false), fileMessage("x", "", true))
	add(initMessage(strings.Repeat("x", 300), nil, "true"))
	add(elsewhere)
	add(odd)
	add(initMessage("../x", []uint32{3}, "true"))
	for _, in := range []*gwpb.ExecMessage{
		{}, {Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: 9, EOF: true}}}, {Input: &gwpb.ExecMessage_Resize{Resize: &gwpb.ResizeMessage{Rows: 1 << 31}}},
		{Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{Name: "KILL"}}}, {Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{}}},
		{Input: &gwpb.ExecMessage_Started{Started: &gwpb.StartedMessage{}}}, {Input: &gwpb.ExecMessage_Exit{Exit: &gwpb.ExitMessage{Code: 1 << 31}}}, {Input: &gwpb.ExecMessage_Done{Done: &gwpb.DoneMessage{}}},
	} {
		in.ProcessID = "x"
		add(in)
		add(cat, in, in)
	}
	f.Fuzz(func(t *testing.T, leaves bool, b []byte) {
		g, ctx, _ := start(t, gateway.Build{Bridge: &echoBridge{}})
		if _, err := g.NewContainer(ctx, &gwpb.NewContainerRequest{ContainerID: "c", Mounts: rootMount}); err != nil {
			t.Fatal(err)
		}
		s := &script{ctx: ctx, says: bytes.NewReader(b), end: io.EOF}
		if leaves {
			s.end = context.Canceled
		}
		done := make(chan error, 1)
		go func() { done <- g.ExecProcess(s) }() // a panic ends the test, as it should
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatal("the stream does not end")
		}
	})
}
