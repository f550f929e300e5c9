package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPlugin(t *testing.T) {
	for _, test := range []struct{ args, want []string }{
		{[]string{"dbuild", "build", "-t", "x", "."}, []string{"build", "-t", "x", "."}},
		{[]string{"--context", "c", "-H", "tcp://x", "--tlsverify", "-D", "dbuild", "--config", "y"}, []string{"--config", "y"}},
		{[]string{"dbuild"}, []string{}},
	} {
		rest, done, err := new(app).plugin(test.args)
		if err != nil || done || !slices.Equal(rest, test.want) {
			t.Errorf("%q: got %q, %v, %v", test.args, rest, done, err)
		}
	}
	if _, _, err := new(app).plugin([]string{"--nonsense", "dbuild"}); err == nil || !strings.Contains(err.Error(), "--nonsense") {
		t.Errorf("got %v", err)
	}
	var out bytes.Buffer
	_, done, err := (&app{stdout: &out}).plugin([]string{"docker-cli-plugin-metadata"})
	var said map[string]string
	if err != nil || !done || json.Unmarshal(out.Bytes(), &said) != nil || said["SchemaVersion"] != "0.1.0" || said["Vendor"] == "" || said["ShortDescription"] == "" {
		t.Errorf("got %s, %v, %v", out.String(), done, err)
	}
}

func TestInstallPlugin(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, lookup: func(k string) (string, bool) { return dir, k == "DOCKER_CONFIG" }}
	config := filepath.Join(dir, "config.json")
	before := `{"auths": {"r": {"auth": "eA=="}}, "aliases": {"x": "y"}, "unknown": [1, 2.5e3]}`
	if err := os.WriteFile(config, []byte(before), 0o640); err != nil {
		t.Fatal(err)
	}
	read := func() map[string]any {
		t.Helper()
		b, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for range 2 {
		if code := a.execute(t.Context(), []string{"install-plugin", "--default-builder"}); code != 0 {
			t.Fatal(out.String())
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "cli-plugins", "docker-dbuild")); err != nil || to != self {
		t.Errorf("got %s, %v", to, err)
	}
	m := read()
	if aliases := m["aliases"].(map[string]any); aliases["builder"] != "dbuild" || aliases["x"] != "y" || m["auths"] == nil || m["unknown"] == nil {
		t.Errorf("got %v", m)
	}
	if st, err := os.Stat(config); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("got %v, %v", st.Mode(), err)
	}
	if code := a.execute(t.Context(), []string{"install-plugin", "--remove"}); code != 0 {
		t.Fatal(out.String())
	}
	if m := read(); m["aliases"].(map[string]any)["builder"] != nil || m["auths"] == nil {
		t.Errorf("got %v", m)
	}
	if _, err := os.Lstat(filepath.Join(dir, "cli-plugins", "docker-dbuild")); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
	// What cannot be read is not written over.
	if err := os.WriteFile(config, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := a.execute(t.Context(), []string{"install-plugin", "--default-builder"}); code == 0 || !strings.Contains(out.String(), "not JSON") {
		t.Error(out.String())
	}
	if b, _ := os.ReadFile(config); string(b) != "{" {
		t.Errorf("got %s", b)
	}
}
