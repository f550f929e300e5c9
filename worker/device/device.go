// Package device finds the devices of the host that steps ask for. They are described by
// files for the Container Device Interface, which their vendors install.
package device

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// Annotations of the files that mean something here.
const (
	classAnnotation     = "org.mobyproject.buildkit.device.class"
	autoAllowAnnotation = "org.mobyproject.buildkit.device.autoallow"
)

// Config says where the descriptions are.
type Config struct {
	SpecDirs    []string // none means the usual ones
	AutoAllowed []string // kinds or names of devices that need no entitlement; "*" is all
}

// A Device is one that steps can ask for.
type Device struct {
	Name        string // vendor.com/kind=name
	AutoAllow   bool   // needs no entitlement
	Annotations map[string]string
}

// Devices are those that are described at the moment: the files are read again when they
// change.
type Devices struct {
	config Config
	cache  *cdi.Cache

	mu   sync.Mutex
	seen string // under mu: the files as they were when last read
}

// New returns the devices described by files.
func New(c Config) (*Devices, error) {
	if len(c.SpecDirs) == 0 {
		c.SpecDirs = []string{"/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"}
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(c.SpecDirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, fmt.Errorf("devices: %w", err)
	}
	return &Devices{config: c, cache: cache}, nil
}

// refresh reads the files if they are others than before. One that cannot be read
// describes nothing.
func (d *Devices) refresh() {
	var b strings.Builder
	for _, dir := range d.config.SpecDirs {
		entries, _ := os.ReadDir(dir) // mostly there is none
		for _, e := range entries {
			if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil {
				fmt.Fprintf(&b, "%s/%s %d %d\n", dir, e.Name(), info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := b.String(); now != d.seen {
		_ = d.cache.Refresh()
		d.seen = now
	}
}

// List returns all devices, by name.
func (d *Devices) List() []Device {
	d.refresh()
	var list []Device
	for _, name := range d.cache.ListDevices() {
		if dev := d.get(name); dev != nil {
			list = append(list, *dev)
		}
	}
	return list
}

func (d *Devices) get(name string) *Device {
	found := d.cache.GetDevice(name)
	if found == nil {
		return nil
	}
	dev := &Device{Name: name, Annotations: map[string]string{}}
	// What is said of a device counts more than what is said of all in its file.
	maps.Copy(dev.Annotations, found.GetSpec().Annotations)
	maps.Copy(dev.Annotations, found.Annotations)
	kind, _, _ := strings.Cut(name, "=")
	dev.AutoAllow = dev.Annotations[autoAllowAnnotation] == "true" ||
		slices.ContainsFunc(d.config.AutoAllowed, func(s string) bool {
			return s == "*" || s == kind || s == kind+"=*" || s == name
		})
	return dev
}

// Find returns the devices that a step means with a name: one device, the first of a kind
// (vendor.com/kind), all of a kind (vendor.com/kind=*) or those of a class.
func (d *Devices) Find(name string) []Device {
	list := d.List()
	kind, which, named := strings.Cut(name, "=")
	vendor, class := parser.ParseQualifier(kind)
	var found []Device
	if vendor != "" && class != "" {
		for _, dev := range list {
			k, _, _ := strings.Cut(dev.Name, "=")
			if k != kind || named && which != "*" && dev.Name != name {
				continue
			}
			found = append(found, dev)
			if !named {
				return found
			}
		}
	}
	if len(found) > 0 {
		return found
	}
	for _, dev := range list {
		if dev.Annotations[classAnnotation] == name && name != "" {
			found = append(found, dev)
		}
	}
	return found
}

// Inject gives devices, by their full names, to a container.
func (d *Devices) Inject(spec *specs.Spec, names []string) error {
	if _, err := d.cache.InjectDevices(spec, names...); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return nil
}
