package daemon

import (
	"context"
	"errors"
	"io"
	"maps"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/worker"
	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// control is the Control service of BuildKit's API, thin over Daemon.
type control struct {
	controlapi.UnimplementedControlServer
	d *Daemon
}

// Solve runs a build and answers when its exports are done.
func (c *control) Solve(ctx context.Context, req *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	r, err := newRequest(req)
	if err != nil {
		return nil, err
	}
	if r.cacheDirs, err = cacheDirs(ctx); err != nil {
		return nil, err
	}
	resp, err := c.d.Build(ctx, r)
	if err != nil {
		return nil, err
	}
	return &controlapi.SolveResponse{ExporterResponse: resp}, nil
}

// Status streams what a build shows, from its beginning to its end.
func (c *control) Status(req *controlapi.StatusRequest, srv controlapi.Control_StatusServer) error {
	if err := sendTime(srv); err != nil {
		return err
	}
	ctx := srv.Context()
	if done, err := c.replay(req.GetRef(), srv); done {
		return err
	}
	stream, err := c.d.find(ctx, req.GetRef())
	if err != nil {
		return err
	}
	r := stream.Reader()
	for {
		events, err := r.Next(ctx, 20*time.Millisecond)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, msg := range statusResponses(events) {
			if err := srv.Send(msg); err != nil {
				return err
			}
		}
	}
}

// Session carries the services that a client lends to its builds.
func (c *control) Session(srv controlapi.Control_SessionServer) error {
	return c.d.sessions.Handle(srv.Context(), srv)
}

// sendTime tells the client what the daemon's clock says.
func sendTime(srv grpc.ServerStream) error {
	return srv.SendHeader(metadata.Pairs("buildkit-current-timestamp", time.Now().UTC().Format(time.RFC3339Nano)))
}

// ListWorkers describes the one worker of this daemon.
func (c *control) ListWorkers(context.Context, *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	return &controlapi.ListWorkersResponse{Record: c.d.workers()}, nil
}

// Info says which program this is.
func (c *control) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: buildkitVersion()}, nil
}

func (d *Daemon) workers() []*apitypes.WorkerRecord {
	rec := &apitypes.WorkerRecord{ID: d.workerID, Labels: d.labels, BuildkitVersion: buildkitVersion()}
	for _, p := range d.worker.Platforms {
		rec.Platforms = append(rec.Platforms, pbPlatform(p))
	}
	if d.worker.Devices != nil {
		for _, dev := range d.worker.Devices.List() {
			rec.CDIDevices = append(rec.CDIDevices, &apitypes.CDIDevice{Name: dev.Name, AutoAllow: dev.AutoAllow, Annotations: dev.Annotations})
		}
	}
	for _, p := range d.gcPolicies() {
		rec.GCPolicy = append(rec.GCPolicy, &apitypes.GCPolicy{
			All: p.All, KeepDuration: int64(p.KeepDuration), Filters: p.Filters,
			ReservedSpace: p.ReservedSpace, MaxUsedSpace: p.MaxUsedSpace, MinFreeSpace: p.MinFreeSpace,
		})
	}
	return []*apitypes.WorkerRecord{rec}
}

