package runc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/vishvananda/netlink"

	"github.com/dbuild/dbuild/worker/runc/network"
	"github.com/dbuild/dbuild/worker/runc/proxy"
	"github.com/dbuild/dbuild/worker/runc/rootfs"
)

// A Proxy says that a process reaches its network through a proxy of the executor only.
type Proxy struct {
	// Judge returns what becomes of an address that the process asks for: itself or another,
	// or an error that says why it may not be had. nil permits all.
	Judge func(ctx context.Context, method string, u *url.URL) (*url.URL, error)
	// Record gets what the process asks for; required. It is complete when the run has ended.
	Record *proxy.Record
}

// An UncleanError says that what a run had in its root file system could not be removed
// from it: the file system is not what the command made of it.
type UncleanError struct {
	Err error // what else went wrong, or nil
	Why error
}

func (e *UncleanError) Error() string {
	text := fmt.Sprintf("failed to clean up proxy CA: %v", e.Why)
	if e.Err != nil {
		text = fmt.Sprintf("%v; %s", e.Err, text)
	}
	return text
}

// Unwrap returns both errors.
func (e *UncleanError) Unwrap() []error {
	return slices.DeleteFunc([]error{e.Err, e.Why}, func(err error) bool { return err == nil })
}

// proxyAddr is where processes find their proxy, in a network of their own. It is the same
// for all, so that what steps note down of their environment is.
const proxyAddr = "127.0.0.1:13128"

// dialTimeout bounds how long one address of a host is tried.
const dialTimeout = 15 * time.Second

// A proxied is the network of a run that has a proxy.
type proxied struct {
	e      *Executor
	p      *Process
	ns     *network.Namespace // of the process
	server *proxy.Server
	dir    string // of files that the process sees at proxyFiles
	trust  *rootfs.Trust

	mu      sync.Mutex
	outside *network.Namespace // of the proxy; nil until it is used
	closed  bool
}

// isProxied reports whether the process gets a proxy: there must be something to reach.
func (e *Executor) isProxied(p *Process) bool {
	return p.Proxy != nil && (p.Network == pb.NetMode_HOST || p.Network == pb.NetMode_UNSET && e.network.Name() != network.None)
}

// openProxy makes a network with a proxy.
func (e *Executor) openProxy(ctx context.Context, p *Process) (_ *proxied, err error) {
	x := &proxied{e: e, p: p, dir: filepath.Join(e.config.Root, "proxied", p.ID)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("proxy network: %w", err), x.close(nil))
		}
	}()
	if x.ns, err = network.Isolated(); err != nil {
		return x, err
	}
	l, err := x.ns.Listen(ctx, "tcp4", proxyAddr)
	if err != nil {
		return x, err
	}
	x.server, err = proxy.Start(l, proxy.Options{Judge: p.Proxy.Judge, Dial: x.dial, Record: p.Proxy.Record})
	if err != nil {
		l.Close()
		return x, err
	}
	trust, err := rootfs.AddTrust(p.Rootfs, x.server.PEM())
	if err != nil {
		return x, err
	}
	x.trust = trust
	if err := x.writeFiles(); err != nil {
		return x, err
	}
	p.Env = proxiedEnv(p.Env)
	p.Mounts = append(slices.Clip(p.Mounts), Mount{Type: "bind", Source: x.dir, Target: proxyFiles, ReadOnly: true})
	return x, nil
}

// close ends the proxy and removes what it left in the root file system. It returns err, or
// an UncleanError.
func (x *proxied) close(err error) error {
	if x.server != nil {
		_ = x.server.Close() // of connections that nobody needs any more
	}
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	if x.outside != nil {
		x.outside.Release()
	}
	if x.ns != nil {
		x.ns.Release()
	}
	_ = os.RemoveAll(x.dir) // what is left is removed by the next Sweep
	if x.trust == nil {
		return err
	}
	if why := x.trust.Remove(); why != nil {
		return &UncleanError{Err: err, Why: why}
	}
	return err
}

// dial connects to the world from the network that the process would have without a proxy.
func (x *proxied) dial(ctx context.Context, proto, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ns, err := x.egress(ctx)
	if err != nil {
		return nil, err
	}
	list, err := x.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, ip := range list {
		to, err := netip.ParseAddrPort(net.JoinHostPort(ip.String(), port))
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		c, err := ns.Dial(ctx, proto, to)
		cancel()
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// egress returns the network of the proxy. Many processes never ask for anything.
func (x *proxied) egress(ctx context.Context) (*network.Namespace, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, net.ErrClosed
	}
	if x.outside == nil {
		ns, err := x.e.network.Acquire(ctx, x.p.Network, x.p.Hostname)
		if err != nil {
			return nil, err
		}
		x.outside = ns
	}
	return x.outside, nil
}

// counters are those of the proxy's network, of which the process has all.
func (x *proxied) counters() (netlink.LinkStatistics, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.outside == nil || x.closed {
		return netlink.LinkStatistics{}, x.outside == nil
	}
	return x.outside.Counters()
}

// resolve returns the addresses of a host, as /etc/hosts of the process has them or the
// name servers of steps.
func (x *proxied) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	var list []netip.Addr
	for _, h := range x.p.ExtraHosts {
		if strings.EqualFold(h.Host, host) {
			list = append(list, h.IP)
		}
	}
	if len(list) > 0 {
		return list, nil
	}
	return x.e.config.DNS.resolver().LookupNetIP(ctx, "ip", host)
}
