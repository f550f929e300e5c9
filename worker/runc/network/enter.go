package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Isolated returns a namespace that has nothing but a loopback device.
func Isolated() (*Namespace, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	if err := ns.loopbackUp(); err != nil {
		ns.close()
		return nil, err
	}
	return &Namespace{Path: ns.path(), release: ns.close}, nil
}

// Listen listens in the namespace.
func (n *Namespace) Listen(ctx context.Context, network, addr string) (l net.Listener, err error) {
	err = n.within(func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, network, addr)
		return err
	})
	return l, err
}

// Dial connects to an address from within the namespace.
func (n *Namespace) Dial(ctx context.Context, network string, addr netip.AddrPort) (c net.Conn, err error) {
	err = n.within(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, addr.String())
		return err
	})
	return c, err
}

// Counters counts what went through all devices of the namespace but the loopback. ok is false
// if that is not known, as of the host's network, which others use too.
func (n *Namespace) Counters() (c netlink.LinkStatistics, ok bool) {
	if n.Host || n.Path == "" {
		return c, n.Path == "" && !n.Host
	}
	var handle *netlink.Handle
	err := n.within(func() (err error) {
		handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return c, false
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		return c, false
	}
	for _, l := range links {
		s := l.Attrs().Statistics
		if s == nil || l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		c.RxBytes += s.RxBytes
		c.RxPackets += s.RxPackets
		c.RxErrors += s.RxErrors
		c.RxDropped += s.RxDropped
		c.TxBytes += s.TxBytes
		c.TxPackets += s.TxPackets
		c.TxErrors += s.TxErrors
		c.TxDropped += s.TxDropped
	}
	return c, true
}

var errNoNetwork = errors.New("there is no network")

// within calls do in a thread that is in the namespace. The sockets that do makes itself stay
// there.
func (n *Namespace) within(do func() error) error {
	if n.Host {
		return do()
	}
	if n.Path == "" {
		return errNoNetwork
	}
	done := make(chan error, 1)
	go func() {
		// The thread ends with this goroutine unless it is back where it came from.
		runtime.LockOSThread()
		back, err := inThread(n.Path, do)
		if back {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func inThread(path string, do func() error) (back bool, err error) {
	origin, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, err
	}
	defer origin.Close()
	target, err := os.Open(path)
	if err != nil {
		return true, err
	}
	defer target.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		return true, os.NewSyscallError("setns", err)
	}
	err = do()
	return unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET) == nil, err
}
