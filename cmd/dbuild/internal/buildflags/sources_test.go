package buildflags

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
)

func TestFindDockerfile(t *testing.T) {
	workdir(t, "all/Dockerfile", "all/Containerfile", "all/other", "lower/dockerfile", "lower/Containerfile", "cont/Containerfile",
		"other", "sub/own", "near/Dockerfile.dev")
	for _, tc := range []struct{ context, file, dir, name string }{
		{"all", "", "all", "Dockerfile"},
		{"lower", "", "lower", "dockerfile"},
		{"cont", "", "cont", "Containerfile"},
		{"all", "other", ".", "other"}, // the working directory comes first
		{"sub", "own", "sub", "own"},
		{"sub", "sub/own", "sub", "own"},
		{"sub", "../" + filepath.Base(mustGetwd(t)) + "/other", "../" + filepath.Base(mustGetwd(t)), "other"},
	} {
		dir, name, err := findDockerfile(tc.context, tc.file)
		if err != nil || dir != tc.dir || name != tc.name {
			t.Errorf("findDockerfile(%q, %q) = %q, %q, %v; want %q, %q", tc.context, tc.file, dir, name, err, tc.dir, tc.name)
		}
	}
	_, _, err := findDockerfile("near", "")
	if err == nil || !strings.Contains(err.Error(), "did you mean near/Dockerfile.dev?") {
		t.Errorf("near: %v", err)
	}
}

func mustGetwd(t *testing.T) string {
	t.Helper()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return wd
}

