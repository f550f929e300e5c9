package spec

import (
	"slices"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestCapabilities(t *testing.T) {
	want := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
	}
	if got := DefaultCapabilities(); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if !slices.Contains(AllCapabilities(), "CAP_SYS_ADMIN") {
		t.Error("all capabilities are without CAP_SYS_ADMIN")
	}
}

func TestEnvironment(t *testing.T) {
	for _, test := range []struct{ in, want []string }{
		{nil, []string{"PATH=" + DefaultPath, "HOME=/root"}},
		{[]string{"PATH=/x"}, []string{"HOME=/root", "PATH=/x"}},
		{[]string{"HOME=", "A=b"}, []string{"PATH=" + DefaultPath, "HOME=", "A=b"}},
		{[]string{"PATHS=x", "HOME=/h", "PATH="}, []string{"PATHS=x", "HOME=/h", "PATH="}},
	} {
		if got := Environment(test.in, "/root"); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
}

func TestGenerate(t *testing.T) {
	args := []string{"x"}
	t.Run("limits", func(t *testing.T) {
		s, err := Generate(Options{Args: args, Resources: &pb.LinuxResources{Memory: 1 << 30, MemorySwap: -1, CpuShares: 5, CpusetCpus: "0"}})
		if err != nil {
			t.Fatal(err)
		}
		r := s.Linux.Resources
		if *r.Memory.Limit != 1<<30 || *r.Memory.Swap != -1 || *r.CPU.Shares != 5 || r.CPU.Cpus != "0" || *r.Pids.Limit != DefaultPidsLimit {
			t.Errorf("got %+v", r)
		}
		for _, bad := range []*pb.LinuxResources{{Memory: -1}, {CpuQuota: -2}} {
			if _, err := Generate(Options{Args: args, Resources: bad}); err == nil {
				t.Errorf("%v was accepted", bad)
			}
		}
	})
	t.Run("network", func(t *testing.T) {
		for _, test := range []struct {
			o     Options
			found bool
		}{{Options{Args: args}, true}, {Options{Args: args, NetNS: "/ns"}, true}, {Options{Args: args, HostNetwork: true}, false}} {
			s, err := Generate(test.o)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
			if (i >= 0) != test.found || i >= 0 && s.Linux.Namespaces[i].Path != test.o.NetNS {
				t.Errorf("%+v: %+v", test.o, s.Linux.Namespaces)
			}
		}
	})
	t.Run("mounts replaced", func(t *testing.T) {
		s, err := Generate(Options{Args: args, HostsFile: "/h", Mounts: []specs.Mount{
			{Destination: "/dev/shm"}, {Destination: "/etc/hosts"}, {Destination: "/proc"}}})
		if err != nil {
			t.Fatal(err)
		}
		count := make(map[string]int)
		for _, m := range s.Mounts {
			count[m.Destination]++
		}
		for target, want := range map[string]int{"/dev/shm": 1, "/etc/hosts": 1, "/proc": 2, "/dev": 1, "/etc/resolv.conf": 0} {
			if count[target] != want {
				t.Errorf("%s is mounted %d times, want %d", target, count[target], want)
			}
		}
	})
	t.Run("insecure", func(t *testing.T) {
		s, err := Generate(Options{Args: args, Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		if s.Process.NoNewPrivileges || len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) > 0 || !s.Linux.Resources.Devices[0].Allow {
			t.Errorf("got %+v", s.Linux)
		}
	})
	if _, err := Generate(Options{}); err == nil {
		t.Error("no command was accepted")
	}
}
