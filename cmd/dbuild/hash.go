package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/docker/cli/cli/config"
	digest "github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// hashCommand returns "dbuild hash", which says what a build would be made from.
func (a *app) hashCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "hash [flags] [PATH|URL|-]",
		Short: "Print the digest of a build context, without building",
		Args:  atMostOne,
	}
	f := someBuildFlags(c, "build-arg", "build-context", "builder", "file", "ignorefile", "platform", "secret", "ssh", "target")
	c.Flags().StringVar(&format, "format", "text", "text, or json for all that --metadata-file says about the contexts")
	fixed(c, "format", "json", "text")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if format != "text" && format != "json" {
			return usagef("--format %s: there are text and json", format)
		}
		found, err := a.hash(cmd.Context(), f, contextArg(args))
		if err != nil {
			return err
		}
		for _, path := range found.other {
			a.warn("%s is neither a file, a directory nor a link, and does not count", path)
		}
		if format == "text" {
			_, err = fmt.Fprintln(a.stdout, found.context)
			return err
		}
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(found.metadata())
	}
	return c
}

// hash finds the facts of a build that does not take place. A daemon is needed only for
// contexts that it would fetch.
func (a *app) hash(ctx context.Context, f *buildflags.Flags, contextArg string) (*facts, error) {
	dockerConfig := config.LoadDefaultConfigFile(a.stderr)
	req, err := f.Request(contextArg, a.requestEnv(ctx, dockerConfig))
	if err != nil {
		return nil, err
	}
	lent, err := a.lend(ctx, req, dockerConfig)
	if err != nil {
		return nil, err
	}
	defer lent.close()
	return findFacts(ctx, req, lent, func(ctx context.Context) (*facts, digest.Digest, error) {
		d, err := a.connect(ctx)
		if err != nil {
			return nil, "", err
		}
		defer d.Close()
		opt, err := solveOpt(d, req, lent, &outputs{})
		if err != nil {
			return nil, "", err
		}
		return remoteFacts(ctx, d, lent, opt)
	})
}

// someBuildFlags gives a command some of the flags of builds, for a directory that need not
// have a Dockerfile.
func someBuildFlags(c *cobra.Command, names ...string) *buildflags.Flags {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	f := buildflags.New(fs)
	f.NoDockerfile = true
	for _, name := range names {
		c.Flags().AddFlag(fs.Lookup(name))
	}
	return f
}

// contextArg is the context that the arguments name: this directory if they do not.
func contextArg(args []string) string {
	if len(args) == 0 {
		return "."
	}
	return args[0]
}

func atMostOne(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("at most one PATH is meant, not %d", len(args))
	}
	return nil
}
