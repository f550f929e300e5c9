package runc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/network"
	"github.com/dbuild/dbuild/worker/runc/proxy"
)

const rootBundle = "etc/ssl/certs/ca-certificates.crt"

// fetch is a shell command that asks the proxy for an address, with the tools of the root file
// system.
func fetch(url string) string {
	return fmt.Sprintf(`p=${HTTP_PROXY#http://}; printf 'GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' | nc ${p%%:*} ${p#*:}`, url)
}

func TestProxiedNetwork(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") }))
	defer server.Close()
	u, err := url.Parse(server.URL)
	must(t, err)
	for _, runtime := range []string{"", "runc", "crun"} {
		t.Run("runtime "+runtime, func(t *testing.T) {
			e := newExecutor(t, runc.Config{Runtime: runtime, Network: network.Config{Mode: network.Bridge}})
			rootfs := newRootfs(t)
			must(t, os.MkdirAll(filepath.Join(rootfs, filepath.Dir(rootBundle)), 0o755))
			must(t, os.WriteFile(filepath.Join(rootfs, rootBundle), []byte("own\n"), 0o644))
			record := new(proxy.Record)
			// The bridge's steps do not reach what listens on the host's loopback, its own network does.
			for mode, want := range map[pb.NetMode]string{pb.NetMode_UNSET: "502 Bad Gateway", pb.NetMode_HOST: "hello"} {
				out, err := sh(t, e, runc.Process{
					Rootfs: rootfs, Network: mode, Proxy: &runc.Proxy{Record: record},
					ExtraHosts: []runc.HostIP{{Host: "named.example", IP: netip.MustParseAddr("127.0.0.1")}},
				}, "ip -o link | awk '{print $2}'; grep -c 'BEGIN CERT' /"+rootBundle+" $SSL_CERT_FILE; "+fetch("http://named.example:"+u.Port()+"/x"))
				must(t, err)
				for _, line := range []string{"lo:", rootBundle + ":1", "/dev/dbuild-proxy/ca.pem:1", want} {
					if !strings.Contains(out, line) {
						t.Errorf("%v: no %s in %s", mode, line, out)
					}
				}
				if strings.Contains(out, "eth0") {
					t.Errorf("%v: there is a way past the proxy: %s", mode, out)
				}
			}
			if list, _ := record.Fetches(); len(list) != 2 || list[0].URL != "http://named.example:"+u.Port()+"/x" {
				t.Errorf("recorded %+v", list)
			}
			out, err := sh(t, e, runc.Process{Rootfs: rootfs, Network: pb.NetMode_NONE, Proxy: &runc.Proxy{Record: record}}, "env; cat /"+rootBundle)
			must(t, err)
			if strings.Contains(strings.ToLower(out), "proxy") || !strings.HasSuffix(out, "own") {
				t.Errorf("without a network: %s", out)
			}
			for _, name := range []string{"dev/dbuild-proxy", "run"} {
				if exists(filepath.Join(rootfs, name)) {
					t.Errorf("%s was left", name)
				}
			}
		})
	}
}

func TestProxiedEnvironment(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	rootfs := newRootfs(t)
	given := []string{"http_proxy=http://mine", "ALL_PROXY=socks5://mine", "PIP_CERT=/mine", "KEPT=1"}
	p := runc.Process{ID: "main", Rootfs: rootfs, Args: []string{"sleep", "60"}, Env: given, Proxy: &runc.Proxy{Record: new(proxy.Record)}}
	ctx, cancel := context.WithCancel(t.Context())
	main, err := e.Start(ctx, p)
	must(t, err)
	var out bytes.Buffer
	more, err := e.Exec(t.Context(), "main", runc.Process{ID: "more", Args: []string{"env"}, Env: given, Stdout: &out})
	must(t, err)
	must(t, more.Wait())
	cancel()
	_ = main.Wait() // it was killed
	env := strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, want := range []string{"PIP_CERT=/mine", "KEPT=1", "GIT_SSL_CAINFO=/dev/dbuild-proxy/ca.pem", "no_proxy=localhost,127.0.0.1,::1"} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in %q", want, env)
		}
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if strings.HasSuffix(strings.ToLower(name), "_proxy") && strings.ToLower(name) != "no_proxy" && name != "NODE_USE_ENV_PROXY" && value != "http://127.0.0.1:13128" {
			t.Errorf("%s", e)
		}
	}
}

// TestProxyCannotBeRemoved has a step make of the bundle what cannot be cleaned.
func TestProxyCannotBeRemoved(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	rootfs := newRootfs(t)
	must(t, os.MkdirAll(filepath.Join(rootfs, filepath.Dir(rootBundle)), 0o755))
	for script, code := range map[string]int{"true": 0, "exit 42": 42} {
		must(t, os.WriteFile(filepath.Join(rootfs, rootBundle), []byte("own\n"), 0o644))
		_, err := sh(t, e, runc.Process{Rootfs: rootfs, Proxy: &runc.Proxy{Record: new(proxy.Record)}},
			"dd if=/dev/zero bs=1048576 count=11 >>/"+rootBundle+" 2>/dev/null; "+script)
		var unclean *runc.UncleanError
		if !errors.As(err, &unclean) || !strings.Contains(err.Error(), "exceeds 10485760 bytes") {
			t.Errorf("%s: %v", script, err)
		}
		var exit *runc.ExitError
		if errors.As(err, &exit) != (code != 0) || exit != nil && exit.Code != code {
			t.Errorf("%s: %v", script, err)
		}
	}
}
