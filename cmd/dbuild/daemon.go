package main

import (
	"fmt"
	"runtime/debug"
	"time"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
)

// daemonCommand returns "dbuild daemon", which serves until it is stopped.
func (a *app) daemonCommand() *cobra.Command {
	var (
		cfg                        daemonConfig
		reserved, maxUsed, minFree string
	)
	c := &cobra.Command{
		Use:   "daemon [flags]",
		Short: "Run the daemon in the foreground",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := a.places()
			if cfg.Root == "" {
				cfg.Root = p.state
			}
			if len(cfg.Addrs) == 0 {
				cfg.Addrs = []string{"unix://" + p.socket}
			}
			for i := range cfg.Addrs {
				cfg.Addrs[i] = complete(cfg.Addrs[i])
			}
			if cfg.LogFormat != "text" && cfg.LogFormat != "json" {
				return usagef("--log-format %s: want text or json", cfg.LogFormat)
			}
			for _, s := range []struct {
				flag, text string
				to         *int64
			}{
				{"--gc-reserved-space", reserved, &cfg.GC.ReservedSpace},
				{"--gc-max-used-space", maxUsed, &cfg.GC.MaxUsedSpace},
				{"--gc-min-free-space", minFree, &cfg.GC.MinFreeSpace},
			} {
				n, err := parseSize(s.flag, s.text)
				if err != nil {
					return err
				}
				*s.to = n
			}
			a.debug = cfg.Debug
			err := runDaemon(cmd.Context(), cfg)
			if cmd.Context().Err() != nil && (err == nil || codeOf(err) == codes.Canceled) {
				return nil // it was asked to stop, and did
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Root, "root", "", "directory of the state")
	f.StringArrayVar(&cfg.Addrs, "addr", nil, "address to listen on, may be repeated (unix://PATH, tcp://HOST:PORT, fd://)")
	f.DurationVar(&cfg.IdleTimeout, "idle-timeout", 0, "leave when nobody has asked for anything for so long; 0 is never")
	f.StringVar(&cfg.OCIRuntime, "oci-runtime", "", "runc or crun to use in place of the built-in runtime")
	f.StringVar(&cfg.Snapshotter, "snapshotter", "", "overlay or native (default: overlay where it works)")
	f.StringVar(&cfg.Network, "network", "auto", "network of steps: auto, bridge, cni, host or none")
	f.IntVar(&cfg.MaxParallelism, "max-parallelism", 0, "how many steps run at once; 0 is any number")
	f.StringArrayVar(&cfg.Entitlements, "allow", nil, "privilege that clients may ask for (network.host, security.insecure)")
	f.BoolVar(&cfg.InsecureTCP, "insecure-tcp", false, "listen on tcp:// without TLS")
	f.BoolVarP(&cfg.Debug, "debug", "D", false, "log more")
	f.StringVar(&cfg.LogFormat, "log-format", "text", "text or json")
	f.BoolVar(&cfg.GC.Disabled, "no-gc", false, "never remove anything from the cache")
	f.DurationVar(&cfg.GC.KeepDuration, "gc-keep-duration", 0, "keep what was used during this time")
	f.StringVar(&reserved, "gc-reserved-space", "", "space that the cache may always use")
	f.StringVar(&maxUsed, "gc-max-used-space", "", "space that the cache may use at most")
	f.StringVar(&minFree, "gc-min-free-space", "", "space that must stay free on the disk")
	fixed(c, "network", "auto", "bridge", "cni", "host", "none")
	fixed(c, "snapshotter", "native", "overlay")
	fixed(c, "log-format", "json", "text")
	fixed(c, "allow", "network.host", "security.insecure")
	return c
}

// parseSize reads bytes with an optional unit, such as 512MB.
func parseSize(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return 0, usagef("%s %s: not a size, such as 10GB", flag, s)
	}
	return n, nil
}

// parseAge reads a duration; a number alone is seconds, and days are 24 hours.
func parseAge(flag, s string) (time.Duration, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return d, nil
	}
	if d, err := time.ParseDuration(s + "s"); err == nil && d >= 0 {
		return d, nil
	}
	var days int
	if n, err := fmt.Sscanf(s+"\n", "%dd\n", &days); err == nil && n == 1 && days >= 0 {
		return time.Duration(days) * 24 * time.Hour, nil
	}
	return 0, usagef("%s %s: not a duration, such as 48h", flag, s)
}

// noArgs refuses arguments, as a mistake in usage.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	return nil
}

// revision returns the commit that the program was built from, if known.
func revision() string {
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}
