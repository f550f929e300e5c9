package main

import (
	"path/filepath"
	"testing"
)

func env(kv map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := kv[k]; return v, ok }
}

func TestChooseAddress(t *testing.T) {
	p := places{socket: "/run/dbuild/dbuildd.sock"}
	for _, tc := range []struct {
		name, flag string
		env        map[string]string
		want       address
	}{
		{"nothing", "", nil, address{url: "unix:///run/dbuild/dbuildd.sock"}},
		{"buildkit", "", map[string]string{"BUILDKIT_HOST": "tcp://b:1"}, address{"tcp://b:1", "BUILDKIT_HOST"}},
		{"ours first", "", map[string]string{"BUILDKIT_HOST": "tcp://b:1", "DBUILD_HOST": "unix:///d"}, address{"unix:///d", "DBUILD_HOST"}},
		{"empty is unset", "", map[string]string{"DBUILD_HOST": "", "BUILDKIT_HOST": "tcp://b:1"}, address{"tcp://b:1", "BUILDKIT_HOST"}},
		{"flag first", "/tmp/s", map[string]string{"DBUILD_HOST": "unix:///d"}, address{"unix:///tmp/s", "--addr"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := chooseAddress(tc.flag, env(tc.env), p)
			if got != tc.want {
				t.Fatalf("got %+v, want %+v", got, tc.want)
			}
			if err := got.check(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAddressCheck(t *testing.T) {
	for _, url := range []string{"foo://x", "localhost:1234", "unix://", ""} {
		if err := (address{url: url, from: "--addr"}).check(); exitCode(err) != exitConfig {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestDefaultPlaces(t *testing.T) {
	root := defaultPlaces(0, env(map[string]string{"XDG_DATA_HOME": "/x", "XDG_RUNTIME_DIR": "/y"}))
	if root != (places{"/var/lib/dbuild", "/run/dbuild/dbuildd.sock"}) {
		t.Errorf("root: %+v", root)
	}
	user := defaultPlaces(1234567, env(map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/u"}))
	if user != (places{"/home/u/.local/share/dbuild", "/run/u/dbuild/dbuildd.sock"}) {
		t.Errorf("user: %+v", user)
	}
	bare := defaultPlaces(1234567, env(map[string]string{"XDG_DATA_HOME": "/data", "XDG_RUNTIME_DIR": "relative"}))
	if bare.state != "/data/dbuild" || !filepath.IsAbs(bare.socket) {
		t.Errorf("bare: %+v", bare)
	}
}

func TestDaemonEnvHasNoSecrets(t *testing.T) {
	got := daemonEnv([]string{"PATH=/bin", "https_proxy=p", "AWS_SECRET_ACCESS_KEY=s", "DBUILD_HOST=x", "DBUILD_FOO=y", "OTEL_SERVICE_NAME=z", "GITHUB_TOKEN=t"})
	want := []string{"PATH=/bin", "https_proxy=p", "DBUILD_FOO=y", "OTEL_SERVICE_NAME=z"}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}
