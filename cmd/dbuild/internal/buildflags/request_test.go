package buildflags

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// parse parses args as a command line and returns the request for its context.
func parse(t *testing.T, env map[string]string, args ...string) (*Request, error) {
	t.Helper()
	f, rest := parsed(t, args...)
	if len(rest) == 0 {
		rest = []string{""}
	}
	return f.Request(rest[0], Env{
		Lookup: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
	})
}

// parsed returns the flags of a command line and what is left of it.
func parsed(t *testing.T, args ...string) (*Flags, []string) {
	t.Helper()
	fs := pflag.NewFlagSet("build", pflag.ContinueOnError)
	f := New(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f, fs.Args()
}

// workdir makes a directory with files the working directory.
func workdir(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		path := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("FROM scratch\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	return dir
}

func TestAttrs(t *testing.T) {
	workdir(t, "Dockerfile")
	base := map[string]string{"filename": "Dockerfile"}
	for _, tc := range []struct {
		name string
		args string
		env  map[string]string
		want map[string]string
	}{
		{name: "nothing"},
		{name: "target", args: "--target a", want: map[string]string{"target": "a"}},
		{name: "no-cache", args: "--no-cache", want: map[string]string{"no-cache": ""}},
		{name: "no-cache-filter", args: "--no-cache-filter a --no-cache-filter b", want: map[string]string{"no-cache": "a,b"}},
		{name: "pull", args: "--pull", want: map[string]string{"image-resolve-mode": "pull"}},
		{name: "label", args: "--label a=b --label c", want: map[string]string{"label:a": "b", "label:c": ""}},
		{name: "build-arg", args: "--build-arg A=1 --build-arg B --build-arg C", env: map[string]string{"B": "2"},
			want: map[string]string{"build-arg:A": "1", "build-arg:B": "2"}},
		{name: "epoch", env: map[string]string{"SOURCE_DATE_EPOCH": "7"}, want: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "7"}},
		{name: "epoch given", args: "--build-arg SOURCE_DATE_EPOCH=8", env: map[string]string{"SOURCE_DATE_EPOCH": "7"},
			want: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "8"}},
		{name: "platforms", args: "--platform linux/amd64,linux/arm64 --platform linux/aarch64", want: map[string]string{"platform": "linux/amd64,linux/arm64"}},
		{name: "default platform", env: map[string]string{"DOCKER_DEFAULT_PLATFORM": "linux/riscv64"}, want: map[string]string{"platform": "linux/riscv64"}},
		{name: "network", args: "--network none", want: map[string]string{"force-network-mode": "none"}},
		{name: "add-host", args: "--add-host a:1.2.3.4 --add-host b=::1 --add-host c:[::2]",
			want: map[string]string{"add-hosts": "a=1.2.3.4,b=::1,c=::2"}},
		{name: "shm", args: "--shm-size 64m", want: map[string]string{"shm-size": "67108864"}},
		{name: "ulimit", args: "--ulimit nofile=1:2 --ulimit core=0", want: map[string]string{"ulimit": "nofile=1:2,core=0:0"}},
		{name: "cgroup", args: "--cgroup-parent x", want: map[string]string{"cgroup-parent": "x"}},
		{name: "resources", args: "-m 1k --resource memory-swap=-1 --resource cpu-shares=5 --cpuset-cpus 0-1",
			want: map[string]string{"memory": "1024", "memswap": "-1", "cpushares": "5", "cpusetcpus": "0-1"}},
		{name: "attest", args: "--provenance mode=max,attach=index --sbom true --attest type=x,disabled=true",
			want: map[string]string{"attest:provenance": "mode=max", "attest:sbom": ""}},
		{name: "attest off", args: "--provenance=false --sbom=false"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := parse(t, tc.env, append(strings.Fields(tc.args), ".")...)
			if err != nil {
				t.Fatal(err)
			}
			want := maps.Clone(base)
			maps.Copy(want, tc.want)
			if d := cmp.Diff(want, r.Attrs); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestEntitlements(t *testing.T) {
	workdir(t, "Dockerfile")
	r, err := parse(t, nil, "--network=host", "--allow", "network.host,security.insecure", ".")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"network.host", "security.insecure"}; !slices.Equal(r.Entitlements, want) {
		t.Fatalf("got %q, want %q", r.Entitlements, want)
	}
}

func TestHostGateway(t *testing.T) {
	workdir(t, "Dockerfile")
	r, err := parse(t, nil, "--add-host", "a:host-gateway", "--add-host", "b:1.1.1.1", ".")
	if err != nil || !r.HostGateway {
		t.Fatalf("%v, gateway %t", err, r != nil && r.HostGateway)
	}
	if err := r.ResolveHostGateway(""); err == nil {
		t.Error("no error without an address")
	}
	if err := r.ResolveHostGateway("10.0.0.1"); err != nil {
		t.Fatal(err)
	}
	if got := r.Attrs["add-hosts"]; got != "a=10.0.0.1,b=1.1.1.1" {
		t.Errorf("got %q", got)
	}
}

func TestExports(t *testing.T) {
	workdir(t, "Dockerfile")
	image := func(kv ...string) Export { return Export{Type: "image", Attrs: attrs(kv...)} }
	const app = "docker.io/library/app:latest"
	for _, tc := range []struct {
		args  string
		want  []Export
		stays bool
	}{
		{args: "", stays: true},
		{args: "-t app", want: []Export{image("name", app)}},
		{args: "-t app -t app:latest -t localhost:5000/x:1", want: []Export{image("name", app+",localhost:5000/x:1")}},
		{args: "-q", want: []Export{image()}},
		{args: "--iidfile id", want: []Export{image()}},
		{args: "--metadata-file md", want: []Export{image()}},
		{args: "-t app --push", want: []Export{image("name", app, "push", "true")}},
		{args: "-t app -o type=registry", want: []Export{image("name", app, "push", "true")}},
		{args: "-t app -o type=image,push", want: []Export{image("name", app, "push", "true")}},
		{args: "-o type=image,name=app,push=true -t b", want: []Export{image("name", app+",docker.io/library/b:latest", "push", "true")}},
		{args: "-o out", want: []Export{{Type: "local", Attrs: attrs(), Sink: Dir, Dest: "out"}}},
		{args: "-o -", want: []Export{{Type: "tar", Attrs: attrs(), Sink: Stdout}}},
		{args: "-o type=local,dest=out,mode=delete", want: []Export{{Type: "local", Attrs: attrs("mode", "delete"), Sink: Dir, Dest: "out"}}},
		{args: "-o type=tar,dest=x.tar", want: []Export{{Type: "tar", Attrs: attrs(), Sink: File, Dest: "x.tar"}}},
		{args: "-t app -o type=oci,dest=-", want: []Export{{Type: "oci", Attrs: attrs("name", app), Sink: Stdout}}},
		{args: "-o type=oci,dest=d,tar=false", want: []Export{{Type: "oci", Attrs: attrs("tar", "false"), Sink: Dir, Dest: "d"}}},
		{args: "-t app --load", want: []Export{{Type: "docker", Attrs: attrs("name", app), Sink: Docker}}},
		{args: "-t app --load -o type=docker", want: []Export{{Type: "docker", Attrs: attrs("name", app), Sink: Docker}}},
		{args: "-t app --load --push", want: []Export{image("name", app, "push", "true"), {Type: "docker", Attrs: attrs("name", app), Sink: Docker}}},
		{args: "-t app --load=podman", want: []Export{{Type: "docker", Attrs: attrs("name", app), Sink: Docker, Engine: "podman"}}},
		{args: "-t app --load=false", want: []Export{image("name", app)}},
		{args: "-t app --load=containerd", want: []Export{{Type: "oci", Attrs: attrs("name", app, "tar", "false"), Sink: IntoContainerd}}},
		{args: "-o type=containerd,name=app,address=/c.sock,namespace=k8s.io,snapshotter=native,unpack=false --load=containerd", want: []Export{{
			Type: "oci", Attrs: attrs("name", app, "tar", "false"), Sink: IntoContainerd,
			Containerd: Containerd{Address: "/c.sock", Namespace: "k8s.io", Snapshotter: "native", Packed: true},
		}}},
		{args: "-t app -o out --push", want: []Export{{Type: "local", Attrs: attrs(), Sink: Dir, Dest: "out"}, image("name", app, "push", "true")}},
		{args: "-t app -o type=cacheonly"},
		{args: "-t app --annotation a=1 --annotation index,manifest[linux/amd64]:b=2",
			want: []Export{image("name", app, "annotation-manifest.a", "1", "annotation-index.b", "2", "annotation-manifest[linux/amd64].b", "2")}},
		{args: "--check -t app"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			r, err := parse(t, nil, append(strings.Fields(tc.args), ".")...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, r.Exports); d != "" {
				t.Error(d)
			}
			if r.RemainsCached != tc.stays {
				t.Errorf("RemainsCached is %t", r.RemainsCached)
			}
		})
	}
}

func TestUnknownEngine(t *testing.T) {
	if err := new(Load).Set("pdoman"); err == nil || !strings.Contains(err.Error(), "did you mean podman?") {
		t.Errorf("got %v", err)
	}
}

func attrs(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

// Mistakes are found before anything is contacted, each with one sentence that names what
// is wrong.
func TestMistakes(t *testing.T) {
	workdir(t, "Dockerfile", "file", "sub/x")
	const usage, file = true, false
	for _, tc := range []struct {
		args, says string
		kind       bool
	}{
		{"--no-cache --no-cache-filter a .", "exclude each other", usage},
		{"-q --progress=plain .", "exclude each other", usage},
		{"-q -o - .", "standard output", usage},
		{"-o - -o type=oci,dest=- .", "standard output", usage},
		{"--iidfile x --metadata-file x .", "same file", usage},
		{"--iidfile x -o out .", "no image ID", usage},
		{"--push .", "-t NAME", usage},
		{"-t UPPER .", "not an image name", usage},
		{"-t a@sha256:0123456789012345678901234567890123456789012345678901234567890123 .", "digest", usage},
		{"-o type=lokal .", "did you mean local?", usage},
		{"-o type=image,dest=x .", "no dest", usage},
		{"-o type=local .", "dest=DIRECTORY", usage},
		{"-o type=containerd .", "-t NAME", usage},
		{"-o type=containerd,dest=x -t a .", "no dest", usage},
		{"-o type=local,dest=x,mode=y .", "copy or delete", usage},
		{"-o type=oci,tar=false .", "dest=DIRECTORY", usage},
		{"-o dest=x,mode=copy .", "type is missing", usage},
		{"-o type=tar,x .", "key=value", usage},
		{"--platform linux/amd64, .", "missing", usage},
		{"--platform a/b/c/d .", "not a platform", usage},
		{"--platform linux/amd64,linux/arm64 -o type=docker,dest=x .", "one platform", usage},
		{"--network br0 .", "br0", usage},
		{"--allow network.hots .", "did you mean network.host?", usage},
		{"--add-host a .", "HOST:IP", usage},
		{"--add-host a:b .", "IP address", usage},
		{"--shm-size x .", "not a size", usage},
		{"--ulimit nofile .", "nofile", usage},
		{"--resource x=1 .", "KEY=VALUE", usage},
		{"--resource cpu-shares=x .", "not a number", usage},
		{"--label =x .", "key is missing", usage},
		{"--build-arg =x .", "name is missing", usage},
		{"--annotation x -t a .", "KEY=VALUE", usage},
		{"--annotation foo:x=y -t a .", "unknown type", usage},
		{"--annotation a=b -o out .", "image", usage},
		{"--attest mode=max .", "type is missing", usage},
		{"--provenance x .", "true, false", usage},
		{"--policy x .", "not supported", usage},
		{"--call x .", "unknown method", usage},
		{"--check --call=outline .", "exclude each other", usage},
		{"--cache-from type=x .", "unknown type", usage},
		{"--cache-from type=inline .", "name of its image", usage},
		{"--cache-to type=local .", "dest is missing", usage},
		{"--cache-to type=registry,ref=a,mode=x .", "min or max", usage},
		{"--secret x .", "key=value", usage},
		{"--secret src=x .", "id is missing", usage},
		{"--secret id=x,foo=bar .", "unknown key", usage},
		{"--secret id=x,src=nothere .", "no such file: nothere", file},
		{"--secret id=nothere .", "neither", file},
		{"--ssh default .", "SSH_AUTH_SOCK", file},
		{"--ssh a=/nothere .", "/nothere", file},
		{"--build-context x .", "NAME=PATH", usage},
		{"--build-context a=sub --build-context a=sub .", "twice", usage},
		{"--build-context a=nothere .", "nothere", file},
		{"--build-context a=oci-layout://sub .", "not an OCI layout", file},
		{"--build-context a=docker-daemon:A .", "not an image name", usage},
		{"--build-context a=containers-storage:a .", "not implemented", usage},
		{"--local-images=dokcer .", "did you mean docker?", usage},
		{"--local-images=docker --pull .", "exclude each other", usage},
		{"--local-images=docker --locked .", "exclude each other", usage},
		{"-f - -", "standard input", usage},
		{"-f nothere .", "no such Dockerfile", file},
		{"-f sub .", "directory", file},
		{"-f Dockerfilex .", "did you mean Dockerfile?", file},
		{"--ignorefile nothere .", "nothere", file},
		{"sub", "no Dockerfile in sub", file},
		{"subb", "did you mean sub?", file},
		{"file", "is a file", file},
	} {
		t.Run(tc.args, func(t *testing.T) {
			_, err := parse(t, nil, strings.Fields(tc.args)...)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q does not say %q", err, tc.says)
			}
			var u *UsageError
			if errors.As(err, &u) != tc.kind {
				t.Errorf("usage error: %t (%v)", !tc.kind, err)
			}
		})
	}
}

func TestIgnoredFlagsAreNoted(t *testing.T) {
	workdir(t, "Dockerfile")
	r, err := parse(t, nil, "--compress", "--rm=false", "--force-rm", "--isolation=x", "--security-opt=y", "--builder=z",
		"--disable-content-trust", "--cache-from=type=local,src=nothere", ".")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Notices) != 8 {
		t.Errorf("%d notices: %q", len(r.Notices), r.Notices)
	}
	if r, err = parse(t, nil, "."); err != nil || len(r.Notices) != 0 {
		t.Errorf("without such flags: %v %v", r.Notices, err)
	}
}
