package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// registry is Debian's docker-registry behind a proxy that takes note of the layers that are read.
type registry struct {
	addr  string
	cmd   *exec.Cmd
	proxy *httptest.Server

	mu   sync.Mutex
	gets []string
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
	yml := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", filepath.Join(dir, "data"), backend)
	if err := os.WriteFile(conf, []byte(yml), 0o644); err != nil {
		return nil, err
	}
	r := &registry{cmd: exec.Command("docker-registry", "serve", conf)}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	target := &url.URL{Scheme: "http", Host: backend}
	forward := httputil.NewSingleHostReverseProxy(target)
	// A config is a small JSON document; what is larger or of another kind is a layer.
	forward.ModifyResponse = func(resp *http.Response) error {
		req := resp.Request
		if req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/sha256:") || resp.StatusCode >= 300 {
			return nil
		}
		head := make([]byte, 1)
		n, _ := io.ReadFull(resp.Body, head)
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(head[:n]), resp.Body), resp.Body}
		if string(head[:n]) != "{" {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.gets = append(r.gets, req.URL.Path)
		}
		return nil
	}
	r.proxy = httptest.NewServer(forward)
	r.addr = strings.TrimPrefix(r.proxy.URL, "http://")
	if !eventually(15*time.Second, func() bool {
		resp, err := http.Get(target.String() + "/v2/")
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
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.gets
	r.gets = nil
	return out
}

func (r *registry) close() {
	if r.proxy != nil {
		r.proxy.Close()
	}
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}
