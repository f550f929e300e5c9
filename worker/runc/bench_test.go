package runc_test

import (
	"context"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/network"
)

// BenchmarkTrue measures the least that a step can take, with each runtime and network.
func BenchmarkTrue(b *testing.B) {
	for _, runtime := range []string{"", "runc", "crun"} {
		name := runtime
		if name == "" {
			name = "linked"
		} else if _, err := exec.LookPath(runtime); err != nil {
			continue
		}
		for _, mode := range []string{network.Host, network.None, network.Bridge} {
			b.Run(name+"/"+mode, func(b *testing.B) {
				e := newExecutor(b, runc.Config{Runtime: runtime, Network: network.Config{Mode: mode}})
				benchmarkTrue(b, e, pb.SecurityMode_SANDBOX)
			})
		}
		b.Run(name+"/insecure", func(b *testing.B) {
			benchmarkTrue(b, newExecutor(b, runc.Config{Runtime: runtime}), pb.SecurityMode_INSECURE)
		})
	}
}

func benchmarkTrue(b *testing.B, e *runc.Executor, security pb.SecurityMode) {
	rootfs := newRootfs(b)
	run := func() {
		if err := e.Run(context.Background(), runc.Process{ID: newID(), Rootfs: rootfs, Args: []string{"/bin/true"}, Security: security}); err != nil {
			b.Fatal(err)
		}
	}
	run()
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		run()
		took = append(took, time.Since(start))
	}
	// What else the machine does makes the mean a poor measure.
	slices.Sort(took)
	b.ReportMetric(took[len(took)/10].Seconds()*1000, "p10-ms")
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "p50-ms")
}
