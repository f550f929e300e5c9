package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	clog "github.com/containerd/log"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/autostart"
	"github.com/dbuild/dbuild/session"
	"github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer"
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/nerdctlcontainer"
	_ "github.com/moby/buildkit/client/connhelper/podmancontainer"
	_ "github.com/moby/buildkit/client/connhelper/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// idleTimeout is how long a daemon that we started stays without anything to do.
const idleTimeout = "10m"

// window is how many bytes of one stream may be on their way.
const window = 4 << 20

// tlsFlags are the files for tcp:// addresses.
type tlsFlags struct{ ca, cert, key, serverName string }

// A daemonConn is a connection to a daemon that has answered.
type daemonConn struct {
	*client.Client
	addr address
	info client.BuildkitVersion
}

// ours tells whether the daemon is dbuild's and not BuildKit's.
func (d *daemonConn) ours() bool { return d.info.Package == daemonPackage }

// silenceLibraries keeps them from telling what users need not know, such as that
// connections end, or that a filesystem has no fs-verity.
func (a *app) silenceLibraries() {
	if !a.debug {
		log.SetOutput(io.Discard)
		clog.L.Logger.SetOutput(io.Discard)
	}
}

// connect returns a connection to the daemon that the user means, starting one if the
// user does not say which and none listens.
func (a *app) connect(ctx context.Context) (*daemonConn, error) {
	a.silenceLibraries()
	p := a.places()
	addr := chooseAddress(a.addr, a.lookup, p)
	// A daemon may leave because it is idle while we connect: then the next one is started.
	for try := 0; ; try++ {
		if addr.isDefault() {
			if _, err := autostart.Ensure(ctx, a.autostartConfig(p)); err != nil {
				return nil, err
			}
		}
		d, err := a.dial(ctx, addr)
		if err == nil {
			if addr.isDefault() && d.ours() && d.info.Version != version() {
				a.warn("the daemon is version %s and this is %s; it will be replaced when it has been idle for %s", d.info.Version, version(), idleTimeout)
			}
			return d, nil
		}
		if !addr.isDefault() || codeOf(err) != codes.Unavailable || try == 2 {
			return nil, err
		}
	}
}

func (a *app) dial(ctx context.Context, addr address) (*daemonConn, error) {
	if err := addr.check(); err != nil {
		return nil, err
	}
	opts, err := a.tls.options(addr)
	if err != nil {
		return nil, err
	}
	for _, o := range transport() {
		opts = append(opts, client.WithGRPCDialOption(o))
	}
	c, err := client.New(ctx, addr.url, opts...)
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", addr.url, err)
	}
	d := &daemonConn{Client: c, addr: addr}
	info, err := c.Info(ctx)
	switch {
	case err == nil:
		d.info = info.BuildkitVersion
	case codeOf(err) == codes.Unimplemented: // an old BuildKit
	default:
		c.Close()
		return nil, &connectError{addr: addr, err: err}
	}
	return d, nil
}

// transport is how to talk to a daemon: with large writes, and windows in which an export
// that it sends fits without waiting for the client to say that it may go on.
func transport() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(session.Codec{})),
		grpc.WithWriteBufferSize(128 << 10),
		grpc.WithReadBufferSize(128 << 10),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(2 * window),
	}
}

func (t tlsFlags) options(addr address) ([]client.ClientOpt, error) {
	var opts []client.ClientOpt
	if t == (tlsFlags{}) {
		return nil, nil
	}
	if !strings.HasPrefix(addr.url, "tcp://") {
		return nil, fmt.Errorf("TLS is for tcp:// addresses, not %s", addr.url)
	}
	if (t.cert == "") != (t.key == "") {
		return nil, fmt.Errorf("--tlscert and --tlskey belong together")
	}
	if t.ca != "" || t.serverName != "" {
		opts = append(opts, client.WithServerConfig(t.serverName, t.ca))
	}
	if t.cert != "" {
		opts = append(opts, client.WithCredentials(t.cert, t.key))
	}
	return opts, nil
}

// A connectError says that no daemon answers at an address.
type connectError struct {
	addr address
	err  error
}

func (e *connectError) Unwrap() error { return e.err }

func (e *connectError) Error() string {
	where := e.addr.url
	if e.addr.from != "" {
		where += " (from " + e.addr.from + ")"
	}
	why := plainMessage(e.err)
	for _, before := range []string{"connect: ", "Error while dialing: "} {
		if i := strings.LastIndex(why, before); i >= 0 { // connection refused, no such file
			why = strings.Trim(why[i+len(before):], `"`)
			break
		}
	}
	return fmt.Sprintf("no daemon answers at %s: %s", where, why)
}

func (a *app) autostartConfig(p places) autostart.Config {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	return autostart.Config{
		Command: []string{exe, "daemon", "--root", p.state, "--addr", "unix://" + p.socket, "--idle-timeout", idleTimeout},
		Env:     daemonEnv(os.Environ()),
		Socket:  p.socket,
		State:   filepath.Clean(p.state),
	}
}

// daemonVars are the variables that a daemon gets. It lives longer than the command that
// starts it and serves others, so it gets none of that command's secrets.
var daemonVars = []string{
	"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER",
	"GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK", "GOCOVERDIR",
	"SSL_CERT_DIR", "SSL_CERT_FILE",
	"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
}

func daemonEnv(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		if name == "DBUILD_HOST" || name == "BUILDKIT_HOST" {
			return true
		}
		if strings.HasPrefix(name, "LC_") || strings.HasPrefix(name, "DBUILD_") || strings.HasPrefix(name, "OTEL_") {
			return false
		}
		return !slices.Contains(daemonVars, name) && !slices.Contains(daemonVars, strings.ToUpper(name))
	})
}
