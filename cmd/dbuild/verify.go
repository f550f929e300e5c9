package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/imagediff"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/lockfile"
	"github.com/spf13/cobra"
)

// verifyCommand returns "dbuild verify", which tells whether a build gives the same twice.
func (a *app) verifyCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "verify [flags] PATH|URL",
		Short: "Build twice, the second time without the cache, and say how the results differ",
		Args:  cobra.ArbitraryArgs,
	}
	f := buildflags.New(c.Flags())
	c.Flags().StringVar(&format, "format", "text", "text or json")
	fixed(c, "format", "json", "text")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		a.debug = f.Debug
		context, err := positional(cmd, args)
		if err != nil {
			return err
		}
		if format != "text" && format != "json" {
			return usagef("--format %s: there are text and json", format)
		}
		if context == "-" || f.File == "-" {
			return usagef("verify reads its input twice; standard input can be read once")
		}
		return a.verify(cmd.Context(), f, context, format)
	}
	completeBuild(c)
	return c
}

// A verification is what "dbuild verify --format json" prints.
type verification struct {
	*imagediff.Report
	Epoch     string `json:"epoch"`     // SOURCE_DATE_EPOCH
	EpochFrom string `json:"epochFrom"` // environment, flag, git or default
}

// verify builds twice and compares. Both builds are made from the same sources: what the first
// found of images, downloads and repositories is what the second gets.
func (a *app) verify(ctx context.Context, f *buildflags.Flags, contextArg, format string) error {
	v := verification{}
	v.Epoch, v.EpochFrom = a.epoch(ctx, f, contextArg)
	if v.EpochFrom == "git" || v.EpochFrom == "default" && !f.Reproducible {
		f.BuildArg = append(f.BuildArg, buildflags.SourceDateEpoch+"="+v.Epoch)
	}
	dir, err := os.MkdirTemp("", "dbuild-verify-")
	if err != nil {
		return fmt.Errorf("directory for the results: %w", err)
	}
	defer os.RemoveAll(dir)
	onlyBuild(f)
	builder := *a
	builder.stdout = new(bytes.Buffer) // the ids of images that nobody gets
	if !f.Locked {
		builder.sources = lockfile.Extend(lockfile.New())
	}
	var results []string
	for _, name := range []string{"first", "second"} {
		dest := filepath.Join(dir, name)
		// Which of its compressed forms a layer has here must not matter.
		f.Output = []string{"type=oci,tar=false,compression=uncompressed,force-compression=true,dest=" + dest}
		if name == "second" {
			f.NoCache, f.NoCacheFilter, f.CacheFrom = true, nil, nil
		}
		if err := builder.buildOnce(ctx, f, contextArg, resultFiles{}, &running{}); err != nil {
			return &classOnly{err}
		}
		results = append(results, dest)
	}
	if v.Report, err = imagediff.Compare(ctx, results[0], results[1]); err != nil {
		return fmt.Errorf("comparing the results: %w", err)
	}
	if err := a.printVerification(v, format); err != nil {
		return err
	}
	if !v.Equal {
		return statusError(exitDiffers)
	}
	return nil
}

func (a *app) printVerification(v verification, format string) error {
	if format == "json" {
		enc := json.NewEncoder(a.stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	if err := v.Text(a.stdout); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%s=%s (%s)\n", buildflags.SourceDateEpoch, v.Epoch, v.EpochFrom)
	return err
}

// onlyBuild takes from the flags what is done with a result, and what is said about it.
func onlyBuild(f *buildflags.Flags) {
	f.Tag, f.Push, f.Load, f.CacheTo = nil, false, buildflags.Load{}, nil
	f.Attest, f.Provenance, f.SBOM = nil, "", ""
	f.Call, f.Check = "build", false
	// What steps fetch is none of the sources that are the same for both builds.
	f.ProxyNetwork = false
}

// epoch is the time that files and images are to have: as given, or that of the newest commit
// of the context, or the beginning of time.
func (a *app) epoch(ctx context.Context, f *buildflags.Flags, contextArg string) (value, from string) {
	value, ok := a.lookup(buildflags.SourceDateEpoch)
	if ok && value != "" {
		from = "environment"
	}
	for _, arg := range f.BuildArg {
		if v, ok := strings.CutPrefix(arg, buildflags.SourceDateEpoch+"="); ok {
			value, from = v, "flag"
		}
	}
	if from != "" {
		return value, from
	}
	if isDir(contextArg) {
		if value, err := commitTime(ctx, contextArg); err == nil {
			return value, "git"
		}
	}
	return "0", "default"
}
