package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/moby/buildkit/session/sshforward"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ErrNoSSH says that no session of the group forwards an SSH agent of that name.
var ErrNoSSH = errors.New("no such ssh agent")

// SSHOptions says which agent to forward and who may use the socket.
type SSHOptions struct {
	ID       string // "" is "default"
	Dir      string // where the socket is made; required, must exist
	UID, GID int
	Mode     os.FileMode // 0 is 0600
}

// SSHSocket makes a unix socket in o.Dir that leads to a client's SSH agent, and returns
// its path. It returns ErrNoSSH, wrapped, if no session of g has the agent. Until cleanup
// is called or ctx ends connections are forwarded; cleanup closes them, waits for them and
// removes the socket.
func (m *Manager) SSHSocket(ctx context.Context, g Group, o SSHOptions) (path string, cleanup func() error, err error) {
	if o.ID == "" {
		o.ID = sshforward.DefaultID
	}
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	var caller Caller
	err = m.Any(ctx, g, func(ctx context.Context, _ string, c Caller) error {
		if err := sshforward.CheckSSHID(ctx, c, o.ID); err != nil {
			return err
		}
		caller = c
		return nil
	})
	if err != nil {
		if code := status.Code(err); ctx.Err() == nil && code != codes.Unavailable && code != codes.Canceled {
			return "", nil, fmt.Errorf("ssh agent %s: %w: %w", o.ID, ErrNoSSH, err)
		}
		return "", nil, fmt.Errorf("ssh agent %s: %w", o.ID, err)
	}
	l, path, err := listenIn(o)
	if err != nil {
		return "", nil, fmt.Errorf("ssh agent %s: %w", o.ID, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &forwarder{caller: caller, id: o.ID, listener: l}
	f.wg.Go(func() { f.accept(ctx) })
	stop := context.AfterFunc(ctx, func() { l.Close() })
	var once sync.Once
	return path, func() (err error) {
		once.Do(func() {
			cancel()
			stop()
			l.Close()
			f.wg.Wait()
			err = os.RemoveAll(path)
		})
		return err
	}, nil
}

// listenIn listens on o.Dir/ssh_auth_sock. It names the directory by a descriptor, since
// the address of a socket is at most 107 bytes long.
func listenIn(o SSHOptions) (net.Listener, string, error) {
	dir, err := os.Open(o.Dir)
	if err != nil {
		return nil, "", err
	}
	defer dir.Close()
	const name = "ssh_auth_sock"
	path := filepath.Join(o.Dir, name)
	l, err := net.ListenUnix("unix", &net.UnixAddr{
		Name: filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), name), Net: "unix"})
	if err != nil {
		return nil, "", err
	}
	l.SetUnlinkOnClose(false) // by then the number means something else
	if err := errors.Join(os.Chown(path, o.UID, o.GID), os.Chmod(path, o.Mode)); err != nil {
		l.Close()
		os.RemoveAll(path)
		return nil, "", err
	}
	return l, path, nil
}

// A forwarder carries the connections of one socket to a client's agent.
type forwarder struct {
	caller   Caller
	id       string
	listener net.Listener
	wg       sync.WaitGroup
}

func (f *forwarder) accept(ctx context.Context) {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.wg.Go(func() { f.forward(ctx, conn) })
	}
}

// forward carries one connection. Its errors are seen by whoever made the connection.
func (f *forwarder) forward(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = metadata.NewOutgoingContext(f.caller.Context(ctx), metadata.Pairs(sshforward.KeySSHID, f.id))
	stream, err := sshforward.NewSSHClient(f.caller.Conn()).ForwardAgent(ctx)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = sshforward.Copy(ctx, conn, stream, stream.CloseSend)
}
