package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// rootCommand returns the command tree. Without a subcommand it builds.
func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "dbuild [build] [flags] PATH|URL|-",
		Short:         "Build container images from Dockerfiles",
		Args:          cobra.ArbitraryArgs,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().StringVar(&a.addr, "addr", "", `address of the daemon (default $DBUILD_HOST, $BUILDKIT_HOST, or one is started)`)
	root.PersistentFlags().StringVar(&a.tls.ca, "tlscacert", "", "certificate of the authority for tcp:// addresses")
	root.PersistentFlags().StringVar(&a.tls.cert, "tlscert", "", "certificate of this client")
	root.PersistentFlags().StringVar(&a.tls.key, "tlskey", "", "key of this client")
	root.PersistentFlags().StringVar(&a.tls.serverName, "tlsservername", "", "name in the daemon's certificate")
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate("dbuild {{.Version}}\n")

	build := &cobra.Command{
		Use:     "build [flags] PATH|URL|-",
		Aliases: []string{"b"},
		Short:   "Build an image (may be left out)",
		Args:    cobra.ArbitraryArgs,
	}
	for _, c := range []*cobra.Command{root, build} {
		flags := buildflags.New(c.Flags())
		c.Flags().SortFlags = true
		c.RunE = func(cmd *cobra.Command, args []string) error {
			a.debug = flags.Debug
			context, err := positional(cmd, args)
			if err != nil {
				return err
			}
			return a.build(cmd.Context(), flags, context)
		}
		completeBuild(c)
	}
	root.AddCommand(build, a.daemonCommand(), a.duCommand(), a.pruneCommand(), a.historyCommand(), a.explainCommand(), a.pushCommand(), a.imagetoolsCommand(), a.contextCommand(), a.hashCommand(), a.lockCommand(), a.debugCommand(), a.dialStdioCommand(), a.frontendCommand(), a.installPluginCommand(), a.versionCommand())
	root.AddCommand(a.verifyCommand(), a.planCommand())
	return root
}

// positional returns the one PATH, URL or - there must be.
func positional(cmd *cobra.Command, args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	if len(args) > 1 && cmd.Parent() == nil {
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		if s := suggest.Nearest(args[0], names); s != "" {
			return "", usagef("there is no command %q; did you mean \"dbuild %s\"?", args[0], s)
		}
	}
	if len(args) == 0 {
		return "", usagef("a PATH, a URL or - is needed; \"dbuild .\" builds the current directory, \"dbuild --help\" says more")
	}
	return "", usagef("exactly one PATH, URL or - is needed, not %d: %s", len(args), strings.Join(args, " "))
}

// flagError explains a flag that does not exist or does not parse.
func flagError(cmd *cobra.Command, err error) error {
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) {
		return &usageError{err}
	}
	name := missing.GetSpecifiedName()
	if short := missing.GetSpecifiedShortnames(); short != "" {
		return usagef("unknown flag -%s; \"%s --help\" lists the flags", name, cmd.CommandPath())
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if s := suggest.Nearest(name, names); s != "" {
		return usagef("unknown flag --%s; did you mean --%s?", name, s)
	}
	return usagef("unknown flag --%s; \"%s --help\" lists the flags", name, cmd.CommandPath())
}

// fixed completes a flag with a list of words.
func fixed(c *cobra.Command, flag string, words ...string) {
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

func completeBuild(c *cobra.Command) {
	fixed(c, "progress", progressModes...)
	fixed(c, "network", "default", "host", "none")
	fixed(c, "call", "build", "check", "outline", "targets")
	fixed(c, "allow", "network.host", "security.insecure")
	fixed(c, "load", "containerd", "docker", "nerdctl", "podman")
	fixed(c, "local-images", "containerd", "docker", "never")
	fixed(c, "platform", "linux/amd64", "linux/arm64", "linux/386", "linux/arm/v7", "linux/ppc64le", "linux/riscv64", "linux/s390x", "local")
	fixed(c, "cache-from", "type=azblob,account_url=", "type=gha", "type=local,src=", "type=registry,ref=", "type=s3,bucket=")
	fixed(c, "cache-to", "type=azblob,account_url=", "type=gha", "type=inline", "type=local,dest=", "type=registry,ref=", "type=s3,bucket=")
	fixed(c, "provenance", "false", "mode=max", "mode=min", "true")
	_ = c.RegisterFlagCompletionFunc("output", func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		if !strings.HasPrefix(word, "type=") && word != "" && !strings.HasPrefix("type=", word) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
		var out []string
		for _, t := range []string{"cacheonly", "containerd", "docker", "image", "local", "oci", "registry", "tar"} {
			out = append(out, "type="+t)
		}
		return out, cobra.ShellCompDirectiveNoSpace
	})
	c.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
}

// terminal tells whether f is a terminal.
func terminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	fi, err := file.Stat()
	if err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	return isTerminal(file.Fd())
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of this program and of the daemon",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(a.stdout, "dbuild "+version()+revisionSuffix(revision()))
			addr := chooseAddress(a.addr, a.lookup, a.places())
			d, err := a.dial(cmd.Context(), addr)
			if err != nil {
				if !addr.isDefault() {
					return err
				}
				fmt.Fprintln(a.stdout, "no daemon is running")
				return nil
			}
			defer d.Close()
			fmt.Fprintf(a.stdout, "daemon %s %s%s at %s\n", d.info.Package, d.info.Version, revisionSuffix(d.info.Revision), addr.url)
			return nil
		},
	}
}

func revisionSuffix(r string) string {
	if r == "" {
		return ""
	}
	return " (" + r[:min(12, len(r))] + ")"
}
