package runc_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/network"
	"github.com/dbuild/dbuild/worker/runc/usage"
)

func TestUsageIsMeasured(t *testing.T) {
	for _, runtime := range []string{"", "runc", "crun"} {
		t.Run("runtime "+runtime, func(t *testing.T) {
			e := newExecutor(t, runc.Config{Runtime: runtime, Network: network.Config{Mode: network.Bridge}})
			id := newID()
			var got []usage.Sample
			_, err := sh(t, e, runc.Process{ID: id, Rootfs: newRootfs(t), Measured: func(list []usage.Sample) { got = list }},
				"dd if=/dev/zero of=/tmp/f bs=1048576 count=20 2>/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; "+
					"ping -c 1 -W 5 $(ip route | awk '/default/{print $3}') >/dev/null; exit 0")
			must(t, err)
			if len(got) == 0 {
				t.Fatal("nothing was measured")
			}
			last := got[len(got)-1]
			if last.CPU == nil || *last.CPU.Usage == 0 || last.Memory == nil || last.Memory.Peak == nil || *last.Memory.Peak < 10<<20 {
				t.Errorf("cpu %+v, memory %+v", last.CPU, last.Memory)
			}
			if last.Net == nil || last.Net.TxBytes == 0 {
				t.Errorf("net %+v", last.Net)
			}
			for _, pattern := range []string{"/sys/fs/cgroup/dbuild-*/" + id, "/sys/fs/cgroup/*/dbuild-*/" + id} {
				if left, _ := filepath.Glob(pattern); len(left) > 0 {
					t.Errorf("left: %s", strings.Join(left, " "))
				}
			}
		})
	}
}
