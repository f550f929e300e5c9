package usage

import (
	"time"

	"github.com/prometheus/procfs"
)

// A System is what the whole machine does, and has done since it was started.
type System struct {
	Timestamp      time.Time     `json:"timestamp"`
	CPU            *SystemCPU    `json:"cpuStat,omitempty"`
	Processes      *Processes    `json:"procStat,omitempty"`
	Memory         *SystemMemory `json:"memoryStat,omitempty"`
	CPUPressure    *Pressure     `json:"cpuPressure,omitempty"`
	MemoryPressure *Pressure     `json:"memoryPressure,omitempty"`
	IOPressure     *Pressure     `json:"ioPressure,omitempty"`
}

// SystemCPU is time of all processors since the start, in seconds.
type SystemCPU struct {
	User      float64 `json:"user"`
	Nice      float64 `json:"nice"`
	System    float64 `json:"system"`
	Idle      float64 `json:"idle"`
	Iowait    float64 `json:"iowait"`
	IRQ       float64 `json:"irq"`
	SoftIRQ   float64 `json:"softirq"`
	Steal     float64 `json:"steal"`
	Guest     float64 `json:"guest"`
	GuestNice float64 `json:"guestNice"`
}

// Processes counts.
type Processes struct {
	ContextSwitches  uint64 `json:"contextSwitches"`
	ProcessCreated   uint64 `json:"processCreated"`
	ProcessesRunning uint64 `json:"processesRunning"`
}

// SystemMemory is in bytes.
type SystemMemory struct {
	Total     *uint64 `json:"total"`
	Free      *uint64 `json:"free"`
	Available *uint64 `json:"available"`
	Buffers   *uint64 `json:"buffers"`
	Cached    *uint64 `json:"cached"`
	Active    *uint64 `json:"active"`
	Inactive  *uint64 `json:"inactive"`
	Swap      *uint64 `json:"swap"`
	Dirty     *uint64 `json:"dirty"`
	Writeback *uint64 `json:"writeback"`
	Slab      *uint64 `json:"slab"`
}

// ReadSystem returns what /proc says; parts that it does not have are left out.
func ReadSystem() System {
	out := System{Timestamp: time.Now()}
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return out
	}
	if s, err := proc.Stat(); err == nil {
		c := s.CPUTotal
		out.CPU = &SystemCPU{c.User, c.Nice, c.System, c.Idle, c.Iowait, c.IRQ, c.SoftIRQ, c.Steal, c.Guest, c.GuestNice}
		out.Processes = &Processes{s.ContextSwitches, s.ProcessCreated, s.ProcessesRunning}
	}
	if m, err := proc.Meminfo(); err == nil {
		out.Memory = &SystemMemory{
			m.MemTotalBytes, m.MemFreeBytes, m.MemAvailableBytes, m.BuffersBytes, m.CachedBytes, m.ActiveBytes, m.InactiveBytes,
			m.SwapTotalBytes, m.DirtyBytes, m.WritebackBytes, m.SlabBytes,
		}
	}
	out.CPUPressure, out.MemoryPressure, out.IOPressure = systemPressure(proc, "cpu"), systemPressure(proc, "memory"), systemPressure(proc, "io")
	return out
}

func systemPressure(proc procfs.FS, resource string) *Pressure {
	p, err := proc.PSIStatsForResource(resource)
	if err != nil {
		return nil
	}
	waiting := func(l *procfs.PSILine) *Waiting {
		if l == nil {
			return nil
		}
		return &Waiting{l.Avg10, l.Avg60, l.Avg300, l.Total}
	}
	return &Pressure{Some: waiting(p.Some), Full: waiting(p.Full)}
}
