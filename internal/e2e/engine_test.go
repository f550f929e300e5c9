package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdDockerd starts docker's engine, with a graph driver, and sets DOCKER_HOST.
func cmdDockerd(ts *testscript.TestScript, _ bool, _ []string) {
	dir, path := filepath.Join(get(ts).dir, "dockerd"), enginePath(ts)
	host := "unix://" + filepath.Join(dir, "s")
	p := exec.Command(filepath.Join(ts.Getenv("TOOLS"), "engine/usr/sbin/dockerd"), "--host", host,
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "x"), "--pidfile", filepath.Join(dir, "pid"),
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
	p.Env = append(os.Environ(), path)           // it starts a containerd
	stop, err := startPeer(dir, p, func() bool { // who asks before it is ready has to wait
		c, err := net.Dial("unix", strings.TrimPrefix(host, "unix://"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	ts.Check(err)
	ts.Defer(stop)
	ts.Setenv("DOCKER_HOST", host)
}

// cmdContainerd starts a containerd and sets CONTAINERD_ADDRESS and CTR, the command that
// talks to it.
func cmdContainerd(ts *testscript.TestScript, _ bool, _ []string) {
	dir, path := filepath.Join(get(ts).dir, "containerd"), enginePath(ts)
	ts.Check(os.MkdirAll(dir, 0o700))
	sock := filepath.Join(dir, "s")
	config := filepath.Join(dir, "config.toml")
	ts.Check(os.WriteFile(config, fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = %q
[ttrpc]
address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), sock, sock+".ttrpc"), 0o600))
	bin := filepath.Join(ts.Getenv("TOOLS"), "engine/usr/bin")
	p := exec.Command(filepath.Join(bin, "containerd"), "--config", config)
	p.Env = append(os.Environ(), path)
	stop, err := startPeer(dir, p, func() bool { return exec.Command(filepath.Join(bin, "ctr"), "-a", sock, "version").Run() == nil })
	ts.Check(err)
	ts.Defer(stop)
	ts.Setenv("CONTAINERD_ADDRESS", sock)
	ts.Setenv("CTR", filepath.Join(bin, "ctr"))
}

// enginePath is a PATH on which the engines find what belongs to them.
func enginePath(ts *testscript.TestScript) string {
	return "PATH=" + filepath.Join(ts.Getenv("TOOLS"), "engine/usr/bin") + ":" + os.Getenv("PATH")
}
