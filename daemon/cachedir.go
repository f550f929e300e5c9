package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/session"
	"github.com/dbuild/dbuild/worker"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// localUsers finds out who calls over a unix socket. It protects nothing: a listener that
// needs TLS has it already.
type localUsers struct{}

// A localUser is who calls.
type localUser struct {
	uid   int
	known bool // the call comes from this machine
}

// AuthType implements credentials.AuthInfo.
func (localUser) AuthType() string { return "local" }

// ServerHandshake implements credentials.TransportCredentials.
func (localUsers) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var who localUser
	if u, ok := c.(*net.UnixConn); ok {
		raw, err := u.SyscallConn()
		if err != nil {
			return nil, nil, err
		}
		_ = raw.Control(func(fd uintptr) {
			cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
			if err == nil {
				who = localUser{uid: int(cred.Uid), known: true}
			}
		})
	}
	return c, who, nil
}

// ClientHandshake implements credentials.TransportCredentials; the daemon never asks.
func (localUsers) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("for servers only")
}

// Info implements credentials.TransportCredentials.
func (localUsers) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{} }

// Clone implements credentials.TransportCredentials.
func (l localUsers) Clone() credentials.TransportCredentials { return l }

// OverrideServerName implements credentials.TransportCredentials.
func (localUsers) OverrideServerName(string) error { return nil }

// cacheDirs reads which directories a caller lends for cache mounts, and checks that each
// is the caller's to lend, before anything is built.
func cacheDirs(ctx context.Context) (map[string]worker.CacheDir, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get(session.CacheMountsHeader)
	if len(values) == 0 {
		return nil, nil
	}
	var paths map[string]string
	if err := json.Unmarshal([]byte(values[0]), &paths); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not a list of directories: %v", session.CacheMountsHeader, err))
	}
	var who localUser
	if p, ok := peer.FromContext(ctx); ok {
		who, _ = p.AuthInfo.(localUser)
	}
	if !who.known {
		return nil, errdefs.ErrPermissionDenied.WithMessage("a directory for a cache mount can be lent to a daemon on the same machine only, over its unix socket")
	}
	out := map[string]worker.CacheDir{}
	for id, path := range paths {
		dir := worker.CacheDir{Path: path, UID: who.uid}
		f, err := dir.Open()
		if err != nil {
			return nil, err
		}
		f.Close()
		out[id] = dir
	}
	return out, nil
}
