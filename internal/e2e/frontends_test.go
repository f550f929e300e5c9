package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdBuildkitd starts a stock buildkitd and sets BUILDKITD to its address.
func cmdBuildkitd(ts *testscript.TestScript, _ bool, _ []string) {
	addr, stop, err := startBuildkitd(ts.Getenv("TOOLS"), filepath.Join(get(ts).dir, "buildkitd"))
	ts.Check(err)
	ts.Defer(stop)
	ts.Setenv("BUILDKITD", addr)
}

// startBuildkitd starts a stock buildkitd that keeps everything in dir.
func startBuildkitd(tools, dir string) (addr string, stop func(), err error) {
	addr = "unix://" + filepath.Join(dir, "s")
	p := exec.Command(filepath.Join(tools, "buildkitd"), "--root", filepath.Join(dir, "state"), "--addr", addr, "--oci-worker-gc=false", "--containerd-worker=false")
	stop, err = startPeer(dir, p, func() bool {
		return exec.Command(filepath.Join(tools, "buildctl"), "--addr", addr, "debug", "workers").Run() == nil
	})
	return addr, stop, err
}

// startPeer starts a daemon that is not ours, which keeps everything in dir, and waits until
// it is ready.
func startPeer(dir string, p *exec.Cmd, ready func() bool) (stop func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	p.Stdout, p.Stderr = log, log
	if err := p.Start(); err != nil {
		log.Close()
		return nil, err
	}
	stop = func() {
		_ = p.Process.Signal(syscall.SIGTERM)
		_ = p.Wait()
		log.Close()
	}
	if !eventually(30*time.Second, ready) {
		stop()
		b, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%s does not answer:\n%s", filepath.Base(p.Path), b)
	}
	return stop, nil
}

// cmdFrontendProgram puts the program of a frontend into a directory: up for BuildKit's, our
// for ours.
func cmdFrontendProgram(ts *testscript.TestScript, _ bool, args []string) {
	from := get(ts).bin
	if args[0] == "up" {
		from = filepath.Join(ts.Getenv("TOOLS"), "dockerfile-frontend")
	}
	b, err := os.ReadFile(from)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(filepath.Join(args[0], "program")), b, 0o755))
}

// digestsKey is where a script keeps what frontend-build pushed.
type digestsKey struct{}

// cmdFrontendBuild builds the script's Dockerfile with a stock client, by a daemon and a
// frontend, and pushes the image: frontend-build ADDRESS up|our|builtin. Compressors differ,
// so nothing is compressed.
func cmdFrontendBuild(ts *testscript.TestScript, _ bool, args []string) {
	all, _ := ts.Value(digestsKey{}).(map[string]string)
	reg := ts.Getenv("REG")
	meta := ts.MkAbs("metadata.json")
	opts := []string{
		"--addr", args[0], "build", "--frontend", "dockerfile.v0", "--no-cache",
		"--local", "context=" + ts.MkAbs("."), "--local", "dockerfile=" + ts.MkAbs("."),
		"--opt", "build-arg:SOURCE_DATE_EPOCH=1700000000", "--opt", "build-arg:REG=" + reg, "--metadata-file", meta,
		"--output", fmt.Sprintf("type=image,name=%s/app:%d,push=true,registry.insecure=true,rewrite-timestamp=true,compression=uncompressed", reg, len(all)),
	}
	if args[1] != "builtin" {
		opts = append(opts, "--opt", "build-arg:BUILDKIT_SYNTAX="+reg+"/"+args[1])
	}
	ts.Check(ts.Exec("buildctl", opts...))
	b, err := os.ReadFile(meta)
	ts.Check(err)
	var m struct {
		Digest string `json:"containerimage.digest"`
	}
	ts.Check(json.Unmarshal(b, &m))
	all[fmt.Sprint(args)] = m.Digest
}

// cmdFrontendSame checks that all those builds had the same digest.
func cmdFrontendSame(ts *testscript.TestScript, _ bool, _ []string) {
	all, _ := ts.Value(digestsKey{}).(map[string]string)
	distinct := map[string]bool{}
	for _, d := range all {
		distinct[d] = true
	}
	if len(distinct) != 1 || distinct[""] || len(all) < 2 {
		ts.Fatalf("digests: %v", all)
	}
}
