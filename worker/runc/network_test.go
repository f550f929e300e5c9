package runc_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/network"
)

func TestNetworkModes(t *testing.T) {
	host, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	const script = "readlink /proc/self/ns/net; ip -o link | awk '{print $2}' | sort; ip addr show lo | grep -c 127.0.0.1"
	for _, runtime := range []string{"", "runc", "crun"} {
		t.Run("runtime "+runtime, func(t *testing.T) {
			e := newExecutor(t, runc.Config{Runtime: runtime, Network: network.Config{Mode: network.Bridge}})
			rootfs := newRootfs(t)
			seen := map[string]bool{host: true}
			for range 3 {
				ns, devices := netOf(t, e, rootfs, pb.NetMode_UNSET, script)
				if seen[ns] {
					t.Errorf("namespace %s used twice", ns)
				}
				seen[ns] = true
				if len(devices) != 3 || !strings.HasPrefix(devices[0], "eth0@") || devices[1] != "lo:" || devices[2] != "1" {
					t.Errorf("sandbox has %q", devices)
				}
			}
			ns, devices := netOf(t, e, rootfs, pb.NetMode_NONE, script)
			// The kernel may use the number of a namespace that has gone again.
			if ns == host || len(devices) != 2 || devices[0] != "lo:" || devices[1] != "1" {
				t.Errorf("none: %s with %q", ns, devices)
			}
			if ns, _ := netOf(t, e, rootfs, pb.NetMode_HOST, script); ns != host {
				t.Errorf("host: %s, want %s", ns, host)
			}
		})
	}
}

func netOf(t *testing.T, e *runc.Executor, rootfs string, mode pb.NetMode, script string) (ns string, rest []string) {
	t.Helper()
	out, err := sh(t, e, runc.Process{Rootfs: rootfs, Network: mode}, script)
	must(t, err)
	lines := strings.Split(out, "\n")
	return lines[0], lines[1:]
}

// TestBridge lets steps talk to the host, through it, and not to each other.
func TestBridge(t *testing.T) {
	e := newExecutor(t, runc.Config{Network: network.Config{Mode: network.Bridge}})
	rootfs := newRootfs(t)
	out, err := sh(t, e, runc.Process{Rootfs: rootfs}, "ip route | awk '/default/{print $3}'; gw=$(ip route | awk '/default/{print $3}'); ping -c 1 -W 5 $gw >/dev/null && echo pong")
	must(t, err)
	gateway, pong, _ := strings.Cut(out, "\n")
	if pong != "pong" {
		t.Fatalf("the gateway does not answer: %q", out)
	}
	// A server that listens on all of the host's addresses.
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	must(t, err)
	defer listener.Close()
	peers := make(chan string, 10)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			peers <- host
			fmt.Fprintln(conn, "welcome")
			conn.Close()
		}
	})
	defer served.Wait()
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	must(t, err)
	out, err = sh(t, e, runc.Process{Rootfs: rootfs}, "nc -w 5 "+gateway+" "+port+" </dev/null")
	if out != "welcome" {
		t.Errorf("got %q %v", out, err)
	}
	if peer := wait(t, peers); peer == gateway {
		t.Errorf("the step came from %s", peer)
	}
	// One step listens, another tries to reach it.
	first := newWatcher()
	stop := make(chan error, 1)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	p := runc.Process{ID: newID(), Rootfs: rootfs, Stdin: r, Stdout: first,
		Args: []string{"/bin/sh", "-c", "ip -o -4 addr show eth0 | awk '{print $4}'; cat"}}
	go func() { stop <- e.Run(t.Context(), p) }()
	addr, _, _ := strings.Cut(first.line(t), "/")
	out, _ = sh(t, e, runc.Process{Rootfs: rootfs}, "ping -c 1 -W 1 "+addr+" >/dev/null && echo reached || echo isolated")
	if out != "isolated" {
		t.Errorf("a step %s another one", out)
	}
	w.Close()
	must(t, wait(t, stop))
}

func TestManyAtOnceOnBridge(t *testing.T) {
	e := newExecutor(t, runc.Config{Network: network.Config{Mode: network.Bridge}})
	rootfs := newRootfs(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[string]bool)
	for range 20 {
		wg.Go(func() {
			out, err := sh(t, e, runc.Process{Rootfs: rootfs}, "ip -o -4 addr show eth0 | awk '{print $4}'")
			mu.Lock()
			defer mu.Unlock()
			if err != nil || out == "" || seen[out] {
				t.Errorf("address %q, %v", out, err)
			}
			seen[out] = true
		})
	}
	wg.Wait()
}

func TestResolvConf(t *testing.T) {
	e := newExecutor(t, runc.Config{DNS: runc.DNS{Nameservers: []string{"192.0.2.53"}, SearchDomains: []string{"example.test"}, Options: []string{"ndots:2"}}})
	out, err := sh(t, e, runc.Process{Rootfs: newRootfs(t)}, "cat /etc/resolv.conf; touch /etc/resolv.conf 2>/dev/null || echo read-only")
	must(t, err)
	for _, want := range []string{"nameserver 192.0.2.53\n", "search example.test\n", "options ndots:2\n", "read-only"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	if n := strings.Count(out, "nameserver"); n != 1 {
		t.Errorf("%d name servers in %q", n, out)
	}
}
