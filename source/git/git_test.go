package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/solver/pb"
)

// A repo is a remote with a work tree beside it.
type repo struct {
	t    *testing.T
	bare string
	work string
}

func newRepo(t *testing.T, args ...string) *repo {
	t.Helper()
	r := &repo{t: t, bare: filepath.Join(t.TempDir(), "r.git"), work: t.TempDir()}
	r.run(append([]string{"init", "-q", "--bare", "-b", "trunk", r.bare}, args...)...)
	r.run(append([]string{"init", "-q", "-b", "trunk", r.work}, args...)...)
	r.in("remote", "add", "origin", r.bare)
	return r
}

func (r *repo) run(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@c",
		"GIT_AUTHOR_DATE=2020-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2020-01-02T03:04:05Z", "GIT_ALLOW_PROTOCOL=file")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) in(args ...string) string {
	r.t.Helper()
	return r.run(append([]string{"-C", r.work}, args...)...)
}

// commit writes a file, pushes a commit with it to the ref, and returns its id.
func (r *repo) commit(path, content, ref string) string {
	r.t.Helper()
	name := filepath.Join(r.work, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644)); err != nil {
		r.t.Fatal(err)
	}
	r.in("add", "-A")
	r.in("commit", "-q", "-m", content)
	r.in("push", "-q", "-f", "origin", "HEAD:"+ref)
	r.run("-C", r.bare, "update-server-info")
	return r.in("rev-parse", "HEAD")
}

func (r *repo) url() string { return "file://" + r.bare }

type world struct {
	t     *testing.T
	src   *Source
	m     *session.Manager
	group session.Group
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store, err := snapshot.Open(t.Context(), snapshot.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	m, err := session.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, src: New(Config{Store: store, Sessions: m, AllowFile: true}), m: m}
}

// get pins and fetches and returns the files; links show as "-> target".
func (w *world) get(req Request) (*Pin, map[string]string) {
	w.t.Helper()
	p, err := w.src.Pin(w.t.Context(), w.group, req, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return p, w.fetch(p)
}

func (w *world) fetch(p *Pin) map[string]string {
	w.t.Helper()
	ref, err := w.src.Fetch(w.t.Context(), w.group, p, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer ref.Release()
	m, err := ref.Mount(w.t.Context(), snapshot.Access{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		if err := m.Unmount(); err != nil {
			w.t.Error(err)
		}
	}()
	files := map[string]string{}
	err = filepath.WalkDir(m.Root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(name, m.Root), "/")
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.Name() == ".git":
			cmd := exec.Command("git", "-c", "safe.directory=*", "-C", filepath.Dir(name), "log", "--format=%H")
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			log, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, log)
			}
			files[rel] = strings.TrimSpace(string(log))
			return fs.SkipDir
		case fi.Mode().Type() == fs.ModeSymlink:
			link, err := os.Readlink(name)
			files[rel] = "-> " + link
			return err
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(name)
			files[rel] = string(b)
			if perm := fi.Mode().Perm(); perm != 0o644 && perm != 0o755 {
				w.t.Errorf("%s has mode %v", rel, perm)
			}
			if p.req.CommitTime && fi.ModTime().Unix() != time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC).Unix() {
				w.t.Errorf("%s has time %v", rel, fi.ModTime())
			}
			return err
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return files
}

func (w *world) want(req Request, commit string, files map[string]string) *Pin {
	w.t.Helper()
	p, got := w.get(req)
	if p.Commit != commit || fmt.Sprint(got) != fmt.Sprint(files) {
		w.t.Errorf("%+v: got commit %s with %q, want %s with %q", req, p.Commit, got, commit, files)
	}
	return p
}

