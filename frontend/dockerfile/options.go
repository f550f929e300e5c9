package dockerfile

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	units "github.com/docker/go-units"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// options are a request's Opts, checked.
type options struct {
	raw       map[string]string
	target    string
	buildArgs map[string]string
	labels    map[string]string

	platforms []ocispec.Platform // empty: whatever the builder is
	multi     bool               // the result is keyed by platform

	resolveMode string // "default", "pull" or "local"
	hosts       []*pb.HostIP
	network     pb.NetMode
	shmSize     int64
	ulimits     []*pb.Ulimit
	resources   *pb.LinuxResources
	cgroup      string
	hostname    string
	cacheSpace  string // namespace of cache mounts
	gitAdvice   bool

	noCache    bool     // of all stages
	noCacheFor []string // of these

	now time.Time // when the build began, which says how old results may be
}

// session returns the id of the session that a local directory is to be taken from, or
// "" if the request does not say.
func (o *options) session(local string) string {
	if id, ok := o.raw["local-sessionid:"+local]; ok {
		return id
	}
	return o.raw[OptSession]
}

func parseOptions(raw map[string]string) (*options, error) {
	o := &options{
		now:        time.Now(),
		raw:        raw,
		target:     raw["target"],
		buildArgs:  prefixed(raw, "build-arg:"),
		labels:     prefixed(raw, "label:"),
		cgroup:     raw["cgroup-parent"],
		hostname:   raw["hostname"],
		cacheSpace: raw["build-arg:BUILDKIT_CACHE_MOUNT_NS"],
	}
	if v := raw["build-arg:BUILDKIT_SANDBOX_HOSTNAME"]; v != "" {
		o.hostname = v
	}
	if v, ok := raw["no-cache"]; ok {
		if o.noCache = v == ""; !o.noCache {
			o.noCacheFor = strings.Split(v, ",")
		}
	}
	for _, parse := range []func() error{
		o.parsePlatforms, o.parseResolveMode, o.parseHosts, o.parseNetwork, o.parseLimits, o.parseResources,
	} {
		if err := parse(); err != nil {
			return nil, err
		}
	}
	if v := raw["build-arg:BUILDKIT_GIT_ADVICE"]; v != "" {
		var err error
		if o.gitAdvice, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("invalid boolean value for BUILDKIT_GIT_ADVICE: %s", v)
		}
	}
	return o, nil
}

func prefixed(raw map[string]string, prefix string) map[string]string {
	m := map[string]string{}
	for k, v := range raw {
		if name, ok := strings.CutPrefix(k, prefix); ok {
			m[name] = v
		}
	}
	return m
}

func (o *options) ignoresCache(stage string) bool {
	return o.noCache || slices.ContainsFunc(o.noCacheFor, func(n string) bool { return strings.EqualFold(n, stage) })
}

func (o *options) parsePlatforms() error {
	if v := o.raw["platform"]; v != "" {
		for s := range strings.SplitSeq(v, ",") {
			p, err := platforms.Parse(s)
			if err != nil {
				return fmt.Errorf("invalid platform %q: %w", s, err)
			}
			o.platforms = append(o.platforms, platforms.Normalize(p))
		}
	}
	o.multi = len(o.platforms) > 1
	v := o.raw["build-arg:BUILDKIT_MULTI_PLATFORM"]
	if v == "" {
		v = o.raw["multi-platform"]
	}
	if v == "" {
		return nil
	}
	on, err := strconv.ParseBool(v)
	if err != nil {
		return fmt.Errorf("invalid boolean value for multi-platform: %s", v)
	}
	if !on && o.multi {
		return fmt.Errorf("multi-platform is off, but %d platforms are wanted", len(o.platforms))
	}
	o.multi = on
	return nil
}

// firstPlatform is one of those asked for, for what is answered once for all; nil if none
// was asked for.
func (o *options) firstPlatform() *ocispec.Platform {
	if len(o.platforms) == 0 {
		return nil
	}
	return &o.platforms[0]
}

func (o *options) parseResolveMode() error {
	switch v := o.raw["image-resolve-mode"]; v {
	case "":
		o.resolveMode = pb.AttrImageResolveModeDefault
	case pb.AttrImageResolveModeDefault, pb.AttrImageResolveModeForcePull, pb.AttrImageResolveModePreferLocal:
		o.resolveMode = v
	default:
		modes := []string{pb.AttrImageResolveModeDefault, pb.AttrImageResolveModeForcePull, pb.AttrImageResolveModePreferLocal}
		return instruction.Suggest(fmt.Errorf("invalid image-resolve-mode: %s", v), v, modes)
	}
	return nil
}

func (o *options) parseHosts() error {
	fields, err := list(o.raw["add-hosts"])
	if err != nil {
		return fmt.Errorf("invalid add-hosts: %w", err)
	}
	for _, f := range fields {
		host, addr, ok := strings.Cut(strings.ToLower(f), "=")
		ip := net.ParseIP(addr)
		if !ok || ip == nil {
			return fmt.Errorf("invalid add-hosts entry %q, want host=ip", f)
		}
		o.hosts = append(o.hosts, &pb.HostIP{Host: host, IP: ip.String()})
	}
	return nil
}

func (o *options) parseNetwork() error {
	switch v := o.raw["force-network-mode"]; v {
	case "", "sandbox":
		o.network = pb.NetMode_UNSET
	case "host":
		o.network = pb.NetMode_HOST
	case "none":
		o.network = pb.NetMode_NONE
	default:
		return instruction.Suggest(fmt.Errorf("invalid network mode %q", v), v, []string{"sandbox", "host", "none"})
	}
	return nil
}

func (o *options) parseLimits() (err error) {
	if v := o.raw["shm-size"]; v != "" {
		if o.shmSize, err = strconv.ParseInt(v, 10, 64); err != nil {
			return fmt.Errorf("invalid shm-size %q, want a number of bytes", v)
		}
	}
	fields, err := list(o.raw["ulimit"])
	if err != nil {
		return fmt.Errorf("invalid ulimit: %w", err)
	}
	for _, f := range fields {
		u, err := units.ParseUlimit(f)
		if err != nil {
			return fmt.Errorf("invalid ulimit %q: %w", f, err)
		}
		o.ulimits = append(o.ulimits, &pb.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return nil
}

func (o *options) parseResources() error {
	r := &pb.LinuxResources{CpusetCpus: o.raw["cpusetcpus"], CpusetMems: o.raw["cpusetmems"]}
	for _, l := range []struct {
		name string
		min  int64
		set  func(int64)
	}{
		{"memory", 1, func(n int64) { r.Memory = n }},
		{"memswap", -1, func(n int64) { r.MemorySwap = n }},
		{"cpushares", 1, func(n int64) { r.CpuShares = uint64(n) }},
		{"cpuperiod", 1, func(n int64) { r.CpuPeriod = uint64(n) }},
		{"cpuquota", 1, func(n int64) { r.CpuQuota = n }},
	} {
		v := o.raw[l.name]
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < l.min || n == 0 {
			return fmt.Errorf("invalid %s value: %s", l.name, v)
		}
		l.set(n)
	}
	if r.SizeVT() > 0 {
		o.resources = r
	}
	return nil
}

// list splits comma-separated values with CSV quoting.
func list(v string) ([]string, error) {
	if v == "" {
		return nil, nil
	}
	return csvvalue.Fields(v, nil)
}
