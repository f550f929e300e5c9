package daemon

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
)

func TestDebug(t *testing.T) {
	sock := filepath.Join(shortDir(t), "debug")
	s := start(t, func(c *Config) { c.DebugAddr = "unix://" + sock })
	_, err := s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "a", Definition: marshal(t, tiny("a"))})
	must(t, err)
	if _, err := s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "b", Frontend: "nonsense"}); err == nil {
		t.Error("nonsense was built")
	}
	web := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", sock)
		},
		DisableKeepAlives: true,
	}}
	get := func(path string) string {
		t.Helper()
		resp, err := web.Get("http://daemon" + path)
		must(t, err)
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return string(b)
	}
	eventually(t, "profiles are served", func() bool {
		c, err := net.Dial("unix", sock)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	text := get("/metrics")
	for _, want := range []string{
		`buildkit_builds_total{frontend="",status="success"} 1`,
		`buildkit_builds_total{error_code="NotFound",frontend="nonsense",status="failure"} 1`,
		`buildkit_builds_steps_total{kind="total"} 1`,
		`buildkit_build_duration_seconds_count{status="success"} 1`,
		"rpc_server_", "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
	for _, path := range []string{"/debug/vars", "/debug/pprof/", "/debug/pprof/goroutine?debug=1"} {
		if get(path) == "" {
			t.Errorf("%s is empty", path)
		}
	}
}
