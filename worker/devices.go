package worker

import (
	"cmp"
	"fmt"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/worker/device"
	"github.com/moby/buildkit/solver/pb"
)

// DeviceGrants are the devices of the host that a build may have besides those that need no
// permission. The zero value grants none.
type DeviceGrants struct {
	All   bool
	Names map[string]bool
	// Aliases are names that steps may use, and what they mean.
	Aliases map[string]string
}

// Grant adds what an entitlement of the form device, device=NAME or device=NAME,alias=ALIAS
// grants; spec is what follows "device=".
func (g *DeviceGrants) Grant(spec string) error {
	if spec == "" {
		g.All = true
		return nil
	}
	fields := strings.Split(spec, ",")
	name, alias := fields[0], ""
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		if key != "alias" || value == "" {
			return cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("entitlement device=%s: %q is not alias=NAME", spec, f))
		}
		alias = value
	}
	if name == "" {
		return cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("entitlement device=%s: it names no device", spec))
	}
	if alias != "" {
		if g.Aliases == nil {
			g.Aliases = map[string]string{}
		}
		g.Aliases[alias] = name
		return nil
	}
	if g.Names == nil {
		g.Names = map[string]bool{}
	}
	g.Names[name] = true
	return nil
}

// devices returns the full names of the devices that a step asks for, or why it may not
// have them. step says which it is.
func (w *Worker) devices(list []*pb.CDIDevice, g DeviceGrants, step string) ([]string, error) {
	granted := map[string]bool{}
	if w.Devices != nil && len(list) > 0 {
		for name := range g.Names {
			for _, dev := range w.Devices.Find(name) {
				granted[dev.Name] = true
			}
		}
	}
	var names []string
	seen := map[string]bool{}
	for _, req := range list {
		if w.Devices == nil {
			if req.Optional {
				continue
			}
			return nil, cerrdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("CDI device %q is required by step %q, but CDI device support is disabled", req.Name, step))
		}
		target, aliased := g.Aliases[req.Name]
		found := w.Devices.Find(cmp.Or(target, req.Name))
		if len(found) == 0 && !req.Optional {
			return nil, cerrdefs.ErrNotFound.WithMessage(fmt.Sprintf("device %q is required by step %q, but this machine describes none: the daemon's cdi.specDirs say where it looks", req.Name, step))
		}
		for _, dev := range found {
			if !g.All && !aliased && !dev.AutoAllow && !granted[dev.Name] {
				return nil, errDevice(dev)
			}
			if !seen[dev.Name] {
				seen[dev.Name] = true
				names = append(names, dev.Name)
			}
		}
	}
	return names, nil
}

func errDevice(dev device.Device) error {
	return cerrdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("device %s is requested by the build but not allowed: pass --allow device=%s", dev.Name, dev.Name))
}
