// Package buildkitdtoml reads buildkitd.toml, the configuration file of BuildKit's daemon,
// so that a machine can move to dbuild without rewriting it.
package buildkitdtoml

// file has every key that BuildKit documents. What dbuild has no use for is read too, so
// that it is told apart from a typing error.
type file struct {
	Debug         bool     `toml:"debug"`
	Trace         bool     `toml:"trace"`
	Root          string   `toml:"root"`
	Entitlements  []string `toml:"insecure-entitlements"`
	ProxyNetwork  bool     `toml:"proxyNetwork"`
	ProvenanceDir string   `toml:"provenanceEnvDir"`

	Log struct {
		Format string `toml:"format"`
		Level  string `toml:"level"`
	} `toml:"log"`
	GRPC struct {
		Address      []string `toml:"address"`
		DebugAddress string   `toml:"debugAddress"`
		UID          *int     `toml:"uid"`
		GID          *int     `toml:"gid"`
		SecurityDesc string   `toml:"securityDescriptor"`
		TLS          struct {
			Cert string `toml:"cert"`
			Key  string `toml:"key"`
			CA   string `toml:"ca"`
		} `toml:"tls"`
	} `toml:"grpc"`
	OTEL struct {
		SocketPath string `toml:"socketPath"`
	} `toml:"otel"`
	CDI struct {
		Disabled    *bool    `toml:"disabled"`
		SpecDirs    []string `toml:"specDirs"`
		AutoAllowed []string `toml:"autoAllowed"`
	} `toml:"cdi"`
	History struct {
		MaxAge     duration `toml:"maxAge"`
		MaxEntries *int64   `toml:"maxEntries"`
	} `toml:"history"`
	DNS struct {
		Nameservers   []string `toml:"nameservers"`
		Options       []string `toml:"options"`
		SearchDomains []string `toml:"searchDomains"`
	} `toml:"dns"`
	Worker struct {
		OCI        *worker `toml:"oci"`
		Containerd *worker `toml:"containerd"`
	} `toml:"worker"`
	Registry map[string]registryHost `toml:"registry"`
	Frontend struct {
		Dockerfile struct {
			Enabled *bool `toml:"enabled"`
		} `toml:"dockerfile.v0"`
		Gateway struct {
			Enabled             *bool    `toml:"enabled"`
			AllowedRepositories []string `toml:"allowedRepositories"`
		} `toml:"gateway.v0"`
	} `toml:"frontend"`
	System struct {
		PlatformsCacheMaxAge   duration  `toml:"platformsCacheMaxAge"`
		MaxRegistryConcurrency int       `toml:"maxRegistryConcurrency"`
		SessionAuthTimeout     *duration `toml:"sessionAuthTimeout"`
	} `toml:"system"`
	Cache      any `toml:"cache"`
	GHACache   any `toml:"ghacache"`
	Compaction any `toml:"compaction"`
}

// worker is [worker.oci]. [worker.containerd] has some keys more, which name a containerd
// that dbuild does not use.
type worker struct {
	Enabled          *bool             `toml:"enabled"`
	Labels           map[string]string `toml:"labels"`
	Platforms        []string          `toml:"platforms"`
	Snapshotter      string            `toml:"snapshotter"`
	Rootless         bool              `toml:"rootless"`
	NoProcessSandbox bool              `toml:"noProcessSandbox"`

	GC            *bool    `toml:"gc"`
	KeepStorage   space    `toml:"gckeepstorage"`
	ReservedSpace space    `toml:"reservedSpace"`
	MaxUsedSpace  space    `toml:"maxUsedSpace"`
	MinFreeSpace  space    `toml:"minFreeSpace"`
	Policies      []policy `toml:"gcpolicy"`

	NetworkMode   string `toml:"networkMode"`
	CNIConfigPath string `toml:"cniConfigPath"`
	CNIBinaryPath string `toml:"cniBinaryPath"`
	CNIPoolSize   int    `toml:"cniPoolSize"`
	BridgeName    string `toml:"bridgeName"`
	BridgeSubnet  string `toml:"bridgeSubnet"`

	Binary               string `toml:"binary"`
	DefaultCgroupParent  string `toml:"defaultCgroupParent"`
	AppArmorProfile      string `toml:"apparmor-profile"`
	SELinux              bool   `toml:"selinux"`
	MaxParallelism       int    `toml:"max-parallelism"`
	UserRemapUnsupported string `toml:"userRemapUnsupported"`
	ProxySnapshotterPath string `toml:"proxySnapshotterPath"`
	StargzSnapshotter    any    `toml:"stargzSnapshotter"`

	Address   string `toml:"address"`
	Namespace string `toml:"namespace"`
	Runtime   any    `toml:"runtime"`
}

type policy struct {
	All           bool     `toml:"all"`
	Filters       []string `toml:"filters"`
	KeepDuration  duration `toml:"keepDuration"`
	KeepBytes     space    `toml:"keepBytes"`
	ReservedSpace space    `toml:"reservedSpace"`
	MaxUsedSpace  space    `toml:"maxUsedSpace"`
	MinFreeSpace  space    `toml:"minFreeSpace"`
}

type registryHost struct {
	Mirrors   []string `toml:"mirrors"`
	PlainHTTP *bool    `toml:"http"`
	Insecure  *bool    `toml:"insecure"`
	RootCAs   []string `toml:"ca"`
	KeyPairs  []struct {
		Key         string `toml:"key"`
		Certificate string `toml:"cert"`
	} `toml:"keypair"`
	TLSConfigDir []string `toml:"tlsconfigdir"`
}
