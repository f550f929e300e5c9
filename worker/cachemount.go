package worker

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// A CacheMount names the directory of a cache mount so that it means the same on every
// machine.
type CacheMount struct {
	ID string // with its namespace: "NAMESPACE/ID"
	// Base is the operation that makes what the directory starts with; "" if it starts empty.
	// It has the owner and the mode that a Dockerfile gives to the mount.
	Base digest.Digest
}

// Name is what people call the mount.
func (m CacheMount) Name() string { return strings.TrimPrefix(m.ID, "/") }

// A CacheUse is how a step uses a cache mount.
type CacheUse struct {
	CacheMount
	Sharing snapshot.Sharing
	// Bound says that the directory starts with files of an image, a stage or a client, which
	// are not known to be the same elsewhere.
	Bound bool
}

// CacheUses returns how an operation uses cache mounts.
func CacheUses(v *llb.Vertex) []CacheUse {
	var out []CacheUse
	for _, m := range v.Op.GetExec().GetMounts() {
		if m.MountType == pb.MountType_CACHE {
			out = append(out, cacheUse(v, m))
		}
	}
	return out
}

func cacheUse(v *llb.Vertex, m *pb.Mount) CacheUse {
	use := CacheUse{CacheMount: CacheMount{ID: m.CacheOpt.GetID()}, Sharing: sharings[m.CacheOpt.GetSharing()]}
	if n := input(m); n >= 0 {
		base := v.Inputs[n]
		use.Base = base.Vertex.Digest
		use.Bound = base.Vertex.Op.GetFile() == nil || len(base.Vertex.Inputs) > 0 || base.Output != 0
	}
	return use
}

// portable are the cache mounts of an operation that are not Bound; nil if there are none.
func portable(v *llb.Vertex) map[*pb.Mount]CacheUse {
	var out map[*pb.Mount]CacheUse
	for _, m := range v.Op.GetExec().GetMounts() {
		if m.MountType != pb.MountType_CACHE {
			continue
		}
		if use := cacheUse(v, m); !use.Bound {
			if out == nil {
				out = map[*pb.Mount]CacheUse{}
			}
			out[m] = use
		}
	}
	return out
}

var sharings = map[pb.CacheSharingOpt]snapshot.Sharing{
	pb.CacheSharingOpt_SHARED:  snapshot.Shared,
	pb.CacheSharingOpt_PRIVATE: snapshot.Private,
	pb.CacheSharingOpt_LOCKED:  snapshot.Locked,
}

// metaBase is where the directory of a cache mount says what its Base is.
const metaBase = "cachemount.base"

// CacheDirs returns the directories that hold a cache mount here, the one used last first:
// more than one if it is private.
func (w *Worker) CacheDirs(ctx context.Context, use CacheUse) ([]snapshot.DirInfo, error) {
	all, err := w.Store.Dirs(ctx, use.ID, snapshot.TypeCacheMount)
	if err != nil {
		return nil, err
	}
	var out []snapshot.DirInfo
	for _, d := range all {
		if string(d.Meta[metaBase]) == use.Base.String() && (d.Based == (use.Base != "")) {
			out = append(out, d)
		}
	}
	return out, nil
}

// A CacheSeeder is a Client who may have cache mounts from elsewhere.
type CacheSeeder interface {
	Client
	// CacheSeeds are what the directory of a mount may start with if it is not here, the best
	// first.
	CacheSeeds(CacheMount) []snapshot.Seed
}

// seeds are what the builds behind d bring along for a cache mount.
func seeds(d solver.Demand, m CacheMount) []snapshot.Seed {
	if d == nil {
		return nil // a container of a frontend
	}
	for j := range d.Jobs() {
		if s, ok := j.Value().(CacheSeeder); ok {
			if list := s.CacheSeeds(m); len(list) > 0 {
				return list
			}
		}
	}
	return nil
}

// seed begins to make those cache mounts that are not here as they were elsewhere, if a
// build brings them along: while other things are mounted, as the root may have to be pulled,
// too. done waits for it; stop gives up what is not done.
func (m *mounting) seed(ctx context.Context, mounts []*pb.Mount, in []solver.Ref) (done func() error, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	for _, mt := range mounts {
		use, ok := m.uses[mt]
		if !ok || m.anew {
			continue
		}
		list := seeds(m.demand, use.CacheMount)
		if len(list) == 0 {
			continue
		}
		if _, lent := cacheDir(m.demand, use.ID); lent {
			continue
		}
		var ref solver.Ref
		if n := input(mt); n >= 0 {
			ref = in[n]
		}
		g.Go(func() error { return m.plant(ctx, mt, ref, list) })
	}
	done = sync.OnceValue(g.Wait)
	return done, func() {
		cancel()
		_ = done()
	}
}

// plant tries one seed after the other. What cannot be had is a warning.
func (m *mounting) plant(ctx context.Context, mt *pb.Mount, ref solver.Ref, list []snapshot.Seed) error {
	key, base, err := m.startOf(ctx, mt, ref)
	if err != nil {
		return err
	}
	defer base.Release()
	for _, seed := range list {
		err := m.w.Store.SeedDir(ctx, key, m.describe(mt), base, seed, m.access)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			return nil
		}
		m.access.Log.Warn(progress.Warning{Level: 1, Short: fmt.Appendf(nil, "cache mount %s was not imported: %v", seed.Name, err)})
	}
	return nil
}
