package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	gocni "github.com/containerd/go-cni"
)

// cniTimeout bounds the plugins' cleaning up.
const cniTimeout = 20 * time.Second

// A cniNetwork lets the plugins of the Container Network Interface set up each namespace.
type cniNetwork struct {
	cni    gocni.CNI
	intent string // directory with a file for each namespace that the plugins know of
	serial atomic.Uint64
}

// cniConfig returns the configuration to use, empty if there is none.
func cniConfig(c Config) string {
	candidates := []string{c.CNIConfig}
	if c.CNIConfig == "" {
		candidates = []string{"/etc/buildkit/cni.json", "/etc/cni/net.d"}
	}
	for _, path := range candidates {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if !info.IsDir() {
			return path
		}
		for _, pattern := range []string{"*.conflist", "*.conf", "*.json"} {
			if files, _ := filepath.Glob(filepath.Join(path, pattern)); len(files) > 0 {
				return path
			}
		}
	}
	return ""
}

func newCNI(intent string, c Config) (*cniNetwork, error) {
	config := cniConfig(c)
	if config == "" {
		return nil, errors.New("no configuration found")
	}
	plugins := c.CNIPlugins
	if plugins == "" {
		plugins = "/opt/cni/bin"
	}
	options := []gocni.Opt{gocni.WithPluginDir([]string{plugins}), gocni.WithInterfacePrefix("eth"), gocni.WithMinNetworkCount(1)}
	info, err := os.Stat(config)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		options = append(options, gocni.WithPluginConfDir(config), gocni.WithPluginMaxConfNum(1), gocni.WithDefaultConf)
	case strings.HasSuffix(config, ".conflist"):
		options = append(options, gocni.WithConfListFile(config))
	default:
		options = append(options, gocni.WithConfFile(config))
	}
	cni, err := gocni.New(options...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", config, err)
	}
	return &cniNetwork{cni: cni, intent: intent}, nil
}

func (n *cniNetwork) name() string { return CNI }

func (n *cniNetwork) acquire(ctx context.Context, hostname string) (*Namespace, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	if err := ns.loopbackUp(); err != nil {
		ns.close()
		return nil, err
	}
	id := fmt.Sprintf("dbuild-%d-%d-%d", os.Getpid(), time.Now().UnixNano(), n.serial.Add(1))
	mark := filepath.Join(n.intent, id)
	if err := os.MkdirAll(n.intent, 0o700); err != nil {
		ns.close()
		return nil, err
	}
	if err := os.WriteFile(mark, []byte(hostname), 0o600); err != nil {
		ns.close()
		return nil, err
	}
	release := func() {
		ctx, cancel := context.WithTimeout(context.Background(), cniTimeout)
		defer cancel()
		if n.cni.Remove(ctx, id, ns.path(), named(hostname)...) == nil {
			_ = os.Remove(mark)
		} // else the next sweep tries again
		ns.close()
	}
	if _, err := n.cni.Setup(ctx, id, ns.path(), named(hostname)...); err != nil {
		release()
		return nil, err
	}
	return &Namespace{Path: ns.path(), release: release}, nil
}

// named tells plugins that give names to addresses which one a step asked for.
func named(hostname string) []gocni.NamespaceOpts {
	if hostname == "" {
		return nil
	}
	return []gocni.NamespaceOpts{gocni.WithArgs("IgnoreUnknown", "1"), gocni.WithArgs("K8S_POD_NAME", hostname)}
}

func (n *cniNetwork) warm() {}

// sweep tells the plugins about namespaces that are gone.
func (n *cniNetwork) sweep(ctx context.Context) error {
	entries, err := os.ReadDir(n.intent)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		hostname, _ := os.ReadFile(filepath.Join(n.intent, entry.Name())) // none is as good
		if err := n.cni.Remove(ctx, entry.Name(), "", named(string(hostname))...); err != nil {
			errs = append(errs, fmt.Errorf("cni: remove %s: %w", entry.Name(), err))
			continue
		}
		errs = append(errs, os.Remove(filepath.Join(n.intent, entry.Name())))
	}
	return errors.Join(errs...)
}

func (n *cniNetwork) close() error { return n.sweep(context.Background()) }
