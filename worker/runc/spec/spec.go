// Package spec writes the OCI runtime configuration of a build step: what docker gives a
// container by default, with a file system made elsewhere.
package spec

import (
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// DefaultPath is the PATH of steps whose environment has none.
	DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// DefaultHostname is the name of the machine as a step sees it.
	DefaultHostname = "buildkitsandbox"
	// DefaultPidsLimit is how many processes and threads a step may have.
	DefaultPidsLimit = 32768
)

// Options say what to write.
type Options struct {
	Rootfs   string // mounted directory
	ReadOnly bool   // of the root file system

	Args     []string
	Env      []string // PATH and HOME are added if missing
	Cwd      string
	UID, GID uint32
	Groups   []uint32 // supplementary
	Home     string   // value of HOME if Env has none
	Hostname string   // default DefaultHostname

	// Mounts follow those of every container and replace those with the same target.
	Mounts     []specs.Mount
	HostsFile  string // file of the host for /etc/hosts, none if empty
	ResolvConf string // same for /etc/resolv.conf

	Ulimits     []*pb.Ulimit
	Resources   *pb.LinuxResources
	PidsLimit   int64 // 0 means DefaultPidsLimit, negative none
	OOMScoreAdj *int
	CgroupsPath string
	// CgroupMount puts the container's own cgroups, read-only, at /sys/fs/cgroup.
	CgroupMount bool

	HostNetwork bool   // no network namespace
	NetNS       string // path of the namespace to join; a new one if empty

	Insecure          bool // all capabilities, nothing masked, all devices
	AllowNewPrivilege bool // setuid programs work
	AppArmorProfile   string
}

// Generate returns the configuration, without seccomp rules: those depend on what the
// runtime can do.
func Generate(o Options) (*specs.Spec, error) {
	if len(o.Args) == 0 {
		return nil, fmt.Errorf("no command to run")
	}
	limits, err := rlimits(o.Ulimits)
	if err != nil {
		return nil, err
	}
	resources, err := resources(o)
	if err != nil {
		return nil, err
	}
	hostname := o.Hostname
	if hostname == "" {
		hostname = DefaultHostname
	}
	cwd := o.Cwd
	if cwd == "" {
		cwd = "/"
	}
	caps := DefaultCapabilities()
	if o.Insecure {
		caps = AllCapabilities()
	}
	s := &specs.Spec{
		Version:  "1.0.2", // of the features used: older runtimes refuse a newer one
		Hostname: hostname,
		Root:     &specs.Root{Path: o.Rootfs, Readonly: o.ReadOnly},
		Mounts:   mounts(o),
		Process: &specs.Process{
			Args:            o.Args,
			Env:             Environment(o.Env, o.Home),
			Cwd:             path.Join("/", cwd),
			User:            specs.User{UID: o.UID, GID: o.GID, AdditionalGids: o.Groups},
			Rlimits:         limits,
			NoNewPrivileges: !o.Insecure && !o.AllowNewPrivilege,
			OOMScoreAdj:     o.OOMScoreAdj,
			// Neither inheritable nor ambient ones: a program run as another user starts
			// with none.
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Linux: &specs.Linux{
			CgroupsPath: o.CgroupsPath,
			Resources:   resources,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
		},
	}
	if !o.HostNetwork {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: o.NetNS})
	}
	if o.Insecure {
		s.Linux.Devices = hostDevices()
	} else {
		s.Linux.MaskedPaths = maskedPaths()
		s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
		s.Process.ApparmorProfile = o.AppArmorProfile
	}
	return s, nil
}

// Environment adds to env what is missing of PATH and HOME.
func Environment(env []string, home string) []string {
	has := func(name string) bool {
		for _, e := range env {
			if strings.HasPrefix(e, name+"=") {
				return true
			}
		}
		return false
	}
	var added []string
	if !has("PATH") {
		added = append(added, "PATH="+DefaultPath)
	}
	if !has("HOME") {
		if home == "" {
			home = "/"
		}
		added = append(added, "HOME="+home)
	}
	return append(added, env...)
}

