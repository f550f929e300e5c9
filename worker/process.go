package worker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/session"
	"github.com/dbuild/dbuild/worker/runc"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
)

// newProcess translates what is known of a process apart from its container.
func newProcess(meta *pb.Meta, env []string) (runc.Process, error) {
	p := runc.Process{
		Args:                 meta.Args,
		Env:                  slices.Concat(env, proxyEnv(meta.ProxyEnv)),
		Cwd:                  meta.Cwd,
		User:                 meta.User,
		Hostname:             meta.Hostname,
		Ulimits:              meta.Ulimit,
		CgroupParent:         meta.CgroupParent,
		RemoveStubsRecursive: meta.RemoveMountStubsRecursive,
	}
	return p, addHosts(&p, meta.ExtraHosts)
}

func addHosts(p *runc.Process, hosts []*pb.HostIP) error {
	for _, h := range hosts {
		ip, err := netip.ParseAddr(h.IP)
		if err != nil {
			return fmt.Errorf("host %s: %q is not an IP address", h.Host, h.IP)
		}
		p.ExtraHosts = append(p.ExtraHosts, runc.HostIP{Host: h.Host, IP: ip})
	}
	return nil
}

// secretEnv adds secrets to the environment of a process.
func (w *Worker) secretEnv(ctx context.Context, g bksession.Group, secrets []*pb.SecretEnv, p *runc.Process) error {
	for _, s := range secrets {
		v, err := w.Sessions.Secret(ctx, g, s.GetID())
		switch {
		case errors.Is(err, session.ErrNoSecret) && s.GetOptional():
			continue
		case errors.Is(err, session.ErrNoSecret):
			return fmt.Errorf("secret %s: not found; pass it with --secret id=%s,src=FILE", s.GetID(), s.GetID())
		case err != nil:
			return err
		}
		p.Env = append(p.Env, s.GetName()+"="+string(v))
	}
	return nil
}

// proxyEnv spells a proxy in both cases, as programs disagree about it.
func proxyEnv(p *pb.ProxyEnv) []string {
	if p == nil {
		return nil
	}
	var out []string
	add := func(name, value string) {
		if value != "" {
			out = append(out, strings.ToUpper(name)+"="+value, name+"="+value)
		}
	}
	add("http_proxy", p.HttpProxy)
	add("https_proxy", p.HttpsProxy)
	add("ftp_proxy", p.FtpProxy)
	add("no_proxy", p.NoProxy)
	add("all_proxy", p.AllProxy)
	return out
}
