package buildflags

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	units "github.com/docker/go-units"
)

// HostGateway is the address in --add-host that stands for the daemon's machine.
const HostGateway = "host-gateway"

const (
	entitlementHost     = "network.host"
	entitlementInsecure = "security.insecure"
)

// network reads --network, --proxy-network, --allow and --add-host.
func (f *Flags) network(r *Request, _ Env) error {
	r.ProxyNetwork = f.ProxyNetwork
	switch f.Network {
	case "", "default", "sandbox":
	case "none":
		r.Attrs["force-network-mode"] = "none"
	case "host":
		r.Attrs["force-network-mode"] = "host"
		r.Entitlements = append(r.Entitlements, entitlementHost)
	default:
		return fmt.Errorf("--network %s: there are default, none and host; named networks are not supported", f.Network)
	}
	for _, v := range f.Allow {
		for _, a := range strings.Split(v, ",") {
			name, _, _ := strings.Cut(a, "=")
			switch name {
			case entitlementHost, entitlementInsecure, "device":
			default:
				known := []string{entitlementHost, entitlementInsecure, "device"}
				hint := ""
				if s := suggest.Nearest(name, known); s != "" {
					hint = fmt.Sprintf(" (did you mean %s?)", s)
				}
				return fmt.Errorf("--allow %s: unknown privilege%s; there are %s", a, hint, strings.Join(known, ", "))
			}
			if !slices.Contains(r.Entitlements, a) {
				r.Entitlements = append(r.Entitlements, a)
			}
		}
	}
	var hosts []string
	for _, h := range f.AddHost {
		name, ip, err := parseHost(h)
		if err != nil {
			return err
		}
		r.HostGateway = r.HostGateway || ip == HostGateway
		hosts = append(hosts, name+"="+ip)
	}
	if len(hosts) > 0 {
		r.Attrs["add-hosts"] = strings.Join(hosts, ",")
	}
	return nil
}

// parseHost reads host:ip or host=ip; the address may be in brackets.
func parseHost(s string) (name, ip string, err error) {
	name, ip, ok := strings.Cut(s, "=")
	if !ok {
		name, ip, ok = strings.Cut(s, ":")
	}
	if !ok || name == "" {
		return "", "", fmt.Errorf("--add-host %q: want HOST:IP", s)
	}
	if ip == HostGateway {
		return name, ip, nil
	}
	if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
		ip = ip[1 : len(ip)-1]
	}
	if net.ParseIP(ip) == nil {
		return "", "", fmt.Errorf("--add-host %q: %q is not an IP address", s, ip)
	}
	return name, ip, nil
}

// ResolveHostGateway puts the daemon's address in place of the word.
func (r *Request) ResolveHostGateway(ip string) error {
	if _, err := netip.ParseAddr(ip); err != nil {
		return fmt.Errorf("--add-host: the daemon does not say which address %s is", HostGateway)
	}
	hosts := strings.Split(r.Attrs["add-hosts"], ",")
	for i, h := range hosts {
		if name, ok := strings.CutSuffix(h, "="+HostGateway); ok {
			hosts[i] = name + "=" + ip
		}
	}
	r.Attrs["add-hosts"] = strings.Join(hosts, ",")
	return nil
}

// resourceKeys maps what users write to options of the frontend, and says how to read it.
var resourceKeys = map[string]struct {
	attr  string
	bytes bool
	text  bool
}{
	"memory":      {attr: "memory", bytes: true},
	"memory-swap": {attr: "memswap", bytes: true},
	"cpu-shares":  {attr: "cpushares"},
	"cpu-period":  {attr: "cpuperiod"},
	"cpu-quota":   {attr: "cpuquota"},
	"cpuset-cpus": {attr: "cpusetcpus", text: true},
	"cpuset-mems": {attr: "cpusetmems", text: true},
}

// limits reads --shm-size, --ulimit, --resource and the older flags for the same.
func (f *Flags) limits(r *Request, _ Env) error {
	if f.ShmSize != "" {
		n, err := units.RAMInBytes(f.ShmSize)
		if err != nil || n < 0 {
			return fmt.Errorf("--shm-size %s: not a size, such as 64m", f.ShmSize)
		}
		r.Attrs["shm-size"] = strconv.FormatInt(n, 10)
	}
	var ulimits []string
	for _, u := range f.Ulimit {
		p, err := units.ParseUlimit(u)
		if err != nil {
			return fmt.Errorf("--ulimit %s: want NAME=SOFT[:HARD]: %w", u, err)
		}
		ulimits = append(ulimits, p.String())
	}
	if len(ulimits) > 0 {
		r.Attrs["ulimit"] = strings.Join(ulimits, ",")
	}
	resources := []string{}
	for _, l := range []struct{ key, value string }{
		{"memory", f.memory}, {"memory-swap", f.memorySwap}, {"cpu-shares", f.cpuShares}, {"cpu-period", f.cpuPeriod},
		{"cpu-quota", f.cpuQuota}, {"cpuset-cpus", f.cpusetCPUs}, {"cpuset-mems", f.cpusetMems},
	} {
		if l.value != "" {
			resources = append(resources, l.key+"="+l.value)
		}
	}
	for _, s := range append(resources, f.Resource...) {
		key, value, ok := strings.Cut(s, "=")
		k, known := resourceKeys[strings.ToLower(key)]
		if !ok || !known {
			return fmt.Errorf("--resource %s: want KEY=VALUE with one of memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, cpuset-mems", s)
		}
		switch {
		case k.bytes && value != "-1":
			n, err := units.RAMInBytes(value)
			if err != nil {
				return fmt.Errorf("--%s %s: not a size, such as 512m", key, value)
			}
			value = strconv.FormatInt(n, 10)
		case !k.text:
			if _, err := strconv.ParseInt(value, 10, 64); err != nil {
				return fmt.Errorf("--%s %s: not a number", key, value)
			}
		}
		r.Attrs[k.attr] = value
	}
	return nil
}

// annotations turns [TYPE[PLATFORM][,TYPE]:]KEY=VALUE into attributes of the exporters.
func (f *Flags) annotations(r *Request, _ Env) error {
	if len(f.Annotation) == 0 {
		return nil
	}
	if !slices.ContainsFunc(r.Exports, func(e Export) bool { return e.image() }) {
		return fmt.Errorf("--annotation needs an output that is an image")
	}
	for _, a := range f.Annotation {
		key, value, ok := strings.Cut(a, "=")
		types, name, typed := strings.Cut(key, ":")
		if !typed {
			types, name = "manifest", key
		}
		if !ok || name == "" {
			return fmt.Errorf("--annotation %q: want [TYPE:]KEY=VALUE", a)
		}
		for _, t := range strings.Split(types, ",") {
			kind, platform, scoped := strings.Cut(t, "[")
			attr := "annotation-" + kind
			switch kind {
			case "manifest", "manifest-descriptor", "index", "index-descriptor":
			default:
				return fmt.Errorf("--annotation %q: unknown type %q; there are manifest, index, manifest-descriptor and index-descriptor", a, kind)
			}
			if scoped {
				p, err := platforms.Parse(strings.TrimSuffix(platform, "]"))
				if err != nil || !strings.HasSuffix(platform, "]") || !strings.HasPrefix(kind, "manifest") {
					return fmt.Errorf("--annotation %q: %q is not a manifest's platform", a, t)
				}
				attr += "[" + platforms.FormatAll(p) + "]"
			}
			for i := range r.Exports {
				if r.Exports[i].image() {
					r.Exports[i].Attrs[attr+"."+name] = value
				}
			}
		}
	}
	return nil
}
