package network

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// subnetBits gives room for a thousand steps at once.
const subnetBits = 22

// chooseSubnet returns the gateway's address with the length of the subnet: the one that is
// asked for, or the first candidate that overlaps with nothing in use. Where the search
// starts depends on the seed, so that daemons on machines that are connected tend to differ.
func chooseSubnet(want, seed string, used []netip.Prefix) (netip.Prefix, error) {
	if want != "" {
		p, err := netip.ParsePrefix(want)
		if err != nil || !p.Addr().Is4() || p.Bits() > 29 {
			return netip.Prefix{}, fmt.Errorf("bridge subnet %q: want an IPv4 subnet such as 10.1.0.0/16", want)
		}
		return netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits()), nil
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(seed))
	start := h.Sum32()
	var candidates []netip.Prefix
	for second := 224; second < 255; second++ { // 10.224.0.0 to 10.254.0.0
		for third := 0; third < 256; third += 1 << (24 - subnetBits) {
			candidates = append(candidates, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(second), byte(third), 0}), subnetBits))
		}
	}
	for second := 20; second < 32; second++ { // 172.20.0.0 to 172.31.0.0
		for third := 0; third < 256; third += 1 << (24 - subnetBits) {
			candidates = append(candidates, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(second), byte(third), 0}), subnetBits))
		}
	}
	// The first list is searched before the second, each from its own start.
	tens := 31 * 256 >> (24 - subnetBits)
	for _, list := range [][]netip.Prefix{candidates[:tens], candidates[tens:]} {
		for i := range list {
			p := list[(int(start%uint32(len(list)))+i)%len(list)]
			if !overlapsAny(p, used) {
				return netip.PrefixFrom(p.Addr().Next(), p.Bits()), nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("no private subnet is free: choose one in the configuration")
}

func overlapsAny(p netip.Prefix, list []netip.Prefix) bool {
	for _, q := range list {
		if p.Overlaps(q) {
			return true
		}
	}
	return false
}

// usedPrefixes returns what the host can reach by routes other than the default one, its own
// addresses, and its name servers.
func usedPrefixes(h *netlink.Handle, routes []netlink.Route) []netip.Prefix {
	var used []netip.Prefix
	for _, r := range routes {
		if p, ok := prefix(r.Dst); ok && p.Bits() > 0 {
			used = append(used, p)
		}
	}
	if addrs, err := h.AddrList(nil, netlink.FAMILY_V4); err == nil {
		for _, a := range addrs {
			if p, ok := prefix(a.IPNet); ok {
				used = append(used, p)
			}
		}
	}
	text, _ := os.ReadFile("/etc/resolv.conf") // without one there are no name servers
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil && a.Is4() {
			used = append(used, netip.PrefixFrom(a, 32))
		}
	}
	return used
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, size := n.Mask.Size()
	a = a.Unmap()
	return netip.PrefixFrom(a, bits), a.Is4() && size == 32
}
