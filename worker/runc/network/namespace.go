package network

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A namespace is a network namespace that lives as long as it is open.
type namespace struct {
	file   *os.File
	handle *netlink.Handle // within it; closed once it is configured
}

// newNamespace makes a namespace.
func newNamespace() (*namespace, error) {
	type result struct {
		ns  *namespace
		err error
	}
	done := make(chan result, 1)
	go func() {
		// The thread ends with this goroutine unless it is back where it came from.
		runtime.LockOSThread()
		ns, back, err := makeInThread()
		if back {
			runtime.UnlockOSThread()
		}
		done <- result{ns, err}
	}()
	r := <-done
	return r.ns, r.err
}

func makeInThread() (_ *namespace, back bool, err error) {
	const self = "/proc/thread-self/ns/net"
	origin, err := os.Open(self)
	if err != nil {
		return nil, true, err
	}
	defer origin.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, true, os.NewSyscallError("unshare", err)
	}
	ns := new(namespace)
	if ns.file, err = os.Open(self); err == nil {
		ns.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	back = unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET) == nil
	if err != nil {
		ns.close()
		return nil, back, err
	}
	return ns, back, nil
}

// configure brings up the loopback device and the named one, with its address and gateway.
func (n *namespace) configure(name string, addr netip.Prefix, gateway netip.Addr) error {
	defer func() {
		n.handle.Close()
		n.handle = nil
	}()
	if err := n.bringLoopbackUp(); err != nil {
		return err
	}
	link, err := n.handle.LinkByName(name)
	if err != nil {
		return err
	}
	if err := n.handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr)}); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if err := n.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("device up: %w", err)
	}
	if err := n.handle.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}

func (n *namespace) bringLoopbackUp() error {
	lo, err := n.handle.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := n.handle.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// loopbackUp is for namespaces that others configure.
func (n *namespace) loopbackUp() error {
	err := n.bringLoopbackUp()
	n.handle.Close()
	n.handle = nil
	return err
}

func (n *namespace) fd() int { return int(n.file.Fd()) }

// path can be opened by any process of this pid namespace while the namespace is open.
func (n *namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.fd())
}

func (n *namespace) close() {
	if n.handle != nil {
		n.handle.Close()
	}
	if n.file != nil {
		n.file.Close()
	}
}
