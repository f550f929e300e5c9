package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
)

// daemonFlags are the settings of "dbuild daemon", on top of what a file says.
type daemonFlags struct {
	cfg                        daemonConfig
	file                       string
	debug                      bool
	reserved, maxUsed, minFree string
	labels                     map[string]string
}

// bind declares the flags; what cfg has already is the default.
func (d *daemonFlags) bind(f *pflag.FlagSet) {
	cfg := &d.cfg
	f.StringVar(&d.file, "config", cmp.Or(d.file, os.Getenv("BUILDKITD_CONFIG")), "buildkitd.toml to read (default: "+strings.Join(configFiles(), " or ")+", if there)")
	f.StringVar(&cfg.Root, "root", cfg.Root, "directory of the state")
	f.StringArrayVar(&cfg.Addrs, "addr", cfg.Addrs, "address to listen on, may be repeated (unix://PATH, tcp://HOST:PORT, fd://)")
	f.DurationVar(&cfg.IdleTimeout, "idle-timeout", cfg.IdleTimeout, "leave when nobody has asked for anything for so long; 0 is never")
	f.StringVar(&cfg.OCIRuntime, "oci-runtime", cfg.OCIRuntime, "runc or crun to use in place of the built-in runtime")
	f.StringVar(&cfg.Snapshotter, "snapshotter", cfg.Snapshotter, "overlay or native (default: overlay where it works)")
	f.StringVar(&cfg.Network.Mode, "network", cmp.Or(cfg.Network.Mode, "auto"), "network of steps: auto, bridge, cni, host or none")
	f.IntVar(&cfg.MaxParallelism, "max-parallelism", cfg.MaxParallelism, "how many steps run at once; 0 is any number")
	f.IntVar(&cfg.MaxBuilds, "max-builds", cfg.MaxBuilds, "how many builds work at once, the others wait; 0 chooses by the number of processors")
	f.StringArrayVar(&cfg.Entitlements, "allow", cfg.Entitlements, "privilege that clients may ask for (network.host, security.insecure, device)")
	f.BoolVar(&cfg.InsecureTCP, "insecure-tcp", cfg.InsecureTCP, "listen on tcp:// without TLS")
	f.StringVar(&cfg.TLS.Cert, "tls-server-cert", cfg.TLS.Cert, "certificate for tcp:// addresses")
	f.StringVar(&cfg.TLS.Key, "tls-server-key", cfg.TLS.Key, "its key")
	f.StringVar(&cfg.TLS.CA, "tls-client-ca", cfg.TLS.CA, "authority that clients on tcp:// addresses must have a certificate of")
	f.StringVar(&cfg.DebugAddr, "debugaddr", cmp.Or(os.Getenv("BUILDKITD_DEBUGADDR"), cfg.DebugAddr), "address for profiles and metrics (HOST:PORT, unix://PATH)")
	f.StringToStringVar(&d.labels, "worker-label", d.labels, "label of the worker (KEY=VALUE)")
	f.BoolVarP(&d.debug, "debug", "D", d.debug, "log more")
	f.StringVar(&cfg.Log.Level, "log-level", cmp.Or(os.Getenv("BUILDKITD_LOG_LEVEL"), cfg.Log.Level, "info"), "debug, info, warn or error")
	f.StringVar(&cfg.Log.Format, "log-format", cmp.Or(cfg.Log.Format, "text"), "text or json")
	f.BoolVar(&cfg.PullEager, "pull-eager", cfg.PullEager, "read all layers of base images when a build names them, and not when a step needs them")
	f.BoolVar(&cfg.ProxyNetwork, "proxy-network", cfg.ProxyNetwork, "give steps no network but a proxy that records what they fetch, as clients can ask for")
	f.BoolVar(&cfg.NoRemoteCheck, "no-remote-check", cfg.NoRemoteCheck, "do not ask registries whether they still hold the layers of a result that was found")
	f.BoolVar(&cfg.NoCacheFromAny, "no-cache-from-any", cfg.NoCacheFromAny, "refuse --cache-from=*, which takes what any image of the store was made of")
	f.BoolVar(&cfg.GC.Disabled, "no-gc", cfg.GC.Disabled, "never remove anything from the cache")
	f.DurationVar(&cfg.GC.KeepDuration, "gc-keep-duration", cfg.GC.KeepDuration, "keep what was used during this time")
	f.StringVar(&d.reserved, "gc-reserved-space", d.reserved, "space that the cache may always use")
	f.StringVar(&d.maxUsed, "gc-max-used-space", d.maxUsed, "space that the cache may use at most")
	f.StringVar(&d.minFree, "gc-min-free-space", d.minFree, "space that must stay free on the disk")
}

