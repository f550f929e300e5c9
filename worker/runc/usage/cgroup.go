package usage

import (
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
)

// Cgroup reads a cgroup: its path below root, where the hierarchies of version 1 are, or the
// one of version 2 if unified.
type Cgroup struct {
	Root, Path string
	Unified    bool
}

// controllers are the hierarchies of version 1 that are read.
var controllers = []string{"cpu", "cpuacct", "memory", "blkio", "pids"}

// wanted leaves out the controllers of which nothing is shown.
var wanted = &cgroups.StatsOptions{Controllers: cgroups.CPU | cgroups.Memory | cgroups.IO | cgroups.Pids}

// Read returns what the cgroup says; parts that it does not have are left out.
func (c Cgroup) Read() Sample {
	out := Sample{Timestamp: time.Now()}
	s, has := c.stats()
	if s == nil {
		return out
	}
	if has["cpuacct"] {
		out.CPU = cpu(s)
	}
	if has["memory"] {
		out.Memory = c.memory(s)
	}
	if has["blkio"] {
		out.IO = io(s)
	}
	if has["pids"] {
		out.PIDs = &PIDs{Current: &s.PidsStats.Current}
	}
	return out
}

// stats reads what it can. has are the controllers, by their names in version 1.
func (c Cgroup) stats() (s *cgroups.Stats, has map[string]bool) {
	has = map[string]bool{}
	config := &cgroups.Cgroup{Resources: &cgroups.Resources{}}
	if c.Unified {
		dir := filepath.Join(c.Root, c.Path)
		m, err := fs2.NewManager(config, dir)
		if err != nil {
			return nil, nil
		}
		s, _ = m.Stats(wanted) // what it cannot read is missing
		for name, file := range map[string]string{"cpuacct": "cpu.stat", "memory": "memory.current", "blkio": "io.stat", "pids": "pids.current"} {
			_, err := os.Stat(filepath.Join(dir, file))
			has[name] = err == nil
		}
		return s, has
	}
	paths := map[string]string{}
	for _, name := range controllers {
		dir := filepath.Join(c.Root, name, c.Path)
		if _, err := os.Stat(dir); err == nil {
			paths[name], has[name] = dir, true
		}
	}
	m, err := fs.NewManager(config, paths)
	if err != nil {
		return nil, nil
	}
	s, err = m.Stats(wanted)
	if err != nil {
		return nil, nil
	}
	return s, has
}

func cpu(s *cgroups.Stats) *CPU {
	u, t := &s.CpuStats.CpuUsage, &s.CpuStats.ThrottlingData
	out := &CPU{Usage: &u.TotalUsage, User: &u.UsageInUsermode, System: &u.UsageInKernelmode, Pressure: pressure(s.CpuStats.PSI)}
	if t.Periods > 0 {
		out.Periods, out.ThrottledPeriods, out.Throttled = &t.Periods, &t.ThrottledPeriods, &t.ThrottledTime
	}
	return out
}

func (c Cgroup) memory(s *cgroups.Stats) *Memory {
	m := &s.MemoryStats
	// The names of version 2, and those of version 1 with what is in cgroups below counted in.
	get := func(name, old string) *uint64 {
		if !c.Unified {
			name = old
		}
		if v, ok := m.Stats[name]; ok {
			return &v
		}
		return nil
	}
	out := &Memory{
		Anon: get("anon", "total_rss"), File: get("file", "total_cache"), Shmem: get("shmem", "total_shmem"),
		FileMapped: get("file_mapped", "total_mapped_file"), FileDirty: get("file_dirty", "total_dirty"),
		FileWriteback: get("file_writeback", "total_writeback"), Swap: get("", "total_swap"),
		Kernel: get("kernel", ""), KernelStack: get("kernel_stack", ""), PageTables: get("pagetables", ""),
		Sock: get("sock", ""), Slab: get("slab", ""), Pgscan: get("pgscan", ""), Pgsteal: get("pgsteal", ""),
		Pgfault: get("pgfault", "total_pgfault"), Pgmajfault: get("pgmajfault", "total_pgmajfault"),
		Pressure: pressure(m.PSI),
	}
	if m.Usage.MaxUsage > 0 {
		out.Peak = &m.Usage.MaxUsage
	}
	if c.Unified {
		out.Swap = &m.SwapOnlyUsage.Usage
	}
	if !c.Unified && m.KernelUsage.Usage > 0 {
		out.Kernel = &m.KernelUsage.Usage
	}
	return out
}

func io(s *cgroups.Stats) *IO {
	b := &s.BlkioStats
	// op is the sum of all devices. Version 1 begins its names with capitals.
	op := func(list []cgroups.BlkioStatEntry, names ...string) *uint64 {
		var sum uint64
		for _, e := range list {
			if e.Op == names[0] || e.Op == names[1] {
				sum += e.Value
			}
		}
		return &sum
	}
	return &IO{
		ReadBytes: op(b.IoServiceBytesRecursive, "Read", "read"), WriteBytes: op(b.IoServiceBytesRecursive, "Write", "write"),
		DiscardBytes: op(b.IoServiceBytesRecursive, "Discard", "discard"),
		ReadIOs:      op(b.IoServicedRecursive, "Read", "read"), WriteIOs: op(b.IoServicedRecursive, "Write", "write"),
		DiscardIOs: op(b.IoServicedRecursive, "Discard", "discard"), Pressure: pressure(b.PSI),
	}
}

func pressure(p *cgroups.PSIStats) *Pressure {
	if p == nil {
		return nil
	}
	return &Pressure{Some: (*Waiting)(&p.Some), Full: (*Waiting)(&p.Full)}
}
