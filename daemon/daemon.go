package daemon

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/dbuild/dbuild/cache/bolt"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile"
	"github.com/dbuild/dbuild/frontend/gateway"
	"github.com/dbuild/dbuild/history"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/git"
	"github.com/dbuild/dbuild/source/http"
	"github.com/dbuild/dbuild/source/image"
	"github.com/dbuild/dbuild/source/local"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/device"
	"github.com/dbuild/dbuild/worker/runc"
	apitypes "github.com/moby/buildkit/api/types"
)

// Package is how a dbuild daemon names itself to clients.
const Package = "github.com/dbuild/dbuild"

// Names of frontends.
const (
	dockerfileFrontend = "dockerfile.v0" // our own
	gatewayFrontend    = "gateway.v0"    // those that are images
)

// Version is set when the program is linked.
var Version = "0.0.0+unknown"

// A Daemon is one state directory and what serves it.
type Daemon struct {
	cfg       Config
	log       *slog.Logger
	store     *snapshot.Store
	cache     *bolt.Cache
	executor  *runc.Executor
	sessions  *session.Manager
	registry  *registry.Client
	worker    *worker.Worker
	workerID  string
	labels    map[string]string
	solver    *solver.Solver
	frontends map[string]frontend.Frontend
	gateway   *gateway.Forwarder
	history   *history.Journal
	removals  removals
	tracing   *tracing // nil: there is no collector
	admission *admission
	metrics   *metrics // nil: nobody can read them

	provenanceEnv map[string]any // what the operator wants to have in provenance; read-only

	mu     sync.Mutex
	builds map[string]*build
	ended  []finished
	added  chan struct{} // closed and replaced when a build is added
	active int           // requests being served
	idle   time.Time     // since when active is 0
	rest   chan struct{} // says that a request has ended; holds one
	gc     chan struct{} // asks for a collection; holds one
}

// New wires a daemon on cfg.Root. Only one can have the directory.
func New(ctx context.Context, cfg Config, log *slog.Logger) (_ *Daemon, err error) {
	d := &Daemon{
		cfg: cfg, log: log, builds: map[string]*build{}, added: make(chan struct{}), gc: make(chan struct{}, 1), idle: time.Now(),
		rest: make(chan struct{}, 1),
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.provenanceEnv, err = readProvenanceEnv(cfg.ProvenanceDir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d.sessions, err = session.NewManager()
	if err != nil {
		return nil, err
	}
	d.registry = registry.New(registry.Config{Hosts: cfg.Registries, Parallel: cfg.RegistryConcurrency, AskTimeout: cfg.SessionAuthTimeout}, d.sessions.BuildKit())
	d.store, err = snapshot.Open(ctx, snapshot.Config{Root: cfg.Root, Snapshotter: cfg.Snapshotter, Fetch: d.registry.Open})
	if err != nil {
		return nil, err
	}
	d.cache, err = bolt.New(d.store, worker.NewRef)
	if err != nil {
		return nil, err
	}
	if d.tracing, err = newTracing(ctx); err != nil {
		return nil, err
	}
	if err = d.openHistory(); err != nil {
		return nil, err
	}
	d.executor, err = runc.New(runc.Config{
		Root: filepath.Join(cfg.Root, "executor"), Runtime: cfg.OCIRuntime, Network: cfg.Network, DNS: runc.DNS(cfg.DNS),
		CgroupParent: cfg.CgroupParent, AppArmorProfile: cfg.AppArmorProfile,
		AllowNewPrivileges: true, // Dockerfiles that use sudo work elsewhere
	})
	if err != nil {
		return nil, err
	}
	for _, w := range d.executor.Warnings() {
		log.Warn(w)
	}
	if err := d.executor.Sweep(ctx); err != nil {
		return nil, err
	}
	if d.workerID, err = workerID(cfg.Root); err != nil {
		return nil, err
	}
	steps := filepath.Join(cfg.Root, "steps")
	if err := sweepSteps(steps); err != nil {
		return nil, err
	}
	runs, err := workerPlatforms(cfg.Platforms)
	if err != nil {
		return nil, err
	}
	images := image.New(image.Config{Registry: d.registry, Store: d.store, Sessions: d.sessions.BuildKit()})
	var devices *device.Devices
	if !cfg.Devices.Disabled {
		if devices, err = device.New(device.Config{SpecDirs: cfg.Devices.SpecDirs, AutoAllowed: cfg.Devices.AutoAllowed}); err != nil {
			return nil, err
		}
	}
	d.worker = worker.New(worker.Config{
		Root: steps, Store: d.store, Executor: d.executor, Sessions: d.sessions,
		Images:      images,
		Locals:      local.New(local.Config{Store: d.store, Sessions: d.sessions}),
		HTTP:        http.New(http.Config{Store: d.store, Sessions: d.sessions}),
		Git:         git.New(git.Config{Store: d.store, Sessions: d.sessions, Bundle: bundles(images)}),
		Platforms:   runs,
		Parallelism: cfg.MaxParallelism,
		Devices:     devices,
	})
	host, _ := os.Hostname()
	d.labels = map[string]string{
		"org.mobyproject.buildkit.worker.executor":    "oci",
		"org.mobyproject.buildkit.worker.hostname":    host,
		"org.mobyproject.buildkit.worker.snapshotter": d.store.Snapshotter(),
		"org.mobyproject.buildkit.worker.network":     d.executor.NetworkName(),
	}
	maps.Copy(d.labels, cfg.Labels)
	d.solver = solver.New(solver.Config{Cache: d.cache})
	if err := d.wireFrontends(); err != nil {
		return nil, err
	}
	d.gateway = gateway.NewForwarder()
	if cfg.DebugAddr != "" {
		if d.metrics, err = newMetrics(); err != nil {
			return nil, err
		}
	}
	d.admission = newAdmission(cfg.MaxBuilds)
	return d, nil
}

// Close ends the daemon. Builds must have ended.
func (d *Daemon) Close() error {
	var err error
	if d.executor != nil {
		err = d.executor.Close()
	}
	if d.history != nil {
		d.history.Close()
	}
	if e := d.tracing.close(); e != nil {
		d.log.Warn("some spans did not reach the collector", "err", e)
	}
	if d.store != nil {
		if e := d.store.Close(); err == nil {
			err = e
		}
	}
	return err
}

func buildkitVersion() *apitypes.BuildkitVersion {
	v := &apitypes.BuildkitVersion{Package: Package, Version: Version, DockerfileVersion: dockerfile.Version}
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	return v
}

// workerID returns the id of this state directory, making it the first time. It is part
// of the names of refs that users see.
func workerID(root string) (string, error) {
	path := filepath.Join(root, "workerid")
	b, err := os.ReadFile(path)
	if err == nil && len(b) > 0 {
		return string(b), nil
	}
	id := strings.ToLower(rand.Text())
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(id), 0o600); err != nil {
		return "", err
	}
	return id, os.Rename(tmp, path)
}
