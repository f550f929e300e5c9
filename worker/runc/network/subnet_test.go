package network

import (
	"net"
	"net/netip"
	"sync"
	"testing"
)

func TestChooseSubnet(t *testing.T) {
	used := func(list ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, test := range []struct {
		want string
		used []netip.Prefix
		in   string // the result is within
		err  bool
	}{
		{in: "10.224.0.0/11"},
		{used: used("10.0.0.0/8"), in: "172.16.0.0/12"},
		{used: used("10.0.0.0/8", "172.16.0.0/12"), err: true},
		{used: used("10.224.0.0/12", "10.240.0.0/13", "10.248.0.0/14", "10.252.0.0/15"), in: "10.254.0.0/16"},
		{want: "192.168.9.77/24", used: used("192.168.0.0/16"), in: "192.168.9.1/32"},
		{want: "192.168.9.0/30", err: true},
		{want: "fd00::/64", err: true},
		{want: "nonsense", err: true},
	} {
		got, err := chooseSubnet(test.want, "seed", test.used)
		if (err != nil) != test.err {
			t.Errorf("%q %v: error %v", test.want, test.used, err)
			continue
		}
		if err == nil && (!netip.MustParsePrefix(test.in).Contains(got.Addr()) || overlapsAny(got, test.used) && test.want == "") {
			t.Errorf("%q %v: got %v, want it in %s", test.want, test.used, got, test.in)
		}
	}
	a, _ := chooseSubnet("", "one", nil)
	b, _ := chooseSubnet("", "another", nil)
	if a == b {
		t.Error("the seed makes no difference")
	}
}

func TestAllocate(t *testing.T) {
	gateway := netip.MustParseAddr("10.9.8.1")
	b := &bridge{subnet: netip.PrefixFrom(gateway, 29), used: map[netip.Addr]bool{gateway: true}, last: gateway}
	var got []netip.Addr
	for {
		a, err := b.allocate()
		if err != nil {
			break
		}
		got = append(got, a)
	}
	if len(got) != 5 || got[0].String() != "10.9.8.2" || got[4].String() != "10.9.8.6" {
		t.Fatalf("got %v", got)
	}
	// What was freed first is not what comes next if another is unused for longer.
	b.free(got[4])
	b.free(got[1])
	if a, err := b.allocate(); err != nil || a != got[1] {
		t.Errorf("got %v %v", a, err)
	}
	if a, err := b.allocate(); err != nil || a != got[4] {
		t.Errorf("got %v %v", a, err)
	}
	if _, err := b.allocate(); err == nil {
		t.Error("more addresses than there are")
	}
}

// TestTwoDaemons sets up two bridges at once.
func TestTwoDaemons(t *testing.T) {
	var wg sync.WaitGroup
	subnets := make([]netip.Prefix, 4)
	for i := range subnets {
		root := t.TempDir()
		wg.Go(func() {
			n, _, err := New(root, Config{Mode: Bridge, Pool: -1})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			})
			subnets[i] = n.provider.(*bridge).subnet.Masked()
		})
	}
	wg.Wait()
	for i, s := range subnets {
		if s.IsValid() && overlapsAny(s, subnets[:i]) {
			t.Errorf("subnets %v overlap", subnets)
		}
	}
}

func TestTakeOver(t *testing.T) {
	root := t.TempDir()
	first, _, err := New(root, Config{Mode: Bridge, Pool: -1})
	if err != nil {
		t.Fatal(err)
	}
	// The first is never closed, as if it was killed.
	second, _, err := New(root, Config{Mode: Bridge, Pool: -1})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := first.provider.(*bridge).subnet, second.provider.(*bridge).subnet; a != b {
		t.Errorf("subnet %v became %v", a, b)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	// A daemon that needs no bridge removes one that is left.
	third, _, err := New(root, Config{Mode: Bridge, Pool: -1})
	if err != nil {
		t.Fatal(err)
	}
	device := third.provider.(*bridge).device
	none, _, err := New(root, Config{Mode: None})
	if err != nil {
		t.Fatal(err)
	}
	if err := none.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if deviceExists(device) {
		t.Error("the bridge is still there")
	}
}

func TestModes(t *testing.T) {
	for _, mode := range []string{Host, None} {
		n, warnings, err := New(t.TempDir(), Config{Mode: mode})
		if err != nil || len(warnings) > 0 || n.Name() != mode {
			t.Errorf("%s: %v %v", mode, warnings, err)
		}
	}
	if _, _, err := New(t.TempDir(), Config{Mode: "token-ring"}); err == nil {
		t.Error("an unknown mode was accepted")
	}
	if _, _, err := New(t.TempDir(), Config{Mode: CNI, CNIConfig: "/no/such/file"}); err == nil {
		t.Error("cni without a configuration was accepted")
	}
	if _, err := (&Network{}).Acquire(t.Context(), 99, ""); err == nil {
		t.Error("an unknown mode of a step was accepted")
	}
}

func deviceExists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}
