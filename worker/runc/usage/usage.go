// Package usage measures what steps use of the machine, from the cgroup around each and the
// network devices it has. Its documents have the form of BuildKit's: samples in the course of
// a step, and one at its end.
package usage

import "time"

// A Sample is what a step has used up to a time, and what it uses then. What the kernel does
// not say is left out.
type Sample struct {
	Timestamp time.Time `json:"timestamp"`
	CPU       *CPU      `json:"cpuStat,omitempty"`
	Memory    *Memory   `json:"memoryStat,omitempty"`
	IO        *IO       `json:"ioStat,omitempty"`
	PIDs      *PIDs     `json:"pidsStat,omitempty"`
	Net       *Net      `json:"netStat,omitempty"`
}

// CPU is time of processors, in nanoseconds.
type CPU struct {
	Usage            *uint64   `json:"usageNanos,omitempty"`
	User             *uint64   `json:"userNanos,omitempty"`
	System           *uint64   `json:"systemNanos,omitempty"`
	Periods          *uint64   `json:"nrPeriods,omitempty"` // of a limit
	ThrottledPeriods *uint64   `json:"nrThrottled,omitempty"`
	Throttled        *uint64   `json:"throttledNanos,omitempty"`
	Pressure         *Pressure `json:"pressure,omitempty"`
}

// Memory is in bytes, except for the counts of pages at its end. Peak is the most there was at
// once, files in memory included.
type Memory struct {
	Swap          *uint64   `json:"swapBytes,omitempty"`
	Anon          *uint64   `json:"anon,omitempty"`
	File          *uint64   `json:"file,omitempty"`
	Kernel        *uint64   `json:"kernel,omitempty"`
	KernelStack   *uint64   `json:"kernelStack,omitempty"`
	PageTables    *uint64   `json:"pageTables,omitempty"`
	Sock          *uint64   `json:"sock,omitempty"`
	Shmem         *uint64   `json:"shmem,omitempty"`
	FileMapped    *uint64   `json:"fileMapped,omitempty"`
	FileDirty     *uint64   `json:"fileDirty,omitempty"`
	FileWriteback *uint64   `json:"fileWriteback,omitempty"`
	Slab          *uint64   `json:"slab,omitempty"`
	Pgscan        *uint64   `json:"pgscan,omitempty"`
	Pgsteal       *uint64   `json:"pgsteal,omitempty"`
	Pgfault       *uint64   `json:"pgfault,omitempty"`
	Pgmajfault    *uint64   `json:"pgmajfault,omitempty"`
	Peak          *uint64   `json:"peak,omitempty"`
	Pressure      *Pressure `json:"pressure,omitempty"`
}

// IO is what went from and to block devices: bytes and operations.
type IO struct {
	ReadBytes    *uint64   `json:"readBytes,omitempty"`
	WriteBytes   *uint64   `json:"writeBytes,omitempty"`
	DiscardBytes *uint64   `json:"discardBytes,omitempty"`
	ReadIOs      *uint64   `json:"readIOs,omitempty"`
	WriteIOs     *uint64   `json:"writeIOs,omitempty"`
	DiscardIOs   *uint64   `json:"discardIOs,omitempty"`
	Pressure     *Pressure `json:"pressure,omitempty"`
}

// PIDs counts processes and threads.
type PIDs struct {
	Current *uint64 `json:"current,omitempty"`
}

// Net is what went through the devices of the step's network, but for the loopback.
type Net struct {
	RxBytes   uint64 `json:"rxBytes,omitempty"`
	RxPackets uint64 `json:"rxPackets,omitempty"`
	RxErrors  uint64 `json:"rxErrors,omitempty"`
	RxDropped uint64 `json:"rxDropped,omitempty"`
	TxBytes   uint64 `json:"txBytes,omitempty"`
	TxPackets uint64 `json:"txPackets,omitempty"`
	TxErrors  uint64 `json:"txErrors,omitempty"`
	TxDropped uint64 `json:"txDropped,omitempty"`
}

// Pressure is how much of the time some, or all, had to wait for a resource: averages in
// percent, and the total in microseconds.
type Pressure struct {
	Some *Waiting `json:"some"`
	Full *Waiting `json:"full"`
}

// Waiting is a part of Pressure.
type Waiting struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}
