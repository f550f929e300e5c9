package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
)

// registry is Debian's docker-registry behind a proxy that takes note of what is asked and
// can make trouble.
type registry struct {
	*rt.Proxy
	addr, data string
	realm      *realm // nil unless it wants tokens
	cmd        *exec.Cmd
}

// freeAddr is an address of this machine on which nothing listens.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func newRegistry(dir string) (*registry, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	backend, err := freeAddr()
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "config.yml")
	yml := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %s}\n", filepath.Join(dir, "data"), backend)
	if err := os.WriteFile(conf, []byte(yml), 0o644); err != nil {
		return nil, err
	}
	r := &registry{data: filepath.Join(dir, "data"), cmd: exec.Command("docker-registry", "serve", conf)}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	r.Proxy = rt.OpenProxy(backend)
	r.addr = r.Addr
	if !eventually(15*time.Second, func() bool {
		resp, err := http.Get("http://" + backend + "/v2/")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	}) {
		r.close()
		return nil, fmt.Errorf("docker-registry does not answer on %s", backend)
	}
	return r, nil
}

// takeGets returns the paths of the layers read since the last call.
func (r *registry) takeGets() []string {
	var out []string
	for _, x := range r.Exchanges() {
		if x.Layer() {
			out = append(out, x.URI)
		}
	}
	r.Forget()
	return out
}

func (r *registry) close() {
	if r.Proxy != nil {
		r.Close()
	}
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}
