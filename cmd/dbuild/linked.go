package main

// This file stands in for packages daemon, worker/runc and source/local until they
// compile; linked.go.real next to it is what replaces it.

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"syscall"
	"time"
)

const (
	daemonPackage = "github.com/dbuild/dbuild"
	statXattr     = "dbuild.stat"
)

func initContainer() {}

func version() string { return "0.0.0+unknown" }

type daemonGC struct {
	Disabled                                  bool
	ReservedSpace, MaxUsedSpace, MinFreeSpace int64
	KeepDuration                              time.Duration
}

type daemonConfig struct {
	Root           string
	Addrs          []string
	IdleTimeout    time.Duration
	OCIRuntime     string
	Snapshotter    string
	Network        string
	Debug          bool
	LogFormat      string
	MaxParallelism int
	Entitlements   []string
	InsecureTCP    bool
	GC             daemonGC
}

func runDaemon(context.Context, daemonConfig) error {
	return errors.New("not implemented: the daemon")
}

func clientStat(fi fs.FileInfo, _ time.Time) []byte {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(st.Dev))
	b = binary.LittleEndian.AppendUint64(b, st.Ino)
	return binary.LittleEndian.AppendUint64(b, uint64(st.Ctim.Nano()))
}
