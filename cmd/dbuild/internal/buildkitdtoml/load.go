package buildkitdtoml

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	"github.com/dbuild/dbuild/daemon"
	"github.com/dbuild/dbuild/internal/registry"
	toml "github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"
)

// Load fills cfg with what the file at path says. Warnings name, with their line, the
// keys that are not known and those that have no effect here. A file that is not TOML, or
// has a value of the wrong kind, is an error that shows the place.
func Load(path string, cfg *daemon.Config) (warnings []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f file
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	err = dec.Decode(&f)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		for _, e := range unknown.Errors {
			warnings = append(warnings, unknownKey(path, &e))
		}
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		return nil, fmt.Errorf("%s:%d: %s\n%s", path, line, strings.TrimPrefix(wrong.Error(), "toml: "), wrong.String())
	case err != nil:
		return nil, fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "toml: "))
	}
	none, err := f.apply(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, n := range none {
		warnings = append(warnings, path+": "+n+" has no effect with dbuild")
	}
	return warnings, nil
}

// unknownKey says where a key stands that nobody knows, and which was probably meant.
func unknownKey(path string, e *toml.DecodeError) string {
	line, _ := e.Position()
	key := e.Key()
	s := fmt.Sprintf("%s:%d: key %s is not known", path, line, strings.Join(key, "."))
	if len(key) == 0 {
		return s
	}
	if near := suggest.Nearest(key[len(key)-1], keysOf(key[:len(key)-1])); near != "" {
		s += "; did you mean " + near + "?"
	}
	return s
}

// keysOf returns the keys that may stand in a table.
func keysOf(table []string) []string {
	t := reflect.TypeFor[file]()
	for _, name := range table {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() == reflect.Map {
			t = t.Elem()
			continue
		}
		if t.Kind() != reflect.Struct {
			return nil
		}
		found := false
		for i := range t.NumField() {
			if t.Field(i).Tag.Get("toml") == name {
				t, found = t.Field(i).Type, true
				break
			}
		}
		if !found {
			return nil
		}
	}
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for i := range t.NumField() {
		keys = append(keys, t.Field(i).Tag.Get("toml"))
	}
	return keys
}

// apply sets cfg and names the keys that are set but mean nothing here.
func (f *file) apply(cfg *daemon.Config) (none []string, err error) {
	set(&cfg.Root, f.Root)
	cfg.Entitlements = append(cfg.Entitlements, f.Entitlements...)
	set(&cfg.ProvenanceDir, f.ProvenanceDir)
	cfg.ProxyNetwork = f.ProxyNetwork
	set(&cfg.Log.Format, f.Log.Format)
	set(&cfg.Log.Level, f.Log.Level)
	if f.Debug || f.Trace {
		cfg.Log.Level = "debug"
	}
	cfg.Addrs = append(cfg.Addrs, f.GRPC.Address...)
	set(&cfg.DebugAddr, f.GRPC.DebugAddress)
	cfg.UID, cfg.GID = f.GRPC.UID, f.GRPC.GID
	cfg.TLS = daemon.TLSConfig{Cert: f.GRPC.TLS.Cert, Key: f.GRPC.TLS.Key, CA: f.GRPC.TLS.CA}
	cfg.Devices = daemon.DevicesConfig{Disabled: isTrue(f.CDI.Disabled), SpecDirs: f.CDI.SpecDirs, AutoAllowed: f.CDI.AutoAllowed}
	cfg.History = daemon.HistoryConfig{MaxAge: f.History.MaxAge.Duration, MaxEntries: f.History.MaxEntries}
	cfg.DNS = daemon.DNSConfig{Nameservers: f.DNS.Nameservers, Options: f.DNS.Options, SearchDomains: f.DNS.SearchDomains}
	cfg.Frontends = daemon.FrontendsConfig{
		NoDockerfile: isFalse(f.Frontend.Dockerfile.Enabled), NoGateway: isFalse(f.Frontend.Gateway.Enabled),
		GatewayRepositories: f.Frontend.Gateway.AllowedRepositories,
	}
	cfg.RegistryConcurrency = f.System.MaxRegistryConcurrency
	if t := f.System.SessionAuthTimeout; t != nil {
		if cfg.SessionAuthTimeout = t.Duration; cfg.SessionAuthTimeout == 0 {
			cfg.SessionAuthTimeout = -1 // 0 in the file switches it off
		}
	}
	if cfg.Registries, err = f.registries(); err != nil {
		return nil, err
	}
	if w := f.worker(); w != nil {
		w.apply(cfg)
	}
	return f.ignored(), nil
}

// worker returns the table that is about our only worker: that of the OCI worker, or of
// containerd's if the file uses that one instead.
func (f *file) worker() *worker {
	oci, ctd := f.Worker.OCI, f.Worker.Containerd
	if ctd != nil && isTrue(ctd.Enabled) && (oci == nil || isFalse(oci.Enabled)) {
		return ctd
	}
	return oci
}

