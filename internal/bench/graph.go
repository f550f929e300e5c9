package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dbuild/dbuild/llb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// graph is a marshalled LLB definition of about n file operations: chains of 50, and one
// that copies a file from the end of each. Operations of another seed have other keys.
func graph(n int, seed string) ([]byte, error) {
	when := time.Unix(1700000000, 0)
	var last []llb.FileAction
	for c := range n / 50 {
		at := llb.Output{}
		for i := range 50 {
			at = llb.File(at, []llb.FileAction{
				llb.Mkfile{Path: fmt.Sprint("/", i), Mode: 0o644, Data: fmt.Appendf(nil, "%s %d", seed, c), Created: &when},
			}, llb.Meta{})
		}
		last = append(last, llb.Copy{From: at, Src: "/49", Dest: fmt.Sprint("/", c), Mode: llb.KeepMode})
	}
	def, err := llb.Marshal(context.Background(), llb.File(llb.Output{}, last, llb.Meta{}), ocispec.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		return nil, err
	}
	return def.MarshalVT()
}

// solve builds a definition with BuildKit's client, which both daemons know.
func (b *bench) solve(p *peer, def []byte) error {
	c := *p
	c.client = filepath.Join(b.tools, "buildctl")
	err := c.exec(def, "build", "--progress", "plain")
	p.spent = c.spent
	return err
}

func cold(n int) func(*bench, *peer, string) error {
	return func(b *bench, p *peer, _ string) error {
		def, err := graph(n, b.unique())
		if err != nil {
			return err
		}
		return b.solve(p, def)
	}
}

func known(n int) func(*bench, *peer, string) error {
	return func(b *bench, p *peer, _ string) error {
		def, err := graph(n, "known")
		if err != nil {
			return err
		}
		return b.solve(p, def)
	}
}

// restart starts a daemon on a state of its own and waits for its first answer.
func restart(b *bench, p *peer, dir string) error {
	again := &peer{name: p.name, client: p.client, ours: p.ours, root: filepath.Join(dir, p.name), addr: "unix://" + filepath.Join(dir, p.name+".sock")}
	args := append([]string(nil), p.daemon.Args...)
	for i, a := range args {
		switch a {
		case "--root":
			args[i+1] = again.root
		case "--addr":
			args[i+1] = again.addr
		}
	}
	again.daemon = exec.Command(args[0], args[1:]...)
	if err := again.daemon.Start(); err != nil {
		return err
	}
	defer func() {
		_ = again.daemon.Process.Signal(syscall.SIGKILL)
		_ = again.daemon.Wait()
		os.RemoveAll(again.root)
	}()
	for range 1000 {
		if exec.Command(p.client, "--addr", again.addr, "debug", "workers").Run() == nil {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer", p.name)
}