func mounts(o Options) []specs.Mount {
	ro := "ro"
	if o.Insecure {
		ro = "rw"
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", ro}},
	}
	if o.CgroupMount {
		list = append(list, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", ro}})
	}
	for _, f := range []struct{ source, target string }{{o.ResolvConf, "/etc/resolv.conf"}, {o.HostsFile, "/etc/hosts"}} {
		if f.source != "" {
			list = append(list, specs.Mount{Destination: f.target, Type: "bind", Source: f.source, Options: []string{"rbind", "ro", "nosuid", "noexec", "nodev"}})
		}
	}
	replaced := make(map[string]bool)
	for _, m := range o.Mounts {
		replaced[path.Clean(m.Destination)] = true
	}
	kept := list[:0]
	for _, m := range list {
		// The file systems of the kernel stay beneath whatever is put over them: the
		// runtime itself needs them.
		if m.Destination == "/proc" || m.Destination == "/dev" || m.Destination == "/sys" || !replaced[m.Destination] {
			kept = append(kept, m)
		}
	}
	return append(kept, o.Mounts...)
}

// rlimits translates the limits of a build, which are named as in docker's --ulimit. A
// crashing program leaves no core file in the image unless that was asked for.
func rlimits(ulimits []*pb.Ulimit) ([]specs.POSIXRlimit, error) {
	var limits []specs.POSIXRlimit
	core := false
	for _, u := range ulimits {
		name := strings.ToUpper(u.GetName())
		if !rlimitNames[name] {
			return nil, fmt.Errorf("ulimit %q is not known", u.GetName())
		}
		core = core || name == "CORE"
		limits = append(limits, specs.POSIXRlimit{Type: "RLIMIT_" + name, Soft: uint64(u.GetSoft()), Hard: uint64(u.GetHard())})
	}
	if !core {
		limits = append(limits, specs.POSIXRlimit{Type: "RLIMIT_CORE"})
	}
	return limits, nil
}

var rlimitNames = map[string]bool{
	"CPU": true, "FSIZE": true, "DATA": true, "STACK": true, "CORE": true, "RSS": true, "NPROC": true,
	"NOFILE": true, "MEMLOCK": true, "AS": true, "LOCKS": true, "SIGPENDING": true, "MSGQUEUE": true,
	"NICE": true, "RTPRIO": true, "RTTIME": true,
}

func resources(o Options) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if o.Insecure {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Access: "rwm"}, {Allow: true, Type: "b", Access: "rwm"}}
	}
	pids := o.PidsLimit
	if pids == 0 {
		pids = DefaultPidsLimit
	}
	if pids > 0 {
		r.Pids = &specs.LinuxPids{Limit: &pids}
	}
	in := o.Resources
	if in == nil {
		return r, nil
	}
	if in.GetMemory() < 0 || in.GetCpuQuota() < -1 || in.GetMemorySwap() < -1 {
		return nil, fmt.Errorf("resource limits must not be negative")
	}
	if in.GetMemory() != 0 || in.GetMemorySwap() != 0 {
		r.Memory = &specs.LinuxMemory{}
		if v := in.GetMemory(); v != 0 {
			r.Memory.Limit = &v
		}
		if v := in.GetMemorySwap(); v != 0 {
			r.Memory.Swap = &v
		}
	}
	cpu := &specs.LinuxCPU{Cpus: in.GetCpusetCpus(), Mems: in.GetCpusetMems()}
	if v := in.GetCpuShares(); v != 0 {
		cpu.Shares = &v
	}
	if v := in.GetCpuPeriod(); v != 0 {
		cpu.Period = &v
	}
	if v := in.GetCpuQuota(); v != 0 {
		cpu.Quota = &v
	}
	if cpu.Shares != nil || cpu.Period != nil || cpu.Quota != nil || cpu.Cpus != "" || cpu.Mems != "" {
		r.CPU = cpu
	}
	return r, nil
}

// maskedPaths are docker's: what tells about the host or acts on it.
func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

// hostDevices are those that a privileged step gets besides the usual ones.
func hostDevices() []specs.LinuxDevice {
	list := []specs.LinuxDevice{
		{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11},
		{Path: "/dev/cuse", Type: "c", Major: 10, Minor: 203},
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
		{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232},
		{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
		{Path: "/dev/loop-control", Type: "c", Major: 10, Minor: 237},
	}
	for i := range int64(8) {
		list = append(list, specs.LinuxDevice{Path: fmt.Sprintf("/dev/loop%d", i), Type: "b", Major: 7, Minor: i})
	}
	return list
}
