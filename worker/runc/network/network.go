// Package network gives steps their network namespaces.
//
// With the mode "bridge" each sandboxed step gets a namespace of its own with one end of
// a pair of virtual devices, the other end of which is a port of a bridge that belongs to
// the daemon. Ports do not see each other. The host forwards to the world and hides the
// bridge's addresses behind its own. Namespaces have no names: one that nobody has open any
// more is removed by the kernel with its devices, so that a daemon that is killed leaves
// only the bridge, which its successor takes over.
//
// Namespaces are made before they are needed and never used by two steps.
package network

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/moby/buildkit/solver/pb"
)

// The values of Config.Mode.
const (
	Auto   = "auto" // CNI if it is configured, else Bridge if it can be set up, else Host
	Bridge = "bridge"
	CNI    = "cni"
	Host   = "host"
	None   = "none"
)

// Config says what steps get.
type Config struct {
	Mode string // Auto if empty

	// BridgeName and BridgeSubnet (as 10.1.0.0/16) of Bridge. By default the name is made from
	// the daemon's state directory, and the subnet is the first of a list that nothing else
	// on the host uses.
	BridgeName   string
	BridgeSubnet string

	// CNIConfig is a file, or a directory whose first file counts; by default
	// /etc/buildkit/cni.json or /etc/cni/net.d. CNIPlugins defaults to /opt/cni/bin.
	CNIConfig  string
	CNIPlugins string

	// Pool is how many namespaces are kept ready once a first was asked for; 0 means 4,
	// negative none.
	Pool int
}

// A Namespace is what one step runs in. It is released after the step.
type Namespace struct {
	Host bool   // the daemon's own
	Path string // to be joined; if empty, and not Host, the step gets a new one without devices

	release func()
}

// Release gives up the namespace. Only the first call does something.
func (n *Namespace) Release() {
	if n.release != nil {
		n.release()
		n.release = nil
	}
}

// A Network makes namespaces.
type Network struct {
	provider provider
	device   string // the bridge that an earlier process may have left
}

// A provider makes the namespaces of sandboxed steps.
type provider interface {
	name() string
	acquire(ctx context.Context, hostname string) (*Namespace, error)
	warm()
	sweep(ctx context.Context) error
	close() error
}

// New sets up the network for steps, with the daemon's state directory. The warnings say
// what is not as safe or as good as it could be.
func New(root string, c Config) (*Network, []string, error) {
	device := c.BridgeName
	if device == "" {
		device = deviceName(root)
	}
	switch c.Mode {
	case Host:
		return &Network{hostProvider{}, device}, nil, nil
	case None:
		return &Network{noneProvider{}, device}, nil, nil
	case Bridge:
		b, warnings, err := newBridge(root, c)
		if err != nil {
			return nil, nil, fmt.Errorf("bridge network: %w", err)
		}
		return &Network{b, device}, warnings, nil
	case CNI:
		p, err := newCNI(filepath.Join(root, "cni"), c)
		if err != nil {
			return nil, nil, fmt.Errorf("cni network: %w", err)
		}
		return &Network{p, device}, nil, nil
	case Auto, "":
		var errs []error
		if cniConfig(c) != "" {
			p, err := newCNI(filepath.Join(root, "cni"), c)
			if err == nil {
				return &Network{p, device}, nil, nil
			}
			errs = append(errs, fmt.Errorf("cni: %w", err))
		}
		b, warnings, err := newBridge(root, c)
		if err == nil {
			for _, e := range errs {
				warnings = append(warnings, e.Error())
			}
			return &Network{b, device}, warnings, nil
		}
		errs = append(errs, fmt.Errorf("bridge: %w", err))
		return &Network{hostProvider{}, device}, []string{
			fmt.Sprintf("steps share the host's network and can reach what listens on it: %v", errors.Join(errs...)),
		}, nil
	}
	return nil, nil, fmt.Errorf("network mode %q is not known: want auto, bridge, cni, host or none", c.Mode)
}

// Name is the mode in use, never Auto.
func (n *Network) Name() string { return n.provider.name() }

// Acquire returns a namespace for a step, which others may find by the hostname if that is not
// empty and the network knows names.
func (n *Network) Acquire(ctx context.Context, mode pb.NetMode, hostname string) (*Namespace, error) {
	switch mode {
	case pb.NetMode_UNSET:
		return n.provider.acquire(ctx, hostname)
	case pb.NetMode_HOST:
		return &Namespace{Host: true}, nil
	case pb.NetMode_NONE:
		return new(Namespace), nil
	}
	return nil, fmt.Errorf("network mode %d is not known", mode)
}

// Warm starts to make namespaces in the background.
func (n *Network) Warm() { n.provider.warm() }

// Sweep removes what an earlier process with the same state directory left.
func (n *Network) Sweep(ctx context.Context) error {
	err := n.provider.sweep(ctx)
	if n.Name() != Bridge {
		err = errors.Join(err, removeBridge(n.device))
	}
	return err
}

// Close removes everything. All namespaces must have been released.
func (n *Network) Close() error { return n.provider.close() }

type hostProvider struct{}

func (hostProvider) name() string { return Host }
func (hostProvider) acquire(_ context.Context, _ string) (*Namespace, error) {
	return &Namespace{Host: true}, nil
}
func (hostProvider) warm()                       {}
func (hostProvider) sweep(context.Context) error { return nil }
func (hostProvider) close() error                { return nil }

type noneProvider struct{}

func (noneProvider) name() string { return None }
func (noneProvider) acquire(_ context.Context, _ string) (*Namespace, error) {
	return new(Namespace), nil
}
func (noneProvider) warm()                       {}
func (noneProvider) sweep(context.Context) error { return nil }
func (noneProvider) close() error                { return nil }