// configFiles are where a configuration is looked for: BuildKit's place, so that a machine
// can move to dbuild as it is.
func configFiles() []string {
	files := []string{"/etc/dbuild/buildkitd.toml", "/etc/buildkit/buildkitd.toml"}
	if os.Getuid() != 0 {
		if dir, err := os.UserConfigDir(); err == nil {
			files = []string{filepath.Join(dir, "dbuild", "buildkitd.toml"), filepath.Join(dir, "buildkit", "buildkitd.toml")}
		}
	}
	return files
}

// load returns the settings of the file with those of the command line over them.
func (d *daemonFlags) load(given *pflag.FlagSet, root string) (*daemonFlags, error) {
	over := &daemonFlags{file: d.file}
	path := d.file
	for _, p := range configFiles() {
		if path != "" || given.Changed("config") {
			break
		}
		if _, err := os.Stat(p); err == nil {
			path = p
		}
	}
	over.cfg.Root = root
	if path != "" {
		warnings, err := loadDaemonFile(path, &over.cfg)
		if err != nil {
			return nil, err
		}
		for _, w := range warnings {
			fmt.Fprintln(os.Stderr, "warning:", w)
		}
	}
	over.labels = map[string]string{}
	maps.Copy(over.labels, over.cfg.Labels)
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	over.bind(f)
	var err error
	given.Visit(func(set *pflag.Flag) {
		to := f.Lookup(set.Name)
		if to == nil || err != nil {
			return
		}
		if list, ok := set.Value.(pflag.SliceValue); ok {
			err = to.Value.(pflag.SliceValue).Replace(list.GetSlice())
			return
		}
		if set.Name == "worker-label" {
			maps.Copy(over.labels, d.labels)
			return
		}
		err = to.Value.Set(set.Value.String())
	})
	over.cfg.Labels = over.labels
	return over, err
}

// daemonCommand returns "dbuild daemon", which serves until it is stopped.
func (a *app) daemonCommand() *cobra.Command {
	var flags daemonFlags
	c := &cobra.Command{
		Use:   "daemon [flags]",
		Short: "Run the daemon in the foreground",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := a.places()
			d, err := flags.load(cmd.Flags(), p.state)
			if err != nil {
				return err
			}
			cfg := &d.cfg
			if len(cfg.Addrs) == 0 {
				cfg.Addrs = []string{"unix://" + p.socket}
			}
			for i := range cfg.Addrs {
				cfg.Addrs[i] = complete(cfg.Addrs[i])
			}
			if !slices.Contains([]string{"text", "json"}, cfg.Log.Format) {
				return usagef("--log-format %s: want text or json", cfg.Log.Format)
			}
			if d.debug {
				cfg.Log.Level = "debug"
			}

			for _, s := range []struct {
				flag, text string
				to         *int64
			}{
				{"--gc-reserved-space", d.reserved, &cfg.GC.ReservedSpace},
				{"--gc-max-used-space", d.maxUsed, &cfg.GC.MaxUsedSpace},
				{"--gc-min-free-space", d.minFree, &cfg.GC.MinFreeSpace},
			} {
				if s.text == "" {
					continue
				}
				if *s.to, err = parseSize(s.flag, s.text); err != nil {
					return err
				}
			}
			a.debug = d.debug
			err = runDaemon(cmd.Context(), *cfg)
			if cmd.Context().Err() != nil && (err == nil || codeOf(err) == codes.Canceled) {
				return nil // it was asked to stop, and did
			}
			return err
		},
	}
	flags.bind(c.Flags())
	fixed(c, "network", "auto", "bridge", "cni", "host", "none")
	fixed(c, "snapshotter", "native", "overlay")
	fixed(c, "log-format", "json", "text")
	fixed(c, "log-level", "debug", "info", "warn", "error")
	fixed(c, "allow", "network.host", "security.insecure", "device")
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
