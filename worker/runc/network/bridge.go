package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const defaultPool = 4

// A bridge is the daemon's own network.
type bridge struct {
	device string
	index  int
	mtu    int
	subnet netip.Prefix // of the bridge's own address, the gateway of all steps
	host   *netlink.Handle
	fw     *firewall
	serial atomic.Uint32 // names devices

	mu   sync.Mutex
	used map[netip.Addr]bool // under mu
	last netip.Addr          // under mu: the address given out last

	// The pool.
	size    int
	ready   chan *Namespace
	start   sync.Once
	stop    chan struct{}
	stopped sync.WaitGroup
}

// deviceName is at most 15 bytes long, as the kernel demands.
func deviceName(root string) string {
	sum := sha256.Sum256([]byte(root))
	return "dbuild-" + hex.EncodeToString(sum[:4])
}

func newBridge(root string, c Config) (*bridge, []string, error) {
	b := &bridge{device: c.BridgeName, used: make(map[netip.Addr]bool), size: c.Pool, stop: make(chan struct{})}
	if b.device == "" {
		b.device = deviceName(root)
	}
	if len(b.device) >= unix.IFNAMSIZ {
		return nil, nil, fmt.Errorf("device name %s is too long", b.device)
	}
	if b.size == 0 {
		b.size = defaultPool
	}
	b.ready = make(chan *Namespace, max(b.size-1, 0))
	var err error
	if b.host, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, nil, err
	}
	unlock, err := lockSetup()
	if err != nil {
		b.host.Close()
		return nil, nil, err
	}
	defer unlock()
	warnings, err := b.setUp(c.BridgeSubnet)
	if err != nil {
		_ = b.tearDown()
		b.host.Close()
		return nil, nil, err
	}
	b.last = b.subnet.Addr()
	b.used[b.subnet.Addr()] = true
	return b, warnings, nil
}

// lockSetup keeps two daemons from choosing the same subnet at once.
func lockSetup() (unlock func(), err error) {
	dir := "/run/lock"
	if _, err := os.Stat(dir); err != nil {
		dir = os.TempDir()
	}
	// A link put here by somebody else must not lead us to another file.
	fd, err := unix.Open(filepath.Join(dir, "dbuild-network.lock"), unix.O_CREAT|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = unix.Flock(fd, unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("lock: %w", err)
	}
	return func() { _ = unix.Close(fd) }, nil
}

// setUp makes the bridge, or takes over the one an earlier process left.
func (b *bridge) setUp(subnet string) ([]string, error) {
	routes, err := b.host.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	link, err := b.host.LinkByName(b.device)
	if err == nil {
		if _, ok := link.(*netlink.Bridge); !ok {
			return nil, fmt.Errorf("device %s exists and is not a bridge", b.device)
		}
		b.subnet = b.existingSubnet(link, subnet)
	}
	if !b.subnet.IsValid() {
		if b.subnet, err = chooseSubnet(subnet, b.device, usedPrefixes(b.host, routes)); err != nil {
			return nil, err
		}
	}
	b.mtu = b.uplinkMTU(routes)
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = b.device
		attrs.MTU = b.mtu
		// With an address of its own the bridge does not change to that of a port.
		attrs.HardwareAddr = hardwareAddr(b.subnet.Addr())
		if err := b.host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, fmt.Errorf("add bridge: %w", err)
		}
		if link, err = b.host.LinkByName(b.device); err != nil {
			return nil, err
		}
	}
	b.index = link.Attrs().Index
	if err := b.host.AddrReplace(link, &netlink.Addr{IPNet: ipNet(b.subnet)}); err != nil {
		return nil, fmt.Errorf("bridge address: %w", err)
	}
	if err := b.host.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("enable forwarding: %w", err)
	}
	b.fw = &firewall{bridge: b.device, subnet: b.subnet.Masked()}
	return b.fw.setUp()
}

// existingSubnet returns the address of a bridge that is there already, unless another one
// is asked for.
func (b *bridge) existingSubnet(link netlink.Link, want string) netip.Prefix {
	addrs, err := b.host.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) == 0 {
		return netip.Prefix{}
	}
	p, ok := prefix(addrs[0].IPNet)
	if !ok {
		return netip.Prefix{}
	}
	if wanted, err := netip.ParsePrefix(want); err == nil && wanted.Masked() != p.Masked() {
		_ = b.host.AddrDel(link, &addrs[0])
		return netip.Prefix{}
	}
	return p
}

// uplinkMTU is the size of packets that the way to the world can carry.
func (b *bridge) uplinkMTU(routes []netlink.Route) int {
	const ethernet = 1500
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := b.host.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU > 0 {
			return min(link.Attrs().MTU, ethernet)
		}
	}
	return ethernet
}

