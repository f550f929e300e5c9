package daemon

import (
	"io"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/worker/runc/network"
)

// Config says how a daemon runs. The zero value of each field but Root and Addrs is
// useful.
type Config struct {
	Root        string        // state directory; required
	Addrs       []string      // unix://PATH, tcp://HOST:PORT or fd://; required
	IdleTimeout time.Duration // leave after so long without a request; 0 means never
	OCIRuntime  string        // path of a runc or crun to use instead of the built-in runtime
	Snapshotter string        // overlay, native, or "" to choose
	Network     network.Config
	DNS         DNSConfig
	Log         LogConfig
	// MaxParallelism is how many processes of builds run at once; 0 means no limit.
	MaxParallelism int
	// MaxBuilds is how many builds work at once, the others wait; 0 chooses by the number
	// of processors.
	MaxBuilds int
	// Entitlements that clients may ask for: network.host, security.insecure, device or
	// device=NAME.
	Entitlements []string
	// InsecureTCP permits tcp:// without TLS.
	InsecureTCP bool
	TLS         TLSConfig
	// UID and GID own the sockets; nil keeps those of the process.
	UID, GID *int
	// DebugAddr serves profiles and metrics: unix://PATH or HOST:PORT; "" does not.
	DebugAddr string
	// Labels are added to those of the worker.
	Labels map[string]string
	// Platforms that steps may run on, such as linux/arm64, the first the default; none
	// means what this machine and its emulators run.
	Platforms []string
	// CgroupParent holds the cgroups of steps that do not ask for another.
	CgroupParent string
	// AppArmorProfile confines steps; "" is none.
	AppArmorProfile string
	// Registries are what is special about some, by the name in references.
	Registries map[string]registry.Host
	// RegistryConcurrency is how many blobs go to one registry at once; 0 is the default.
	RegistryConcurrency int
	// SessionAuthTimeout bounds one question to a client for credentials; 0 means a minute,
	// less none.
	SessionAuthTimeout time.Duration
	History            HistoryConfig
	Frontends          FrontendsConfig
	Devices            DevicesConfig
	// ProvenanceDir holds JSON files that are added to the provenance of every build; "" is
	// none.
	ProvenanceDir string
	// PullEager reads all layers of base images when they are named, for all builds, as the
	// option "pull=eager" does for one.
	PullEager bool
	// ProxyNetwork has all steps reach their network through a proxy only, as the option of a
	// build does.
	ProxyNetwork bool
	// NoRemoteCheck has registries not asked whether they still hold the layers of a result
	// that was found, as "remote-check=false" does for one cache that is imported.
	NoRemoteCheck bool
	// NoCacheFromAny refuses --cache-from=*, with which a build may be answered by any
	// image of the store, whoever made it.
	NoCacheFromAny bool
	// GC bounds what the cache keeps; zero values choose from the size of the disk.
	GC GCConfig
}

// DNSConfig replaces what steps find in /etc/resolv.conf, where it is set.
type DNSConfig struct{ Nameservers, Options, SearchDomains []string }

// LogConfig is what the daemon says of itself, and how.
type LogConfig struct {
	Level  string // debug, info, warn or error; "" is info
	Format string // text or json; "" is text
	Output io.Writer
}

// TLSConfig has the PEM files of a server. With CA set, only clients that have a
// certificate of it are served.
type TLSConfig struct{ Cert, Key, CA string }

// HistoryConfig bounds the records of builds: one goes when it is older than MaxAge and
// there are MaxEntries newer ones. If only one of them is set, it alone decides; without
// either it is 48 hours and 50. If MaxEntries is 0, no new builds are remembered.
type HistoryConfig struct {
	MaxAge     time.Duration
	MaxEntries *int64
}

// FrontendsConfig says which frontends clients may use.
type FrontendsConfig struct {
	NoDockerfile bool
	NoGateway    bool
	// GatewayRepositories are the image repositories that frontends may come from; none
	// means all.
	GatewayRepositories []string
}

// DevicesConfig is about devices that are described for the Container Device Interface.
type DevicesConfig struct {
	Disabled    bool
	SpecDirs    []string // none means /etc/cdi, /var/run/cdi and /etc/buildkit/cdi
	AutoAllowed []string // devices that builds get without an entitlement
}

// GCConfig bounds the cache. Disabled turns collection off. Policies replace the rest.
type GCConfig struct {
	Disabled                                  bool
	ReservedSpace, MaxUsedSpace, MinFreeSpace int64 // bytes
	KeepDuration                              time.Duration
	Policies                                  []GCPolicy
}

// GCPolicy bounds the records that match its filters; policies apply in their order.
type GCPolicy struct {
	All                                       bool
	Filters                                   []string
	KeepDuration                              time.Duration
	ReservedSpace, MaxUsedSpace, MinFreeSpace int64 // bytes
}
