package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// daemonLog and daemonPID name variables that tell the shim where to leave the daemon's log
// and process id: the tests keep a log in memory, which a hang takes with it.
const (
	daemonLog = "CONFORMANCE_DAEMON_LOG"
	daemonPID = "CONFORMANCE_DAEMON_PID"
)

// shim is the buildkitd that the tests start: it runs dbuild with the flags that dbuild has
// in place of those that the harness passes.
const shim = `#!/bin/sh
n=$#
while [ $n -gt 0 ]; do
  arg=$1; shift; n=$((n-1))
  case $arg in
    --oci-worker=true|--containerd-worker=false) ;;
    --oci-worker-gc=false) set -- "$@" --no-gc ;;
    --oci-worker-gc=true) ;;
    --oci-worker-snapshotter=*) set -- "$@" --snapshotter "${arg#*=}" ;;
    --oci-worker-labels=*) set -- "$@" --worker-label "${arg#*=}" ;;
    *) set -- "$@" "$arg" ;;
  esac
done
echo $$ >"${CONFORMANCE_DAEMON_PID:-/dev/null}"
exec %s daemon "$@" 2>>"${CONFORMANCE_DAEMON_LOG:-/dev/stderr}"
`

// daemonDir is the directory that is first in PATH of the tests, with the buildkitd and the
// buildctl to use.
func daemonDir(out, daemon, tools, dbuild string) (string, error) {
	if daemon == "stock" {
		return tools, nil
	}
	if _, err := os.Stat(dbuild); err != nil {
		return "", err
	}
	bin := filepath.Join(out, daemon)
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(bin, "buildkitd"), fmt.Appendf(nil, shim, dbuild), 0o755); err != nil {
		return "", err
	}
	link := filepath.Join(bin, "buildctl")
	os.Remove(link)
	return bin, os.Symlink(filepath.Join(tools, "buildctl"), link)
}
