package main

import (
	"context"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildkitdtoml"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/contextfs"
	"github.com/dbuild/dbuild/daemon"
	"github.com/dbuild/dbuild/source/local"
	"github.com/dbuild/dbuild/worker/runc"
)

// daemonPackage is how a daemon of ours names itself.
const daemonPackage = daemon.Package

// statXattr is the attribute in which such a daemon wants to be told of files' versions.
const statXattr = local.StatXattr

type (
	daemonConfig = daemon.Config
)

// initContainer makes this process a container if it was started to become one.
func initContainer() { runc.Init() }

func version() string { return daemon.Version }

func loadDaemonFile(path string, cfg *daemonConfig) (warnings []string, err error) {
	return buildkitdtoml.Load(path, cfg)
}

func runDaemon(ctx context.Context, cfg daemonConfig) error { return daemon.Run(ctx, cfg) }

func clientStat(b []byte, v contextfs.Version) []byte {
	return local.AppendClientStat(b, v.Dev, v.Ino, v.Changed, v.Size, v.Seen)
}
