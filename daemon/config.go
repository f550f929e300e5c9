package daemon

import (
	"io"
	"time"
)

// Config says how a daemon runs. The zero value of each field but Root and Addrs is
// useful.
type Config struct {
	Root        string        // state directory; required
	Addrs       []string      // unix://PATH, tcp://HOST:PORT or fd://; required
	IdleTimeout time.Duration // leave after so long without a request; 0 means never
	OCIRuntime  string        // path of a runc or crun to use instead of the built-in runtime
	Snapshotter string        // overlay, native, or "" to choose
	Network     string        // auto, bridge, cni, host or none; "" is auto
	Debug       bool
	LogFormat   string // text or json
	LogOutput   io.Writer
	// MaxParallelism is how many processes of builds run at once; 0 means no limit.
	MaxParallelism int
	// Entitlements that clients may ask for: network.host, security.insecure.
	Entitlements []string
	// InsecureTCP permits tcp:// without TLS.
	InsecureTCP bool
	// GC bounds what the cache keeps; zero values choose from the size of the disk.
	GC GCConfig
}

// GCConfig bounds the cache, in bytes. Disabled turns collection off.
type GCConfig struct {
	Disabled                                  bool
	ReservedSpace, MaxUsedSpace, MinFreeSpace int64
	KeepDuration                              time.Duration
}
