package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/rpcerror"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/sys/signal"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
)

const (
	// maxProcesses is how many processes one stream may start, so that a client cannot make
	// the daemon remember without end.
	maxProcesses = 10_000
	// maxFrame is how much output one message carries.
	maxFrame = 64 << 10
)

// ExecProcess carries the processes that a client starts in its containers, any number at a
// time. Each message names its process; to the client go Started, the output, Exit and Done.
func (v *service) ExecProcess(stream gwpb.LLBBridge_ExecProcessServer) (err error) {
	s, err := v.find(stream.Context())
	if err != nil {
		return err
	}
	ctx, leave, err := s.enter(stream.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	e := &execution{s: s, ctx: ctx, stream: stream, processes: map[string]*process{}, latest: map[string]chan struct{}{}}
	defer func() {
		if err != nil {
			cancel() // which kills what still runs
		}
		e.running.Wait()
		cancel()
		leave()
	}()
	// A receive ends with the stream only; what waits for it must end with the build too.
	messages := make(chan *gwpb.ExecMessage)
	received := make(chan error, 1)
	go func() {
		for {
			msg, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			select {
			case messages <- msg:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case msg := <-messages:
			if err := e.handle(msg); err != nil {
				return err
			}
		case err := <-received:
			if !errors.Is(err, io.EOF) {
				return err
			}
			for _, p := range e.processes { // the client has said all; it may still listen
				if p.stdin != nil {
					p.stdin.end()
				}
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// An execution is one stream of processes.
type execution struct {
	s       *serving
	ctx     context.Context
	running sync.WaitGroup

	sending sync.Mutex // held while a message is sent
	stream  gwpb.LLBBridge_ExecProcessServer

	// Of the receiving goroutine:
	processes map[string]*process      // also those that have ended
	latest    map[string]chan struct{} // by container: started of the process that came last
}

// A process is one of a stream.
type process struct {
	e     *execution
	id    string
	stdin *inbox // nil: the process has none
	fds   map[uint32]bool

	after    <-chan struct{} // closed when the one before it in its container has started
	announce func() error    // tells the client that it runs, once: its output follows
	started  chan struct{}   // closed when run is set, or will never be
	run      frontend.Running
}

func (e *execution) send(id string, msg *gwpb.ExecMessage) error {
	msg.ProcessID = id
	e.sending.Lock()
	defer e.sending.Unlock()
	return e.stream.Send(msg)
}

func invalid(format string, args ...any) error {
	return cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func (e *execution) handle(msg *gwpb.ExecMessage) error {
	id := msg.GetProcessID()
	if id == "" || len(id) > 256 {
		return invalid("a message about a process needs its id, of at most 256 bytes")
	}
	if init, ok := msg.GetInput().(*gwpb.ExecMessage_Init); ok {
		return e.start(id, init.Init)
	}
	p := e.processes[id]
	if p == nil {
		return cerrdefs.ErrNotFound.WithMessage(fmt.Sprintf("process %q was not started", id))
	}
	switch in := msg.GetInput().(type) {
	case *gwpb.ExecMessage_File:
		return p.write(in.File)
	case *gwpb.ExecMessage_Resize:
		return p.control(func(r frontend.Running) { _ = r.Resize(e.ctx, in.Resize.GetRows(), in.Resize.GetCols()) })
	case *gwpb.ExecMessage_Signal:
		sig, ok := signal.SignalMap[in.Signal.GetName()]
		if !ok {
			return invalid("there is no signal %.20q", in.Signal.GetName())
		}
		return p.control(func(r frontend.Running) { _ = r.Signal(e.ctx, sig) })
	}
	return invalid("process %q: this message is not for a builder", id)
}

func (e *execution) start(id string, init *gwpb.InitMessage) error {
	switch {
	case e.processes[id] != nil:
		return cerrdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("process %q exists already", id))
	case len(e.processes) >= maxProcesses:
		return cerrdefs.ErrResourceExhausted.WithMessage("too many processes were started")
	case init.GetMeta() == nil || len(init.Meta.Args) == 0:
		return invalid("process %q needs arguments", id)
	}
	for _, env := range init.Secretenv {
		if env.GetID() == "" || env.GetName() == "" {
			return invalid("process %q: a secret in the environment needs an id and a name", id)
		}
	}
	p := &process{e: e, id: id, fds: map[uint32]bool{}, started: make(chan struct{})}
	p.announce = sync.OnceValue(func() error {
		return e.send(id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Started{Started: &gwpb.StartedMessage{}}})
	})
	for _, fd := range init.Fds {
		if fd > 2 {
			return invalid("process %q: file descriptor %d: only 0, 1 and 2 can be passed", id, fd)
		}
		p.fds[fd] = true
	}
	c, err := e.s.container(init.ContainerID)
	if err != nil {
		return err
	}
	r := frontend.Process{Meta: init.Meta, Security: init.Security, SecretEnv: init.Secretenv, Tty: init.Tty}
	if p.fds[0] {
		p.stdin = newInbox()
		r.Stdin = p.stdin
	}
	if p.fds[1] {
		r.Stdout = &outlet{p: p, fd: 1}
	}
	if p.fds[2] {
		r.Stderr = &outlet{p: p, fd: 2}
	}
	e.processes[id] = p
	p.after, e.latest[init.ContainerID] = e.latest[init.ContainerID], p.started
	e.running.Go(func() { p.live(c, r) })
	return nil
}

// live runs the process to its end and tells the client. That it could not be started is
// told in the same way, so that other processes of the stream are not concerned.
func (p *process) live(c *held, r frontend.Process) {
	if p.after != nil {
		// Clients start processes that feed each other, and take nothing from the stream while
		// one cannot write: what they wait for must not wait for the process.
		_ = p.announce()
		<-p.after
	}
	c.live.Add(1)
	err := p.contain(func() error {
		run, err := c.Start(p.e.ctx, r)
		if err == nil {
			p.run = run
		}
		return err
	})
	sent := p.announce()
	close(p.started)
	if p.run != nil {
		err = p.contain(p.wait)
	}
	c.live.Add(-1)
	if p.stdin != nil {
		p.stdin.Close()
	}
	if sent != nil {
		return // there is nobody to tell
	}
	if p.e.send(p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Exit{Exit: p.exit(err)}}) == nil {
		_ = p.e.send(p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Done{Done: &gwpb.DoneMessage{}}})
	}
}

// wait waits for the process. It is killed when the stream or the build ends.
func (p *process) wait() error {
	stop := context.AfterFunc(p.e.ctx, func() {
		_ = p.run.Signal(context.WithoutCancel(p.e.ctx), syscall.SIGKILL)
	})
	defer stop()
	return p.run.Wait()
}

// contain makes a panic the failure of this process.
func (p *process) contain(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	return f()
}

// exit says how the process ended. Clients expect an error with any code but 0.
func (p *process) exit(err error) *gwpb.ExitMessage {
	if err == nil {
		return &gwpb.ExitMessage{}
	}
	out := &gwpb.ExitMessage{Code: gwpb.UnknownExitStatus}
	var exit frontend.Exit
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		out.Code = uint32(exit.ExitCode())
	}
	st, _ := status.FromError(rpcerror.Status(err))
	out.Error = &spb.Status{Code: int32(st.Code()), Message: st.Message(), Details: st.Proto().GetDetails()}
	return out
}

// write passes input on. What arrives after the process has ended is dropped.
func (p *process) write(f *gwpb.FdMessage) error {
	if f.GetFd() != 0 || p.stdin == nil {
		return invalid("process %q: file descriptor %d is not open for input", p.id, f.GetFd())
	}
	if err := p.stdin.put(p.e.ctx, f.GetData()); err != nil {
		return err
	}
	if f.GetEOF() {
		p.stdin.end()
	}
	return nil
}

// control does something to the process if it runs.
func (p *process) control(do func(frontend.Running)) error {
	select {
	case <-p.started:
	case <-p.e.ctx.Done():
		return context.Cause(p.e.ctx)
	}
	if p.run != nil {
		do(p.run)
	}
	return nil
}

// An outlet sends what a process writes to the client. Nobody listening is no reason to fail
// the process: it is killed when the stream ends.
type outlet struct {
	p  *process
	fd uint32
}

func (o *outlet) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0 && o.p.announce() == nil; {
		n := min(len(rest), maxFrame)
		msg := &gwpb.ExecMessage{Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: o.fd, Data: rest[:n]}}}
		if o.p.e.send(o.p.id, msg) != nil {
			break
		}
		rest = rest[n:]
	}
	return len(b), nil
}

// Close tells the client that there is no more.
func (o *outlet) Close() error {
	if o.p.announce() != nil {
		return nil
	}
	_ = o.p.e.send(o.p.id, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: o.fd, EOF: true}}})
	return nil
}
