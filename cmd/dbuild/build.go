package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/buildkit/client"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
)

// hostGatewayLabel is where a worker tells its machine's address as builds see it.
const hostGatewayLabel = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"

// buildUntilDone checks the request, finds a daemon, lends it what it needs, shows progress
// and writes down the result. What becomes known on the way is in r.
func (a *app) buildUntilDone(ctx context.Context, f *buildflags.Flags, contextArg string, files resultFiles, r *running) error {
	if strings.Contains(f.Builder, "://") && a.addr == "" {
		a.addr = f.Builder
	}
	mode, err := a.progressMode(f)
	if err != nil {
		return err
	}
	dockerConfig := config.LoadDefaultConfigFile(a.stderr)
	req, err := f.Request(contextArg, a.requestEnv(ctx, dockerConfig))
	if err != nil {
		return unknownContext(err)
	}
	if !f.Quiet {
		for _, n := range req.Notices {
			a.note("%s", n)
		}
	}
	outputs, err := a.openOutputs(ctx, req.Exports, dockerConfig)
	if err != nil {
		return err
	}
	defer outputs.discard()
	a.silenceLibraries()
	lent, err := a.lend(ctx, req, dockerConfig)
	if err != nil {
		return err
	}
	defer lent.close()
	first := a.localFirst(lent, req.LocalImages, dockerConfig)
	if first != nil && a.sources != nil {
		return errLocalSources
	}

	d, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := a.adapt(ctx, d, req); err != nil {
		return err
	}
	if req.RemainsCached && a.planned == nil {
		a.warn("no output was asked for with -t, -o, --push or --load: the result stays in the build cache")
	}
	opt, err := solveOpt(d, req, lent, outputs)
	if err != nil {
		return err
	}
	if opt.SourcePolicy, err = a.sourcePolicy(); err != nil {
		return err
	}
	if a.sources != nil {
		opt.SourcePolicyProvider = a.sources.Provider()
	} else if f.Locked {
		if err := enforceLock(f, req, contextArg, &opt); err != nil {
			return err
		}
	} else if first != nil {
		opt.SourcePolicyProvider = first
	}
	if ctx, err = lendCacheDirs(ctx, d, req.CacheMounts); err != nil {
		return err
	}
	stop, err := openLanes(ctx, d, &opt)
	if err != nil {
		return err
	}
	defer stop()
	p, err := a.startProgress(mode, f.Debug)
	if err != nil {
		return err
	}
	r.ref, r.progress = opt.Ref, p
	if req.Call.Method != "" {
		return a.call(ctx, d, req.Call, dockerfilePath(req), opt, p)
	}
	if a.planned != nil {
		return a.plan(ctx, d, opt, p)
	}
	made := a.startFacts(ctx, req, lent, files, func(ctx context.Context) (*facts, digest.Digest, error) {
		return remoteFacts(ctx, d, lent, opt)
	})
	defer made.wait()
	if req.NamesBuildID {
		f, err := made.result()
		if err != nil {
			close(p.updates)
			p.wait()
			return err
		}
		req.SetBuildID(f.context.Encoded())
	}
	resp, err := d.Solve(ctx, nil, opt, p.updates)
	p.wait()
	if f.Explain && ctx.Err() == nil {
		defer a.printExplanation(ctx, d, opt.Ref)
	}
	if err == nil {
		err = outputs.commit(ctx)
	} else if oerr := outputs.err(); oerr != nil && ctx.Err() == nil {
		err = oerr // the daemon only knows that we stopped reading
	}
	if err != nil {
		p.printTail(a.stderr)
		p.printWarnings(a.stderr)
		var ids []string
		for _, s := range req.Secrets {
			ids = append(ids, s.ID)
		}
		return nearSecret(err, ids)
	}
	p.printWarnings(a.stderr)
	if err := made.add(a, resp, files.bid != ""); err != nil {
		return err
	}
	r.response = resp.ExporterResponse
	return a.finish(files, f.Quiet, opt.Ref, resp.ExporterResponse)
}

