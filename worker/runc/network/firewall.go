package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A firewall lets the bridge's steps reach the world: their addresses are replaced by the
// host's in a table of our own, and if another table drops what is forwarded by default,
// as docker's does, the bridge is excepted there.
type firewall struct {
	bridge string
	subnet netip.Prefix
}

// setUp replaces what an earlier process left.
func (f *firewall) setUp() ([]string, error) {
	if err := f.masquerade(); err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return f.acceptForwarding(), nil
}

func (f *firewall) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: f.bridge}
}

func (f *firewall) masquerade() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	// Added first so that it can be deleted in the same transaction if it did not exist.
	c.AddTable(f.table())
	c.DelTable(f.table())
	table := c.AddTable(f.table())
	chain := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	mask := make([]byte, 4)
	for i := range f.subnet.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	device := make([]byte, unix.IFNAMSIZ)
	copy(device, f.bridge)
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		// ip saddr SUBNET oifname != BRIDGE masquerade
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: f.subnet.Addr().AsSlice()},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: device},
		&expr.Masq{},
	}})
	return c.Flush()
}

// acceptForwarding inserts exceptions with the tool that owns the chain. What it cannot do
// it says.
func (f *firewall) acceptForwarding() []string {
	if !forwardingDropped() {
		return nil
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		return []string{"the host's firewall drops forwarded packets and there is no iptables to except the build network: steps may not reach the network"}
	}
	f.removeForwarding()
	for _, rule := range f.forwardRules() {
		if out, err := exec.Command("iptables", append([]string{"-w", "5", "-I", "FORWARD"}, rule...)...).CombinedOutput(); err != nil {
			return []string{fmt.Sprintf("except the build network from the host's firewall: %v: %s", err, bytes.TrimSpace(out))}
		}
	}
	return nil
}

func (f *firewall) forwardRules() [][]string {
	return [][]string{
		{"-i", f.bridge, "-j", "ACCEPT"},
		{"-o", f.bridge, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"},
	}
}

// removeForwarding removes the exceptions, also those of earlier processes.
func (f *firewall) removeForwarding() {
	for _, rule := range f.forwardRules() {
		for range 10 { // fails when there is none any more
			if exec.Command("iptables", append([]string{"-w", "5", "-D", "FORWARD"}, rule...)...).Run() != nil {
				break
			}
		}
	}
}

// forwardingDropped says whether iptables, in either of its forms, drops what is forwarded
// unless a rule accepts it.
func forwardingDropped() bool {
	if c, err := nftables.New(); err == nil {
		if chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4); err == nil {
			for _, chain := range chains {
				if chain.Table.Name == "filter" && chain.Name == "FORWARD" && chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
					return true
				}
			}
		}
	}
	// The kernel's list of tables in the old form, empty if it is not in use.
	names, err := os.ReadFile("/proc/net/ip_tables_names")
	if err != nil || !strings.Contains(string(names), "filter") {
		return false
	}
	out, err := exec.Command("iptables-legacy", "-w", "5", "-S", "FORWARD").Output()
	return err == nil && strings.Contains(string(out), "-P FORWARD DROP")
}

func (f *firewall) tearDown() error {
	if forwardingDropped() {
		f.removeForwarding()
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(f.table())
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}