func TestSources(t *testing.T) {
	workdir(t, "Dockerfile", "sub/Dockerfile", "ign", "x.git/Dockerfile")
	for _, tc := range []struct {
		args  string
		want  Sources
		attrs map[string]string
	}{
		{".", Sources{Locals: attrs("context", ".", "dockerfile", ".")}, attrs("filename", "Dockerfile")},
		{"-f sub/Dockerfile .", Sources{Locals: attrs("context", ".", "dockerfile", "sub")}, attrs("filename", "Dockerfile")},
		{"-f - .", Sources{Dockerfile: FromStdin, Locals: attrs("context", ".")}, attrs("filename", "Dockerfile")},
		{"-f https://x/D .", Sources{Dockerfile: FromURL, DockerfileURL: "https://x/D", Locals: attrs("context", ".")}, attrs("filename", "Dockerfile")},
		{"-", Sources{Context: FromStdin, Dockerfile: InContext, Locals: attrs()}, attrs("filename", "Dockerfile")},
		{"-f a/D -", Sources{Context: FromStdin, Dockerfile: InContext, Locals: attrs()}, attrs("filename", "a/D")},
		{"--ignorefile ign .", Sources{Locals: attrs("context", ".", "dockerfile", "."), IgnoreFile: "ign"}, attrs("filename", "Dockerfile", "ignorefile:context", "ign\nFROM scratch\n")},
		{"https://h/r.git#main:dir", Sources{Context: FromRemote, Dockerfile: InContext, HTTPContext: true, Locals: attrs()},
			attrs("filename", "Dockerfile", "context", "https://h/r.git#main:dir")},
		{"https://h/ctx.tar.gz", Sources{Context: FromRemote, Dockerfile: InContext, Locals: attrs()},
			attrs("filename", "Dockerfile", "context", "https://h/ctx.tar.gz")},
		{"git@github.com:o/r", Sources{Context: FromRemote, Dockerfile: InContext, SSHContext: true, Locals: attrs()},
			attrs("filename", "Dockerfile", "context", "git@github.com:o/r")},
		{"-f D github.com/o/r", Sources{Context: FromRemote, Dockerfile: InContext, HTTPContext: true, Locals: attrs()},
			attrs("filename", "D", "context", "github.com/o/r")},
		{"x.git", Sources{Locals: attrs("context", "x.git", "dockerfile", "x.git")}, attrs("filename", "Dockerfile")},
		{"--build-context a=sub --build-context context=sub --build-context b=docker-image://alpine --build-context c=https://h/r.git .",
			Sources{Locals: attrs("context", ".", "dockerfile", ".", "a", "sub", "_context", "sub")},
			attrs("filename", "Dockerfile", "context:a", "local:a", "context:context", "local:_context", "context:b", "docker-image://alpine", "context:c", "https://h/r.git")},
		{"--build-context a=docker-daemon:app --build-context b=containerd:reg.io/x:1 .", Sources{Locals: attrs("context", ".", "dockerfile", "."), Images: map[string]LocalImage{
			"context:a": {Transport: DockerDaemon, Name: "docker.io/library/app:latest"}, "context:b": {Transport: ContainerdStore, Name: "reg.io/x:1"},
		}}, attrs("filename", "Dockerfile", "context:a", "docker-daemon:app", "context:b", "containerd:reg.io/x:1")},
	} {
		t.Run(tc.args, func(t *testing.T) {
			r, err := parse(t, nil, strings.Fields(tc.args)...)
			if err != nil {
				t.Fatal(err)
			}
			tc.want.Layouts = map[string]string{}
			if d := cmp.Diff(tc.want, r.Sources); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(tc.attrs, r.Attrs); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestLayout(t *testing.T) {
	workdir(t, "Dockerfile", "l/x")
	one, two := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	index := fmt.Sprintf(`{"manifests":[{"digest":%q,"annotations":{"org.opencontainers.image.ref.name":"v1"}},{"digest":%q,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`, one, two)
	if err := os.WriteFile("l/index.json", []byte(index), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ value, want string }{
		{"l", two}, {"l:v1", one}, {"l@" + one, one}, {"l:v1@" + two, two},
	} {
		r, err := parse(t, nil, "--build-context", "a=oci-layout://"+tc.value, ".")
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Attrs["context:a"]; got != "oci-layout://layout0@"+tc.want || r.Layouts["layout0"] != "l" {
			t.Errorf("%s: got %q, layouts %v", tc.value, got, r.Layouts)
		}
	}
	if _, err := parse(t, nil, "--build-context", "a=oci-layout://l:v9", "."); err == nil {
		t.Error("no error for a missing tag")
	}
}

func TestSecrets(t *testing.T) {
	workdir(t, "Dockerfile", "file", "id")
	env := map[string]string{"TOKEN": "t", "VAR": "v"}
	for _, tc := range []struct {
		value string
		want  secretsprovider.Source
	}{
		{"id=a,src=file", secretsprovider.Source{ID: "a", FilePath: "file"}},
		{"id=a,source=file,type=file", secretsprovider.Source{ID: "a", FilePath: "file"}},
		{"id=a,env=VAR", secretsprovider.Source{ID: "a", Env: "VAR"}},
		{"type=env,id=a,src=VAR", secretsprovider.Source{ID: "a", Env: "VAR"}},
		{"id=TOKEN", secretsprovider.Source{ID: "TOKEN", Env: "TOKEN"}},
		{"id=TOKEN,type=env", secretsprovider.Source{ID: "TOKEN", Env: "TOKEN"}},
		{"id=id", secretsprovider.Source{ID: "id", FilePath: "id"}},
		{`"id=a,b",src=file`, secretsprovider.Source{ID: "a,b", FilePath: "file"}},
	} {
		r, err := parse(t, env, "--secret", tc.value, ".")
		if err != nil {
			t.Errorf("%s: %v", tc.value, err)
			continue
		}
		if r.Secrets[0] != tc.want {
			t.Errorf("%s: got %+v, want %+v", tc.value, r.Secrets[0], tc.want)
		}
	}
	r, err := parse(t, env, "--secret", "id=a,env=UNSET", ".")
	if err != nil || len(r.Notices) != 1 {
		t.Errorf("unset variable: %v, %v", r, err)
	}
}

func TestGitContextLendsCredentials(t *testing.T) {
	workdir(t)
	env := map[string]string{"GIT_AUTH_TOKEN": "t", "SSH_AUTH_SOCK": "/s"}
	r, err := parse(t, env, "https://h/r.git")
	if err != nil || len(r.Secrets) != 1 || r.Secrets[0].ID != "GIT_AUTH_TOKEN" || len(r.SSH) != 0 {
		t.Errorf("http: %+v %v", r, err)
	}
	r, err = parse(t, env, "git@h:o/r.git")
	if err != nil || len(r.SSH) != 1 || r.SSH[0].ID != "default" || len(r.Secrets) != 0 {
		t.Errorf("ssh: %+v %v", r, err)
	}
}

func TestSSH(t *testing.T) {
	workdir(t, "Dockerfile", "k1", "k2")
	env := map[string]string{"SSH_AUTH_SOCK": "/s"}
	r, err := parse(t, env, "--ssh", "default", "--ssh", "a=k1,k2", ".")
	if err != nil {
		t.Fatal(err)
	}
	want := []sshprovider.AgentConfig{{ID: "default"}, {ID: "a", Paths: []string{"k1", "k2"}}}
	if d := cmp.Diff(want, r.SSH); d != "" {
		t.Error(d)
	}
	if _, err := parse(t, env, "--ssh", "default", "--ssh", "default", "."); err == nil {
		t.Error("no error for the same id twice")
	}
}

func TestCaches(t *testing.T) {
	workdir(t, "Dockerfile", "c/index.json")
	env := map[string]string{"ACTIONS_RUNTIME_TOKEN": "tok", "ACTIONS_RESULTS_URL": "u"}
	r, err := parse(t, env, "--cache-from", "user/app", "--cache-from", "type=local,src=c", "--cache-from", "type=gha", "--cache-from", "one:1, two:2", "--cache-from=*", "--cache-from=team/*",
		"--cache-to", "type=inline", "--cache-to", "type=inline", "--cache-to", "type=registry,ref=a:b,mode=max", ".")
	if err != nil {
		t.Fatal(err)
	}
	from := []map[string]string{
		attrs("ref", "docker.io/user/app:latest", "store", "true"), attrs("src", "c"), attrs("token", "tok", "url", "u"),
		attrs("ref", "docker.io/library/one:1", "store", "true"), attrs("ref", "docker.io/library/two:2", "store", "true"),
		attrs("ref", "*"), attrs("ref", "team/*"),
	}
	if len(r.CacheFrom) != len(from) {
		t.Fatalf("from: %+v", r.CacheFrom)
	}
	for i, c := range r.CacheFrom {
		if d := cmp.Diff(from[i], c.Attrs); d != "" {
			t.Errorf("%s: %s", c.Type, d)
		}
	}
	if len(r.CacheTo) != 2 || r.CacheTo[1].Attrs["ref"] != "docker.io/library/a:b" || r.CacheTo[1].Attrs["mode"] != "max" {
		t.Errorf("to: %+v", r.CacheTo)
	}
	if len(r.AsksCache) != 2 {
		t.Errorf("asks %q", r.AsksCache)
	}
}

func TestCachesOfActions(t *testing.T) {
	workdir(t, "Dockerfile")
	for _, c := range []struct {
		env  map[string]string
		flag string
		want map[string]string // nil: a notice
	}{
		{attrs("ACTIONS_RUNTIME_TOKEN", "t", "ACTIONS_CACHE_URL", "c", "ACTIONS_RESULTS_URL", "r"), "type=gha", attrs("token", "t", "url", "c")},
		{attrs("ACTIONS_RUNTIME_TOKEN", "t", "ACTIONS_RESULTS_URL", "r", "ACTIONS_CACHE_SERVICE_V2", "True"), "type=gha,scope=s", attrs("token", "t", "url", "r", "url_v2", "r", "scope", "s")},
		{attrs("ACTIONS_RUNTIME_TOKEN", "t", "ACTIONS_CACHE_URL", "c", "ACTIONS_RESULTS_URL", "r", "ACTIONS_CACHE_SERVICE_V2", "1"), "type=gha,version=1", attrs("token", "t", "url", "c", "version", "1")},
		{attrs("ACTIONS_RUNTIME_TOKEN", "t", "ACTIONS_CACHE_URL", "c"), "type=gha,token=mine,url=here", attrs("token", "mine", "url", "here")},
		{attrs("ACTIONS_RUNTIME_TOKEN", "t"), "type=gha", nil},
		{nil, "type=gha,url=here", nil},
	} {
		r, err := parse(t, c.env, "--cache-from", c.flag, "--cache-to", c.flag, ".")
		if err != nil {
			t.Fatal(err)
		}
		if c.want == nil {
			if len(r.CacheFrom)+len(r.CacheTo) > 0 || len(r.Notices) != 2 || !strings.Contains(r.Notices[1], "--cache-to "+c.flag+" is ignored") {
				t.Errorf("%v: %+v", c, r.Notices)
			}
			continue
		}
		if d := cmp.Diff(c.want, r.CacheFrom[0].Attrs) + cmp.Diff(c.want, r.CacheTo[0].Attrs); d != "" {
			t.Errorf("%v: %s", c, d)
		}
	}
}

func TestCachesInBuckets(t *testing.T) {
	workdir(t, "Dockerfile")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	check := func(flag string, env, want map[string]string) {
		t.Helper()
		r, err := parse(t, env, "--cache-to", flag, ".")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, r.CacheTo[0].Attrs); d != "" {
			t.Errorf("%s: %s", flag, d)
		}
	}
	check("type=s3,bucket=b", nil, attrs("bucket", "b")) // the daemon says what is missing
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "key")
	t.Setenv("AWS_SESSION_TOKEN", "session")
	check("type=s3", attrs("AWS_BUCKET", "b", "AWS_REGION", "r"), attrs("bucket", "b", "region", "r", "access_key_id", "id", "secret_access_key", "key", "session_token", "session"))
	check("type=s3,bucket=mine,access_key_id=i,secret_access_key=k", attrs("AWS_BUCKET", "b"), attrs("bucket", "mine", "access_key_id", "i", "secret_access_key", "k"))
}