func TestRefs(t *testing.T) {
	w, r := newWorld(t), newRepo(t)
	one := r.commit("f", "1", "trunk")
	two := r.commit("f", "2", "refs/pull/42/head")
	three := r.commit("f", "3", "side/branch")
	r.in("tag", "-a", "-m", "x", "v1")
	r.in("push", "-q", "origin", "v1")
	for ref, want := range map[string][2]string{
		"": {one, "1"}, "HEAD": {one, "1"}, "trunk": {one, "1"}, "refs/heads/trunk": {one, "1"}, "pull/42/head": {two, "2"},
		"refs/pull/42/head": {two, "2"}, "side/branch": {three, "3"}, "v1": {three, "3"}, "refs/tags/v1": {three, "3"},
		two: {two, "2"},
	} {
		w.want(Request{Remote: r.url(), Ref: ref}, want[0], map[string]string{"f": want[1]})
	}
	for ref, want := range map[string]string{
		"branch": "contain ref", "nothing": "contain ref", "0123456789": "contain ref", one[:10]: "full id", strings.Repeat("0", 40): "no commit",
		"-x": "not a ref", "a..b": "not a ref", "--upload-pack=touch /tmp/x": "not a ref",
	} {
		p, err := w.src.Pin(t.Context(), nil, Request{Remote: r.url(), Ref: ref}, nil)
		if err == nil {
			_, err = w.src.Fetch(t.Context(), nil, p, nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", ref, err)
		}
	}
	for sum, ok := range map[string]bool{one: true, one[:7]: true, two: false} {
		if _, err := w.src.Pin(t.Context(), nil, Request{Remote: r.url(), Ref: "trunk", Checksum: sum}, nil); (err == nil) != ok {
			t.Errorf("checksum %s: %v", sum, err)
		}
	}
}

// Every build asks what a branch is, and what was pinned is what is fetched.
func TestMovingBranch(t *testing.T) {
	w, r := newWorld(t), newRepo(t)
	req := Request{Remote: r.url(), Ref: "trunk"}
	one := r.commit("f", "1", "trunk")
	a := w.want(req, one, map[string]string{"f": "1"})
	b, err := w.src.Pin(t.Context(), nil, req, nil)
	if err != nil || a.ID() != b.ID() {
		t.Errorf("an unmoved branch has another ID (%v)", err)
	}
	two := r.commit("f", "2", "trunk")
	c, err := w.src.Pin(t.Context(), nil, req, nil)
	if err != nil {
		t.Fatal(err)
	}
	three := r.commit("f", "3", "trunk")
	if got := w.fetch(c); c.Commit != two || got["f"] != "2" {
		t.Errorf("pinned %s, got %q", c.Commit, got)
	}
	w.want(req, three, map[string]string{"f": "3"})
	// A commit that is here needs no remote.
	if err := os.Rename(r.bare, r.bare+".gone"); err != nil {
		t.Fatal(err)
	}
	w.want(Request{Remote: r.url(), Ref: two}, two, map[string]string{"f": "2"})
	if _, err := w.src.Pin(t.Context(), nil, req, nil); err == nil {
		t.Error("a branch was pinned without its remote")
	}
}

func TestHexBranch(t *testing.T) {
	w, r := newWorld(t), newRepo(t)
	one := r.commit("f", "1", "trunk")
	name := strings.Repeat("ab", 20)
	r.run("-C", r.bare, "update-ref", "refs/heads/"+name, one)
	p, err := w.src.Pin(t.Context(), nil, Request{Remote: r.url(), Ref: name}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.src.Fetch(t.Context(), nil, p, nil)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q looks like a commit id; remote also has branch refs/heads/%s – use #refs/heads/%[1]s", name, name)) &&
		!strings.Contains(err.Error(), "use #refs/heads/"+name) {
		t.Errorf("got %v", err)
	}
	w.want(Request{Remote: r.url(), Ref: "refs/heads/" + name}, one, map[string]string{"f": "1"})
}

func TestSubdir(t *testing.T) {
	w, r := newWorld(t), newRepo(t)
	r.commit("top", "t", "trunk")
	if err := os.Symlink("/etc", filepath.Join(r.work, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../top", filepath.Join(r.work, "link")); err != nil {
		t.Fatal(err)
	}
	id := r.commit("a/b/f", "deep", "trunk")
	w.want(Request{Remote: r.url(), Subdir: "a/b"}, id, map[string]string{"f": "deep"})
	w.want(Request{Remote: r.url(), Subdir: "/a/./"}, id, map[string]string{"b/f": "deep"})
	w.want(Request{Remote: r.url(), Subdir: "a/b", KeepGitDir: true}, id, map[string]string{"f": "deep", ".git": id})
	for _, sub := range []string{"missing", "top", "out", "out/ssh", "link", "../x", "a/../../x", ".git", "a/.GIT/x"} {
		for _, keep := range []bool{false, true} {
			p, err := w.src.Pin(t.Context(), nil, Request{Remote: r.url(), Subdir: sub, KeepGitDir: keep}, nil)
			if err == nil {
				_, err = w.src.Fetch(t.Context(), nil, p, nil)
			}
			if err == nil || !strings.Contains(err.Error(), "directory") {
				t.Errorf("%s: got %v", sub, err)
			}
		}
	}
}

func TestKeepGitDir(t *testing.T) {
	w, r := newWorld(t), newRepo(t)
	r.commit("f", "1", "trunk")
	two := r.commit("f", "2", "trunk")
	w.want(Request{Remote: r.url(), KeepGitDir: true, CommitTime: true}, two, map[string]string{"f": "2", ".git": two})
}

func TestSubmodules(t *testing.T) {
	w, sub, r := newWorld(t), newRepo(t), newRepo(t)
	sub.commit("s", "sub", "trunk")
	r.in("submodule", "--quiet", "add", sub.url(), "mod")
	id := r.commit("d/f", "1", "trunk")
	_, files := w.get(Request{Remote: r.url()})
	if files["mod/s"] != "sub" || files["d/f"] != "1" || files["mod/.git"] != "" || files[".git"] != "" {
		t.Errorf("got %q", files)
	}
	w.want(Request{Remote: r.url(), Subdir: "d"}, id, map[string]string{"f": "1"})
	_, files = w.get(Request{Remote: r.url(), SkipSubmodules: true})
	if _, ok := files["mod/s"]; ok {
		t.Errorf("got %q", files)
	}
}

func TestSHA256(t *testing.T) {
	w, r := newWorld(t), newRepo(t, "--object-format=sha256")
	id := r.commit("f", "1", "trunk")
	w.want(Request{Remote: r.url(), KeepGitDir: true}, id, map[string]string{"f": "1", ".git": id})
	w.want(Request{Remote: r.url(), Ref: id}, id, map[string]string{"f": "1"})
}

// backend serves a repository over HTTP as GitHub does.
func backend(r *repo) *cgi.Handler {
	return &cgi.Handler{Path: "/usr/lib/git-core/git-http-backend", Env: []string{
		"GIT_PROJECT_ROOT=" + filepath.Dir(r.bare), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	}, InheritEnv: []string{"PATH"}}
}

func TestHTTP(t *testing.T) {
	w, r := newWorld(t), newRepo(t)
	r.commit("f", "1", "trunk")
	two := r.commit("f", "2", "trunk")
	h := backend(r)
	var noHead, auth atomic.Value
	auth.Store("")
	smart := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodHead && noHead.Load() != nil {
			rw.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if want := auth.Load().(string); want != "" && req.Header.Get("Authorization") != want {
			rw.Header().Set("WWW-Authenticate", "Basic")
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		req.Header.Set("Git-Protocol", req.Header.Get("Git-Protocol"))
		h.ServeHTTP(rw, req)
	}))
	t.Cleanup(smart.Close)
	noHead.Store(true)
	w.want(Request{Remote: smart.URL + "/r.git", KeepGitDir: true}, two, map[string]string{"f": "2", ".git": two})

	dumb := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(r.bare))))
	t.Cleanup(dumb.Close)
	w.want(Request{Remote: dumb.URL + "/r.git"}, two, map[string]string{"f": "2"})

	auth.Store("basic bWU6aHVudGVyMg==") // me:hunter2
	private := strings.Replace(smart.URL, "//", "//me:hunter2@", 1) + "/r.git"
	w.src = newWorld(t).src
	p := w.want(Request{Remote: private}, two, map[string]string{"f": "2"})
	if strings.Contains(p.URI(), "hunter2") {
		t.Errorf("URI is %s", p.URI())
	}
	_, err := w.src.Pin(t.Context(), nil, Request{Remote: strings.Replace(private, "hunter2", "hunter3", 1)}, nil)
	if err == nil || strings.Contains(err.Error(), "hunter3") {
		t.Errorf("got %v", err)
	}
	auth.Store("basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=") // x-access-token:t0ken
	w.join(secretsprovider.FromMap(map[string][]byte{"GIT_AUTH_TOKEN.127.0.0.1": []byte("t0ken\n"), "GIT_AUTH_TOKEN": []byte("other")}))
	w.want(Request{Remote: smart.URL + "/r.git", AuthTokenSecret: "GIT_AUTH_TOKEN", AuthHeaderSecret: "GIT_AUTH_HEADER"}, two, map[string]string{"f": "2"})
}

