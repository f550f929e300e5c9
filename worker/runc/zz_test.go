package runc_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/network"
)

func usage() float64 {
	b, _ := os.ReadFile("/sys/fs/cgroup/cpuacct/dbbench/cpuacct.usage")
	n, _ := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	return n / 1e6
}

func TestZZ(t *testing.T) {
	if os.Getenv("ZZ") == "" {
		return
	}
	for _, d := range []string{"cpuacct"} {
		os.Mkdir("/sys/fs/cgroup/"+d+"/dbbench", 0o755)
		os.WriteFile("/sys/fs/cgroup/"+d+"/dbbench/cgroup.procs", []byte("0"), 0)
	}
	for _, mode := range strings.Fields(os.Getenv("ZZ")) {
		rt, m, _ := strings.Cut(mode, "/")
		e := newExecutor(t, runc.Config{Runtime: rt, CgroupParent: "/dbbench", Network: network.Config{Mode: m}})
		rootfs := newRootfs(t)
		var took []time.Duration
		run := func() {
			s := time.Now()
			if err := e.Run(context.Background(), runc.Process{ID: newID(), Rootfs: rootfs, Args: []string{"/bin/true"}}); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(s))
		}
		run()
		u := usage()
		n := 100
		for range n {
			run()
		}
		fmt.Printf("%-16s cpu %.2f ms  ", mode, (usage()-u)/float64(n))
		slices.Sort(took)
		fmt.Println("p10", took[len(took)/10], "p50", took[len(took)/2])
	}
}
