package runc

import (
	"context"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/dbuild/dbuild/worker/runc/usage"
)

// cgroupTimeout bounds the removal of an empty cgroup.
const cgroupTimeout = 3 * time.Second

// measure records what a run uses. It is done in a cgroup around that of the container, which
// the runtime removes: what was used in it remains known. The function that it returns must be
// called after the run.
func (e *Executor) measure(ctx context.Context, cgroup string, counters func() (netlink.LinkStatistics, bool), measured func([]usage.Sample)) (done func()) {
	from := usage.Cgroup{Root: cgroupRoot, Path: cgroup, Unified: e.cgroups.unified}
	r := usage.Record(func() usage.Sample {
		s := from.Read()
		if c, ok := counters(); ok {
			s.Net = &usage.Net{
				RxBytes: c.RxBytes, RxPackets: c.RxPackets, RxErrors: c.RxErrors, RxDropped: c.RxDropped,
				TxBytes: c.TxBytes, TxPackets: c.TxPackets, TxErrors: c.TxErrors, TxDropped: c.TxDropped,
			}
		}
		return s
	})
	return func() {
		measured(r.Samples())
		r.Stop()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cgroupTimeout)
		defer cancel()
		_ = e.cgroups.killStep(ctx, cgroup) // what is left is removed by the next Sweep
	}
}