func (w *worker) apply(cfg *daemon.Config) {
	cfg.Labels = w.Labels
	cfg.Platforms = w.Platforms
	switch w.Snapshotter {
	case "", "auto":
	case "overlayfs":
		cfg.Snapshotter = "overlay"
	default:
		cfg.Snapshotter = w.Snapshotter
	}
	set(&cfg.Network.Mode, w.NetworkMode)
	set(&cfg.Network.CNIConfig, w.CNIConfigPath)
	set(&cfg.Network.CNIPlugins, w.CNIBinaryPath)
	set(&cfg.Network.BridgeName, w.BridgeName)
	set(&cfg.Network.BridgeSubnet, w.BridgeSubnet)
	cfg.Network.Pool = w.CNIPoolSize
	set(&cfg.OCIRuntime, w.Binary)
	set(&cfg.CgroupParent, w.DefaultCgroupParent)
	set(&cfg.AppArmorProfile, w.AppArmorProfile)
	cfg.MaxParallelism = w.MaxParallelism

	var disk int64
	dir := cfg.Root
	for dir != "" {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil {
			disk = int64(st.Blocks) * st.Bsize
			break
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
	}
	cfg.GC = daemon.GCConfig{
		Disabled:      isFalse(w.GC),
		ReservedSpace: w.ReservedSpace.or(w.KeepStorage).of(disk), MaxUsedSpace: w.MaxUsedSpace.of(disk), MinFreeSpace: w.MinFreeSpace.of(disk),
	}
	for _, p := range w.Policies {
		cfg.GC.Policies = append(cfg.GC.Policies, daemon.GCPolicy{
			All: p.All, Filters: p.Filters, KeepDuration: p.KeepDuration.Duration,
			ReservedSpace: p.ReservedSpace.or(p.KeepBytes).of(disk), MaxUsedSpace: p.MaxUsedSpace.of(disk), MinFreeSpace: p.MinFreeSpace.of(disk),
		})
	}
}

func (f *file) registries() (map[string]registry.Host, error) {
	out := map[string]registry.Host{}
	for name, r := range f.Registry {
		h := registry.Host{Mirrors: r.Mirrors, HTTP: isTrue(r.PlainHTTP), Insecure: isTrue(r.Insecure), CA: slices.Clone(r.RootCAs)}
		for _, kp := range r.KeyPairs {
			h.KeyPairs = append(h.KeyPairs, registry.KeyPair{Cert: kp.Certificate, Key: kp.Key})
		}
		for _, dir := range r.TLSConfigDir {
			if err := tlsDir(dir, &h); err != nil {
				return nil, fmt.Errorf("registry %s: %w", name, err)
			}
		}
		out[name] = h
	}
	return out, nil
}

// tlsDir adds the files of a directory as docker lays it out: *.crt are authorities,
// NAME.cert and NAME.key belong together.
func tlsDir(dir string, h *registry.Host) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		switch filepath.Ext(p) {
		case ".crt":
			h.CA = append(h.CA, p)
		case ".cert":
			h.KeyPairs = append(h.KeyPairs, registry.KeyPair{Cert: p, Key: strings.TrimSuffix(p, ".cert") + ".key"})
		}
	}
	return nil
}

// ignored names the keys that are set and mean nothing here.
func (f *file) ignored() (none []string) {
	add := func(isSet bool, key string) {
		if isSet {
			none = append(none, key)
		}
	}
	add(f.GRPC.SecurityDesc != "", "grpc.securityDescriptor")
	add(f.OTEL.SocketPath != "", "otel.socketPath")
	add(f.Cache != nil, "cache")
	add(f.GHACache != nil, "ghacache")
	add(f.Compaction != nil, "compaction")
	add(f.System.PlatformsCacheMaxAge.Duration != 0, "system.platformsCacheMaxAge")
	if w := f.worker(); w != nil {
		add(w.Rootless, "worker.rootless")
		add(w.NoProcessSandbox, "worker.noProcessSandbox")
		add(w.SELinux, "worker.selinux")
		add(w.UserRemapUnsupported != "", "worker.userRemapUnsupported")
		add(w.ProxySnapshotterPath != "", "worker.proxySnapshotterPath")
		add(w.StargzSnapshotter != nil, "worker.stargzSnapshotter")
	}
	if f.worker() != nil && f.worker() == f.Worker.Containerd {
		none = append(none, "worker.containerd's address, namespace and runtime (dbuild runs containers itself)")
	}
	return none
}

func set(to *string, v string) {
	if v != "" {
		*to = v
	}
}

func isTrue(b *bool) bool  { return b != nil && *b }
func isFalse(b *bool) bool { return b != nil && !*b }
