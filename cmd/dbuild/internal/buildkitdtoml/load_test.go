package buildkitdtoml

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/daemon"
	"github.com/dbuild/dbuild/internal/registry"
)

func load(t *testing.T, text string) (daemon.Config, []string, error) {
	t.Helper()
	p := filepath.Join(t.TempDir(), "buildkitd.toml")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := daemon.Config{Root: t.TempDir()}
	warnings, err := Load(p, &cfg)
	for i := range warnings {
		warnings[i] = strings.TrimPrefix(warnings[i], p)
	}
	return cfg, warnings, err
}

func TestLoad(t *testing.T) {
	cfg, warnings, err := load(t, `
root = "/var/lib/x"
insecure-entitlements = ["network.host"]
provenanceEnvDir = "/p.d"
[log]
  format = "json"
  level = "warn"
[grpc]
  address = ["tcp://0.0.0.0:1234"]
  debugAddress = "127.0.0.1:6060"
  uid = 5
  [grpc.tls]
    cert = "/c"
    key = "/k"
    ca = "/a"
[cdi]
  disabled = true
  specDirs = ["/cdi"]
[history]
  maxAge = 172800
  maxEntries = 0
[dns]
  nameservers = ["1.1.1.1"]
[worker.oci]
  labels = {a = "b"}
  platforms = ["linux/arm64"]
  snapshotter = "overlayfs"
  networkMode = "cni"
  cniConfigPath = "/cni.json"
  cniPoolSize = 3
  binary = "/usr/sbin/runc"
  max-parallelism = 4
  gc = false
  gckeepstorage = 1000
  maxUsedSpace = "2GB"
  [[worker.oci.gcpolicy]]
    keepDuration = 3600
    filters = ["type==source.local"]
    keepBytes = "1KB"
  [[worker.oci.gcpolicy]]
    all = true
    keepDuration = "48h"
[registry."docker.io"]
  mirrors = ["localhost:5000", "mirror.example/sub"]
[registry."reg.example:5000"]
  http = true
  insecure = true
  ca = ["/ca.pem"]
  [[registry."reg.example:5000".keypair]]
    key = "/key"
    cert = "/cert"
[frontend."gateway.v0"]
  allowedRepositories = ["docker/dockerfile"]
[frontend."dockerfile.v0"]
  enabled = false
[system]
  maxRegistryConcurrency = 2
  sessionAuthTimeout = 0
`)
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	none := int64(0)
	uid := 5
	want := daemon.Config{
		Root: "/var/lib/x", Entitlements: []string{"network.host"}, ProvenanceDir: "/p.d",
		Log: daemon.LogConfig{Format: "json", Level: "warn"}, Addrs: []string{"tcp://0.0.0.0:1234"}, DebugAddr: "127.0.0.1:6060",
		UID: &uid, TLS: daemon.TLSConfig{Cert: "/c", Key: "/k", CA: "/a"},
		Devices: daemon.DevicesConfig{Disabled: true, SpecDirs: []string{"/cdi"}},
		History: daemon.HistoryConfig{MaxAge: 48 * time.Hour, MaxEntries: &none},
		DNS:     daemon.DNSConfig{Nameservers: []string{"1.1.1.1"}}, Labels: map[string]string{"a": "b"}, Platforms: []string{"linux/arm64"},
		Snapshotter: "overlay", OCIRuntime: "/usr/sbin/runc", MaxParallelism: 4,
		GC: daemon.GCConfig{Disabled: true, ReservedSpace: 1000, MaxUsedSpace: 2 << 30, Policies: []daemon.GCPolicy{
			{Filters: []string{"type==source.local"}, KeepDuration: time.Hour, ReservedSpace: 1024},
			{All: true, KeepDuration: 48 * time.Hour},
		}},
		Registries: map[string]registry.Host{
			"docker.io":        {Mirrors: []string{"localhost:5000", "mirror.example/sub"}},
			"reg.example:5000": {HTTP: true, Insecure: true, CA: []string{"/ca.pem"}, KeyPairs: []registry.KeyPair{{Cert: "/cert", Key: "/key"}}},
		},
		Frontends:           daemon.FrontendsConfig{NoDockerfile: true, GatewayRepositories: []string{"docker/dockerfile"}},
		RegistryConcurrency: 2, SessionAuthTimeout: -1,
	}
	want.Network.Mode, want.Network.CNIConfig, want.Network.Pool = "cni", "/cni.json", 3
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got  %+v\nwant %+v", cfg, want)
	}
}

func TestPercent(t *testing.T) {
	cfg, _, err := load(t, "[worker.oci]\nreservedSpace = \"10%\"\nmaxUsedSpace = \"20%\"")
	if err != nil {
		t.Fatal(err)
	}
	if r, m := cfg.GC.ReservedSpace, cfg.GC.MaxUsedSpace; r <= 0 || m < 2*r-10 || m > 2*r+10 {
		t.Errorf("10%% is %d and 20%% is %d", r, m)
	}
}

func TestWarnings(t *testing.T) {
	_, warnings, err := load(t, `
debug = true
[worker.oci]
  max-paralelism = 3
  zzz = 1
[nosuch]
  a = 1
[registry."x"]
  mirors = []
[system]
  platformsCacheMaxAge = "1h"
[otel]
  socketPath = "/t"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		":4: key worker.oci.max-paralelism is not known; did you mean max-parallelism?",
		":5: key worker.oci.zzz is not known",
		":6: key nosuch is not known",
		":9: key registry.x.mirors is not known; did you mean mirrors?",
		": otel.socketPath has no effect with dbuild",
		": system.platformsCacheMaxAge has no effect with dbuild",
	}
	if !slices.Equal(warnings, want) {
		t.Errorf("got\n%s", strings.Join(warnings, "\n"))
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"root = 5":                               ":1:",
		"a = ":                                   ":1:",
		"\n[history]\nmaxAge = \"soon\"":         `"soon" is not a duration, such as 48h or a number of seconds`,
		"[worker.oci]\nreservedSpace = \"120%\"": `"120%" is not a part of the disk, such as 20%`,
		"[worker.oci]\n\nmaxUsedSpace = \"manybytes\"": `"manybytes" is not a size, such as 10GB, 512MB or 20%`,
	} {
		if _, _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}