func pbPlatform(p ocispec.Platform) *pb.Platform {
	return &pb.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

// DiskUsage lists what the cache keeps.
func (c *control) DiskUsage(ctx context.Context, req *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	records, err := c.d.store.Usage(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	resp := &controlapi.DiskUsageResponse{}
	for _, r := range records {
		if age := req.GetAgeLimit(); age > 0 && r.LastUsed != nil && time.Since(*r.LastUsed) < time.Duration(age) {
			continue
		}
		resp.Record = append(resp.Record, usageRecord(r))
	}
	return resp, nil
}

func usageRecord(r snapshot.Record) *controlapi.UsageRecord {
	return &controlapi.UsageRecord{
		ID: r.ID, Parents: r.Parents, Mutable: r.Mutable, InUse: r.InUse, Shared: r.Shared, Size: r.Size,
		CreatedAt: timestamppb.New(r.Created), LastUsedAt: stamp(r.LastUsed), UsageCount: int64(r.UsageCount),
		Description: r.Description, RecordType: r.Type,
	}
}

// Prune removes records that nothing uses and streams each.
func (c *control) Prune(req *controlapi.PruneRequest, srv controlapi.Control_PruneServer) error {
	var sendErr error
	removed := removal{by: "dbuild prune"}
	err := c.d.store.Prune(srv.Context(), snapshot.PruneOptions{
		Filters: req.GetFilter(), All: req.GetAll(), KeepDuration: time.Duration(req.GetKeepDuration()),
		ReservedSpace: req.GetReservedSpace(), MaxUsedSpace: req.GetMaxUsedSpace(), MinFreeSpace: req.GetMinFreeSpace(),
	}, func(r snapshot.Record) {
		removed.add(r)
		if sendErr == nil {
			sendErr = srv.Send(usageRecord(r))
		}
	})
	if wholesale(req) && err == nil {
		// Images keep their layers. That steps are answered with them nevertheless is not
		// what somebody wants who prunes everything.
		c.d.cache.Trim(time.Now().Add(time.Minute)) // all: times are in seconds
		removed.all = true
		err = c.d.store.Flush(srv.Context())
	}
	c.d.removals.add(removed)
	return errors.Join(err, sendErr)
}

// wholesale reports whether a request is to remove all that can be.
func wholesale(r *controlapi.PruneRequest) bool {
	return r.GetAll() && len(r.GetFilter()) == 0 && r.GetKeepDuration() == 0 &&
		r.GetReservedSpace() == 0 && r.GetMaxUsedSpace() == 0 && r.GetMinFreeSpace() == 0
}

// A request is a SolveRequest with its deprecated fields translated.
type request struct {
	id           string
	session      string
	frontend     string
	attrs        map[string]string
	definition   *pb.Definition
	inputs       map[string]*pb.Definition
	exporters    []*controlapi.Exporter
	imports      []*controlapi.CacheOptionsEntry
	exports      []*controlapi.CacheOptionsEntry
	entitlements []string
	policy       *spb.Policy
	// policySession is the session of a program that is asked about sources; "" is none.
	policySession string
	// compatibility is the version of BuildKit's behaviour that the client wants; 0 is the
	// newest.
	compatibility int64
	// chosenLate says that the client wants to name exporters when the result is known.
	chosenLate bool
	proxied    bool // steps have no network but a proxy
	internal   bool // for the client's own purposes
	plan       bool // nothing is to be made: what would be?
	// cacheDirs are directories that the client lends, by the id of the cache mount.
	cacheDirs map[string]worker.CacheDir
}

func newRequest(req *controlapi.SolveRequest) (*request, error) {
	r := &request{
		id: req.GetRef(), session: req.GetSession(), frontend: req.GetFrontend(), attrs: maps.Clone(req.GetFrontendAttrs()),
		definition: req.GetDefinition(), inputs: req.GetFrontendInputs(), exporters: req.GetExporters(),
		imports: req.GetCache().GetImports(), exports: req.GetCache().GetExports(), entitlements: req.GetEntitlements(),
		policy: req.GetSourcePolicy(), policySession: req.GetSourcePolicySession(), compatibility: req.GetCompatibilityVersion(), internal: req.GetInternal(),
		chosenLate: req.GetEnableSessionExporter(), proxied: req.GetProxyNetwork(),
	}
	r.plan = isPlan(r.attrs)
	r.internal = r.internal || r.plan
	if r.id == "" {
		return nil, status.Error(codes.InvalidArgument, "the build has no ref: set Ref to a unique id")
	}
	if len(r.exporters) == 0 && req.GetExporterDeprecated() != "" {
		r.exporters = []*controlapi.Exporter{{Type: req.GetExporterDeprecated(), Attrs: req.GetExporterAttrsDeprecated()}}
	}
	if len(r.imports) == 0 {
		for _, ref := range req.GetCache().GetImportRefsDeprecated() {
			r.imports = append(r.imports, &controlapi.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
		}
	}
	if ref := req.GetCache().GetExportRefDeprecated(); ref != "" && len(r.exports) == 0 {
		attrs := maps.Clone(req.GetCache().GetExportAttrsDeprecated())
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs["ref"] = ref
		r.exports = []*controlapi.CacheOptionsEntry{{Type: "registry", Attrs: attrs}}
	}
	epoch := r.attrs["build-arg:SOURCE_DATE_EPOCH"]
	if _, err := strconv.ParseInt(epoch, 10, 64); err != nil {
		epoch = "" // none, or for the frontend to find out
	}
	for i, e := range r.exporters {
		if _, set := e.GetAttrs()["source-date-epoch"]; e == nil || epoch == "" || set {
			continue
		}
		attrs := maps.Clone(e.Attrs)
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs["source-date-epoch"] = epoch
		r.exporters[i] = &controlapi.Exporter{Type: e.Type, Attrs: attrs}
	}
	return r, nil
}

// errNoBuild is what clients know as an unknown job.
func errNoBuild(id string) error {
	return errdefs.ErrNotFound.WithMessage("no such job " + id)
}
