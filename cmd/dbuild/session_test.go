package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/spf13/pflag"
)

// lendFor parses a command line and gets ready what it says, with stdin.
func lendFor(t *testing.T, stdin string, args ...string) (*lent, *buildflags.Request, error) {
	t.Helper()
	fs := pflag.NewFlagSet("build", pflag.ContinueOnError)
	f := buildflags.New(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	req, err := f.Request(fs.Arg(0), buildflags.Env{Lookup: env(nil)})
	if err != nil {
		t.Fatal(err)
	}
	a := &app{stdin: strings.NewReader(stdin)}
	l, err := a.lend(t.Context(), req, configfile.New(""))
	if err == nil {
		t.Cleanup(l.close)
	}
	return l, req, err
}

func tarball(t *testing.T, compress bool) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = struct {
		io.Writer
		io.Closer
	}{&b, io.NopCloser(nil)}
	if compress {
		w = gzip.NewWriter(&b)
	}
	tw := tar.NewWriter(w)
	if err := tw.WriteHeader(&tar.Header{Name: "Dockerfile", Size: 12, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write([]byte("FROM scratch")); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// dockerfile returns what is lent as the Dockerfile.
func (l *lent) dockerfile(t *testing.T, req *buildflags.Request) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.locals[buildflags.LocalDockerfile], req.Attrs["filename"]))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDockerfileOnStdin(t *testing.T) {
	inContext(t)
	l, req, err := lendFor(t, "FROM x\n", "-f", "-", ".")
	if err != nil {
		t.Fatal(err)
	}
	if got := l.dockerfile(t, req); got != "FROM x\n" || l.locals["context"] != "." {
		t.Errorf("%q, locals %v", got, l.locals)
	}
	dir := l.locals[buildflags.LocalDockerfile]
	l.close()
	if _, err := os.Stat(dir); err == nil {
		t.Error("a temporary directory is left")
	}
}

func TestContextOnStdin(t *testing.T) {
	inContext(t)
	l, req, err := lendFor(t, "FROM x\n", "-")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(l.locals["context"])
	if err != nil || len(entries) != 0 {
		t.Errorf("the context of a lone Dockerfile has %v, %v", entries, err)
	}
	if got := l.dockerfile(t, req); got != "FROM x\n" {
		t.Errorf("%q", got)
	}
	for _, compress := range []bool{false, true} {
		l, req, err := lendFor(t, tarball(t, compress), "-f", "sub/D", "-")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(req.Attrs["context"], "http://buildkit-session/") || req.Attrs["filename"] != "sub/D" || len(l.locals) != 0 {
			t.Errorf("gzip %t: attrs %v, locals %v", compress, req.Attrs, l.locals)
		}
	}
	for name, stdin := range map[string]string{"empty": "", "blank": " \n", "too large": strings.Repeat("#", maxDockerfile+1)} {
		if _, _, err := lendFor(t, stdin, "-"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDockerfileFromURL(t *testing.T) {
	inContext(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/D" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "FROM url\n")
	}))
	defer srv.Close()
	l, req, err := lendFor(t, "", "-f", srv.URL+"/D", ".")
	if err != nil {
		t.Fatal(err)
	}
	if got := l.dockerfile(t, req); got != "FROM url\n" {
		t.Errorf("%q", got)
	}
	if _, _, err := lendFor(t, "", "-f", srv.URL+"/nothere", "."); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
}

func TestIgnoreFileReplacesTheOthers(t *testing.T) {
	dir := inContext(t)
	for name, text := range map[string]string{"Dockerfile.dockerignore": "a", ".dockerignore": "b", "mine": "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, req, err := lendFor(t, "", "--ignorefile", "mine", ".")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(l.locals[buildflags.LocalDockerfile], "Dockerfile.dockerignore")); err != nil || string(b) != "c" {
		t.Errorf("%q %v", b, err)
	}
	if got := l.dockerfile(t, req); got != "FROM scratch\n" {
		t.Errorf("%q", got)
	}
}

func TestDockerfileThatIsALink(t *testing.T) {
	dir := inContext(t)
	outside := t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(outside, "D"):                   "FROM outside\n",
		filepath.Join(dir, "Out.dockerignore"):        "x",
		filepath.Join(outside, "D.dockerignore"):      "y",
		filepath.Join(dir, "Dockerfile.dockerignore"): "z",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"Out": filepath.Join(outside, "D"), "In": "Dockerfile"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	l, req, err := lendFor(t, "", "-f", "Out", ".")
	if err != nil {
		t.Fatal(err)
	}
	if got := l.dockerfile(t, req); got != "FROM outside\n" || req.Attrs["filename"] != "Out" {
		t.Errorf("%q, attrs %v", got, req.Attrs)
	}
	if b, err := os.ReadFile(filepath.Join(l.locals[buildflags.LocalDockerfile], "Out.dockerignore")); err != nil || string(b) != "x" {
		t.Errorf("ignore file %q %v", b, err)
	}
	if l, _, err = lendFor(t, "", "-f", "In", "."); err != nil || l.locals[buildflags.LocalDockerfile] != "." {
		t.Errorf("a link inside is sent as it is: %v %v", l, err)
	}
}

func TestSharedKeys(t *testing.T) {
	inContext(t)
	if err := os.Mkdir("sub", 0o700); err != nil {
		t.Fatal(err)
	}
	l, req, err := lendFor(t, "", "--build-context", "a=sub", ".")
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := lendFor(t, "", ".")
	if err != nil {
		t.Fatal(err)
	}
	if l.sharedKey == "" || l.sharedKey != again.sharedKey {
		t.Errorf("the same directory is %q and %q", l.sharedKey, again.sharedKey)
	}
	if k := req.Attrs["sharedkey:localdir:a"]; k == "" || k == l.sharedKey {
		t.Errorf("another directory is %q", k)
	}
	stdin, _, err := lendFor(t, "FROM x", "-")
	if err != nil || stdin.sharedKey != "" {
		t.Errorf("a temporary directory is remembered: %q %v", stdin.sharedKey, err)
	}
}

func TestMountsTellVersionsToOurs(t *testing.T) {
	inContext(t)
	l, _, err := lendFor(t, "", ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, ours := range []bool{true, false} {
		m, err := l.mounts(ours)
		if err != nil {
			t.Fatal(err)
		}
		if len(m) != 2 || m["context"] == nil || m["dockerfile"] == nil {
			t.Errorf("mounts %v", m)
		}
	}
}