func (w *world) join(offers ...bksession.Attachable) {
	w.t.Helper()
	s, err := bksession.NewSession(w.t.Context(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range offers {
		s.Allow(o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() {
		_ = s.Run(ctx, func(ctx context.Context, _ string, meta map[string][]string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				_ = w.m.HandleConn(ctx, ours, meta)
				done <- struct{}{}
			}()
			return theirs, nil
		})
		done <- struct{}{}
	}()
	w.t.Cleanup(func() {
		cancel()
		<-done
		<-done
	})
	w.src.cfg.Sessions = w.m
	w.group = session.NewGroup(s.ID())
}

// A git that hangs is gone, with all it started, when the build is cancelled.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	fake := filepath.Join(dir, "git")
	pids := filepath.Join(dir, "pids")
	script := "#!/bin/sh\nsleep 1000 &\necho $$ $! > " + pids + ".new && mv " + pids + ".new " + pids + "\nwait\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	w.src.cfg.Program = fake
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := w.src.Pin(ctx, nil, Request{Remote: "https://example.invalid/x"}, nil)
		done <- err
	}()
	var list []byte
	poll(t, func() bool {
		list, _ = os.ReadFile(pids)
		return len(list) > 0
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for pid := range strings.FieldsSeq(string(list)) {
		poll(t, func() bool {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			return err != nil || strings.Contains(string(stat), ") Z ")
		})
	}
}

func poll(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
	}
}

// Nothing of the machine's or the repository's configuration is executed.
func TestHardening(t *testing.T) {
	w, r := newWorld(t), newRepo(t)
	id := r.commit(".gitattributes", "* filter=evil\n", "trunk")
	home := t.TempDir()
	mark := filepath.Join(home, "mark")
	config := fmt.Sprintf("[filter \"evil\"]\n\tsmudge = touch %s; cat\n[core]\n\tfsmonitor = touch %[1]s\n[url \"file:///nowhere\"]\n\tinsteadOf = file://\n", mark)
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("GIT_CONFIG_PARAMETERS", "'core.fsmonitor=touch "+mark+"'")
	t.Setenv("GIT_DIR", "/nowhere")
	w.want(Request{Remote: r.url(), KeepGitDir: true}, id, map[string]string{".gitattributes": "* filter=evil\n", ".git": id})
	w.want(Request{Remote: r.url()}, id, map[string]string{".gitattributes": "* filter=evil\n"})
	if _, err := os.Stat(mark); err == nil {
		t.Error("a command of the configuration was run")
	}
	w.src.cfg.AllowFile = false
	for _, remote := range []string{r.url(), "ext::sh -c touch% " + mark, "--upload-pack=touch", r.bare, "file://host/x", "ssh://-oProxyCommand=x/y", "-x@h:p"} {
		if _, err := w.src.Pin(t.Context(), nil, Request{Remote: remote}, nil); err == nil {
			t.Errorf("%s was accepted", remote)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		id    string
		attrs map[string]string
		want  Request
		bad   bool
	}{
		{id: "github.com/o/r.git#v1:sub/dir", want: Request{Remote: "https://github.com/o/r.git", Ref: "v1", Subdir: "sub/dir"}},
		{id: "github.com/o/r.git", attrs: map[string]string{pb.AttrFullRemoteURL: "git@github.com:o/r.git", pb.AttrKeepGitDir: "true"},
			want: Request{Remote: "git@github.com:o/r.git", KeepGitDir: true}},
		{id: "h/r", attrs: map[string]string{pb.AttrFullRemoteURL: "http://u:p@h/r#x", pb.AttrMountSSHSock: "default", pb.AttrGitMTime: "commit"},
			want: Request{Remote: "http://u:p@h/r", SSH: "default", CommitTime: true}},
		{id: "github.com/o/r", attrs: map[string]string{pb.AttrFullRemoteURL: "https://evil.com/o/r"}, bad: true},
		{id: "h/r", attrs: map[string]string{pb.AttrGitBundle: "x"}, bad: true},
		{id: "h/r", attrs: map[string]string{pb.AttrGitBundle: "x", pb.AttrGitChecksum: "1234567"}, bad: true},
		{id: "h/r", attrs: map[string]string{pb.AttrGitCheckoutBundle: "true", pb.AttrKeepGitDir: "true"}, bad: true},
		{id: "h/r#:sub", attrs: map[string]string{pb.AttrGitCheckoutBundle: "true"}, bad: true},
		{id: "h/r", attrs: map[string]string{pb.AttrGitSignatureVerifyRequireSignedTag: "true"}, bad: true},
		{id: "h/r", attrs: map[string]string{pb.AttrGitSignatureVerifyPubKey: "k", pb.AttrGitSignatureVerifyRejectExpired: "perhaps"}, bad: true},
		{id: "h/r", attrs: map[string]string{pb.AttrGitSignatureVerifyPubKey: "k", pb.AttrGitSignatureVerifyRejectExpired: "true"},
			want: Request{Remote: "https://h/r", Keys: "k", RejectExpired: true}},
		{id: "h/r", attrs: map[string]string{"git.new": "x"}, bad: true},
		{id: "h/r", attrs: map[string]string{pb.AttrGitChecksum: "nothex"}, bad: true},
		{id: "h/r#a b", bad: true},
		{id: "h/r#x:../y", bad: true},
	} {
		got, err := Parse(c.id, c.attrs)
		if (err != nil) != c.bad || !c.bad && got != c.want {
			t.Errorf("%s: got %+v, %v", c.id, got, err)
		}
	}
}
