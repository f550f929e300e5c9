package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/lockfile"
	"github.com/docker/cli/cli/config"
	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/spf13/cobra"
)

// lockCommand returns "dbuild lock", which pins what a build takes from elsewhere.
func (a *app) lockCommand() *cobra.Command {
	var update bool
	c := &cobra.Command{
		Use:   "lock [flags] [--update [PATTERN ...]] PATH|URL|-",
		Short: "Write the digests of all images, downloads and repositories of a build to Dockerfile.lock",
		Args:  cobra.ArbitraryArgs,
	}
	f := buildflags.New(c.Flags())
	c.Flags().BoolVar(&update, "update", false, "look up again what is locked, or what of it matches a PATTERN")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		a.debug = f.Debug
		var patterns []string
		if n := len(args) - 1; update && n > 0 {
			patterns, args = args[:n], args[n:]
		}
		context, err := positional(cmd, args)
		if err != nil {
			return err
		}
		return a.lock(cmd.Context(), f, context, update, patterns)
	}
	completeBuild(c)
	return c
}

// lock asks the daemon what a build would be made from and writes it down. Nothing is built.
func (a *app) lock(ctx context.Context, f *buildflags.Flags, contextArg string, update bool, patterns []string) error {
	mode, err := a.progressMode(f)
	if err != nil {
		return err
	}
	dockerConfig := config.LoadDefaultConfigFile(a.stderr)
	req, err := f.Request(contextArg, a.requestEnv(ctx, dockerConfig))
	if err != nil {
		return unknownContext(err)
	}
	if req.LocalImages != "" {
		return errLocalSources
	}
	path, err := lockPath(f, req)
	if err != nil {
		return err
	}
	old, err := lockfile.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		old, err = lockfile.New(), nil
	}
	if err != nil {
		return usagef("%w", err)
	}
	known, err := stillKnown(old, update, patterns)
	if err != nil {
		return usagef("%s: %w", path, err)
	}
	a.silenceLibraries()
	lent, err := a.lend(ctx, req, dockerConfig)
	if err != nil {
		return err
	}
	defer lent.close()
	d, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := a.adapt(ctx, d, req); err != nil {
		return err
	}
	opt, err := solveOpt(d, req, lent, &outputs{})
	if err != nil {
		return err
	}
	if opt.SourcePolicy, err = a.sourcePolicy(); err != nil {
		return err
	}
	session := lockfile.Extend(known)
	opt.SourcePolicyProvider = session.Provider()
	p, err := a.startProgress(mode, f.Debug)
	if err != nil {
		return err
	}
	err = lower(ctx, d, opt, p)
	p.wait()
	if err != nil {
		p.printTail(a.stderr)
		return err
	}
	found := session.File()
	text, err := found.JSON()
	if err != nil {
		return err
	}
	if err := replace(path, text); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	if f.Quiet {
		return nil
	}
	for _, line := range found.Changes(old) {
		fmt.Fprintln(a.stdout, line)
	}
	if unused := session.Unused(); len(unused) > 0 {
		a.note("%s also names what this build does not use: %s; \"dbuild lock --update\" forgets it", path, strings.Join(unused, ", "))
	}
	return nil
}

// stillKnown returns what of a lock is not looked up again.
func stillKnown(old *lockfile.File, update bool, patterns []string) (*lockfile.File, error) {
	if !update {
		return old, nil
	}
	if len(patterns) == 0 {
		return lockfile.New(), nil
	}
	var again []string
	for _, p := range patterns {
		names, err := old.Match(p)
		if err != nil {
			return nil, err
		}
		again = append(again, names...)
	}
	return old.Forget(again), nil
}

// lower has the frontend make the graph of a build, which needs to know all its sources, and
// leaves it at that.
func lower(ctx context.Context, d *daemonConn, opt client.SolveOpt, p *progress) error {
	frontend, attrs := opt.Frontend, maps.Clone(opt.FrontendAttrs)
	opt.Frontend, opt.Internal, opt.CacheImports, opt.CacheExports = "", true, nil, nil
	_, err := d.Build(ctx, opt, "dbuild", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		if _, err := g.Solve(ctx, gateway.SolveRequest{Frontend: frontend, FrontendOpt: attrs}); err != nil {
			return nil, err
		}
		return gateway.NewResult(), nil
	}, p.updates)
	return err
}

// lockPath is where the lock of a build is: beside the Dockerfile, unless --lock-file says
// otherwise.
func lockPath(f *buildflags.Flags, req *buildflags.Request) (string, error) {
	if f.LockFile != "" {
		return f.LockFile, nil
	}
	dir := req.Locals[buildflags.LocalDockerfile]
	if req.Dockerfile != buildflags.FromDir || dir == "" {
		return "", usagef("the Dockerfile is not in a directory of this machine; say with --lock-file where the lock is")
	}
	return filepath.Join(dir, req.Attrs["filename"]) + ".lock", nil
}

// enforceLock has the daemon build from what the lock names only.
func enforceLock(f *buildflags.Flags, req *buildflags.Request, contextArg string, opt *client.SolveOpt) error {
	path, err := lockPath(f, req)
	if err != nil {
		return err
	}
	command := lockCommandLine(f, contextArg)
	file, err := lockfile.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return usagef("--locked: there is no %s; %q writes it", path, command)
	}
	if err != nil {
		return usagef("--locked: %w", err)
	}
	opt.SourcePolicyProvider = lockfile.Enforce(file, fmt.Sprintf("%s does not name it; run %q to add it", path, command)).Provider()
	return nil
}

// lockCommandLine is the command that locks what a build needs, with all flags that decide
// that. It is told to the daemon, too, so it has no passwords.
func lockCommandLine(f *buildflags.Flags, contextArg string) string {
	words := []string{"dbuild", "lock"}
	if f.File != "" {
		words = append(words, "-f", f.File)
	}
	if f.LockFile != "" {
		words = append(words, "--lock-file", f.LockFile)
	}
	if f.Target != "" {
		words = append(words, "--target", f.Target)
	}
	for _, flag := range []struct {
		name   string
		values []string
	}{{"--platform", f.Platform}, {"--build-arg", f.BuildArg}, {"--build-context", f.BuildContext}} {
		for _, v := range flag.values {
			words = append(words, flag.name, shellWord(v))
		}
	}
	return attest.Redact(strings.Join(append(words, contextArg), " "))
}

// shellWord is v as a shell takes it, quoted only if it must be.
func shellWord(v string) string {
	if v != "" && !strings.ContainsAny(v, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
		return v
	}
	return "'" + strings.ReplaceAll(v, "'", `'\''`) + "'"
}