func (b *bridge) name() string { return Bridge }

// warm starts to fill the pool.
func (b *bridge) warm() {
	if b.size < 0 {
		return
	}
	b.start.Do(func() { b.stopped.Go(b.fill) })
}

// fill keeps the pool full: one more namespace waits here until there is room.
func (b *bridge) fill() {
	for {
		ns, err := b.make()
		if err != nil {
			return // acquire makes them itself from now on, and says what is wrong
		}
		select {
		case b.ready <- ns:
		case <-b.stop:
			ns.Release()
			return
		}
	}
}

func (b *bridge) acquire(_ context.Context, _ string) (*Namespace, error) {
	b.warm()
	select {
	case ns := <-b.ready:
		return ns, nil
	default:
		return b.make()
	}
}

// make makes a namespace with a connected device.
func (b *bridge) make() (*Namespace, error) {
	addr, err := b.allocate()
	if err != nil {
		return nil, err
	}
	ns, err := newNamespace()
	if err != nil {
		b.free(addr)
		return nil, err
	}
	if err := b.connect(ns, addr); err != nil {
		ns.close()
		b.free(addr)
		return nil, err
	}
	return &Namespace{
		Path: ns.path(),
		release: func() {
			ns.close()
			b.free(addr)
		},
	}, nil
}

// connect puts a device into a namespace.
func (b *bridge) connect(ns *namespace, addr netip.Addr) error {
	const name = "eth0"
	attrs := netlink.NewLinkAttrs()
	attrs.MTU = b.mtu
	attrs.MasterIndex = b.index
	attrs.Flags = net.FlagUp
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: name, PeerMTU: uint32(b.mtu), PeerNamespace: netlink.NsFd(ns.fd()),
		// Who gets this address next has the same: no neighbour remembers a wrong one.
		PeerHardwareAddr: hardwareAddr(addr),
	}
	if err := b.add(veth); err != nil {
		return fmt.Errorf("add device: %w", err)
	}
	if err := b.host.LinkSetIsolated(veth, true); err != nil {
		return fmt.Errorf("isolate device: %w", err)
	}
	if err := b.host.LinkSetUp(veth); err != nil {
		return fmt.Errorf("device up: %w", err)
	}
	inside := netip.PrefixFrom(addr, b.subnet.Bits())
	return ns.configure(name, inside, b.subnet.Addr())
}

// add makes the device under a name that is free. After a daemon was killed the kernel
// takes its time to remove the devices that it had at the same bridge.
func (b *bridge) add(veth *netlink.Veth) error {
	const tries = 10_000
	for n := 1; ; n++ {
		veth.Name = fmt.Sprintf("dbv%x-%x", b.index, b.serial.Add(1))
		if err := b.host.LinkAdd(veth); !errors.Is(err, unix.EEXIST) || n == tries {
			return err
		}
	}
}

// allocate returns an address that is not in use, the longest unused ones first.
func (b *bridge) allocate() (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.subnet.Masked()
	for a := b.last.Next(); a != b.last; a = a.Next() {
		if !all.Contains(a) || !all.Contains(a.Next()) { // beyond the end, or the broadcast address
			a = all.Addr()
			if a == b.last {
				break
			}
			continue
		}
		if !b.used[a] && a != all.Addr() {
			b.used[a] = true
			b.last = a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address is free in %s", all)
}

func (b *bridge) free(a netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.used, a)
}

// sweep has nothing to do: a bridge that was there has been taken over, and its ports went
// with their namespaces.
func (b *bridge) sweep(context.Context) error { return nil }

func (b *bridge) close() error {
	close(b.stop)
	b.stopped.Wait()
	for {
		select {
		case ns := <-b.ready:
			ns.Release()
			continue
		default:
		}
		break
	}
	err := b.tearDown()
	b.host.Close()
	return err
}

// removeBridge removes what a process left that had a bridge, if one did.
func removeBridge(device string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return nil // there is none
	}
	if _, ok := link.(*netlink.Bridge); !ok {
		return nil
	}
	fw := firewall{bridge: device}
	return errors.Join(fw.tearDown(), netlink.LinkDel(link))
}

func (b *bridge) tearDown() error {
	var errs []error
	if b.fw != nil {
		errs = append(errs, b.fw.tearDown())
	}
	if b.index != 0 {
		if link, err := b.host.LinkByIndex(b.index); err == nil {
			errs = append(errs, b.host.LinkDel(link))
		}
	}
	return errors.Join(errs...)
}

// hardwareAddr is made from an address: locally administered, as docker's.
func hardwareAddr(a netip.Addr) net.HardwareAddr {
	ip := a.As4()
	return net.HardwareAddr{0x02, 0x42, ip[0], ip[1], ip[2], ip[3]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