// finish writes the result's files and, with -q, the image id.
func (a *app) finish(files resultFiles, quiet bool, ref string, resp map[string]string) error {
	if err := files.write(ref, resp); err != nil {
		return err
	}
	if quiet {
		if id := imageID(resp); id != "" {
			fmt.Fprintln(a.stdout, id)
		}
	}
	return nil
}

// adapt fits the request to the daemon that was found.
func (a *app) adapt(ctx context.Context, d *daemonConn, req *buildflags.Request) error {
	if err := adaptIgnoreFiles(d, req); err != nil {
		return err
	}
	if err := a.adaptOutputs(d, req); err != nil {
		return err
	}
	if err := checkProxyNetwork(d, req); err != nil {
		return err
	}
	if !req.HostGateway {
		return nil
	}
	workers, err := d.ListWorkers(ctx)
	if err != nil {
		return err
	}
	ip := ""
	for _, w := range workers {
		ip = w.Labels[hostGatewayLabel]
	}
	return req.ResolveHostGateway(ip)
}

// adaptIgnoreFiles refuses what only our frontend knows: ignore files that the client cannot
// put beside the Dockerfile.
func adaptIgnoreFiles(d *daemonConn, req *buildflags.Request) error {
	if d.ours() {
		return nil
	}
	for attr := range req.Attrs {
		name, ok := strings.CutPrefix(attr, buildflags.AttrIgnoreFile)
		if ok && (name != buildflags.LocalContext || req.Context != buildflags.FromDir) {
			return fmt.Errorf("--ignorefile: this daemon (%s) takes none for the context %s", d.info.Package, name)
		}
	}
	return nil
}

// solveOpt is the request in the terms of the client library.
func solveOpt(d *daemonConn, req *buildflags.Request, l *lent, out *outputs) (client.SolveOpt, error) {
	opt := client.SolveOpt{
		Ref:                 strings.ToLower(rand.Text()),
		Frontend:            dockerfileFrontend,
		FrontendAttrs:       req.Attrs,
		Exports:             out.entries,
		CacheImports:        req.CacheFrom,
		CacheExports:        req.CacheTo,
		AllowedEntitlements: req.Entitlements,
		ProxyNetwork:        req.ProxyNetwork,
		Session:             l.session,
		OCIStores:           l.stores,
		SharedKey:           l.sharedKey,
	}
	if len(out.engines) > 0 {
		opt.Session = append(slices.Clone(opt.Session), answerLoads(out.engines))
	}
	if err := sayWhatIsThere(opt.CacheExports); err != nil {
		return opt, err
	}
	var err error
	opt.LocalMounts, err = l.mounts(d.ours())
	return opt, err
}

// sourcePolicy reads the policy that EXPERIMENTAL_BUILDKIT_SOURCE_POLICY names.
func (a *app) sourcePolicy() (*spb.Policy, error) {
	const variable = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"
	path, _ := a.lookup(variable)
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	policy := &spb.Policy{}
	if err := json.Unmarshal(b, policy); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", variable, path, err)
	}
	return policy, nil
}

// proxies returns the build arguments that the docker configuration has for proxies.
func proxies(c *configfile.ConfigFile) map[string]*string {
	return c.ParseProxyConfig("default", nil)
}

// unknownContext adds that a missing context may have been meant as a command.
func unknownContext(err error) error {
	var missing *buildflags.MissingContextError
	if !errors.As(err, &missing) {
		return err
	}
	commands := []string{"build", "completion", "context", "daemon", "debug", "du", "explain", "hash", "lock", "plan", "prune", "verify", "version"}
	if s := nearestCommand(missing.Path, commands); s != "" {
		return fmt.Errorf("%w; did you mean \"dbuild %s\"?", err, s)
	}
	return err
}

// temporary makes a directory that close removes.
func (l *lent) temporary() (string, error) {
	dir, err := os.MkdirTemp("", "dbuild-")
	if err != nil {
		return "", fmt.Errorf("directory for temporary files: %w", err)
	}
	l.temps = append(l.temps, dir)
	return dir, nil
}
