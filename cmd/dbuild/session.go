package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/contextfs"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/moby/go-archive/compression"
	"github.com/tonistiigi/fsutil"
)

// maxDockerfile is the size in bytes of the largest Dockerfile that is read from standard
// input or a URL.
const maxDockerfile = 4 << 20

// lent is what the build may use of this machine.
type lent struct {
	locals    map[string]string // directories by the frontend's name
	session   []session.Attachable
	stores    map[string]content.Store
	sharedKey string
	temps     []string
	closers   []func() // of engines
	again     string   // another URL of a context that comes from standard input, to be read once
}

// close removes temporary files. Nothing may be using them.
func (l *lent) close() {
	for _, c := range l.closers {
		c()
	}
	for _, dir := range l.temps {
		os.RemoveAll(dir)
	}
}

// lend gets ready what the request says: it reads standard input and remote Dockerfiles,
// and opens secrets, agents and layouts. Options of the frontend may be added.
func (a *app) lend(ctx context.Context, req *buildflags.Request, dockerConfig *configfile.ConfigFile) (_ *lent, err error) {
	l := &lent{locals: req.Locals}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	l.session = append(l.session, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(dockerConfig),
	}))
	if err := a.lendSources(ctx, l, req); err != nil {
		return nil, err
	}
	if len(req.Secrets) > 0 {
		store, err := secretsprovider.NewStore(req.Secrets)
		if err != nil {
			return nil, err
		}
		l.session = append(l.session, secretsprovider.NewSecretProvider(store))
	}
	if len(req.SSH) > 0 {
		agents, err := sshprovider.NewSSHAgentProvider(req.SSH)
		if err != nil {
			return nil, fmt.Errorf("--ssh: %w", err)
		}
		l.session = append(l.session, agents)
	}
	for id, dir := range req.Layouts {
		store, err := contentlocal.NewStore(dir)
		if err != nil {
			return nil, fmt.Errorf("OCI layout %s: %w", dir, err)
		}
		l.lendStore(id, store)
	}
	if err := a.lendImages(ctx, l, req, dockerConfig); err != nil {
		return nil, err
	}
	l.share(req)
	return l, nil
}

// lendSources reads what does not come from a directory.
func (a *app) lendSources(ctx context.Context, l *lent, req *buildflags.Request) error {
	var text []byte // the Dockerfile, where it is not a file
	var err error
	switch {
	case req.Context == buildflags.FromStdin:
		in := bufio.NewReaderSize(a.stdin, 1024)
		if isArchive(in) {
			if err := a.lendArchive(l, req, in); err != nil {
				return err
			}
			break
		}
		if req.Dockerfile != buildflags.InContext {
			return errors.New("standard input is not a tar, and the Dockerfile comes from elsewhere")
		}
		if text, err = readDockerfile(in, "standard input"); err != nil {
			return err
		}
		if l.locals[buildflags.LocalContext], err = l.temporary(); err != nil {
			return err
		}
		req.Attrs["filename"] = "Dockerfile"
	case req.Dockerfile == buildflags.FromStdin:
		if text, err = readDockerfile(a.stdin, "standard input"); err != nil {
			return err
		}
	}
	if req.Dockerfile == buildflags.FromURL {
		if text, err = download(ctx, req.DockerfileURL); err != nil {
			return err
		}
	}
	dir := l.locals[buildflags.LocalDockerfile]
	name := req.Attrs["filename"]
	ignore := req.IgnoreFile
	if text == nil && dir != "" {
		if text, ignore, err = detached(dir, name, ignore); err != nil {
			return err
		}
	}
	if text == nil {
		return nil
	}
	if dir, err = l.temporary(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		return err
	}
	if ignore != "" {
		b, err := os.ReadFile(ignore)
		if err != nil {
			return fmt.Errorf("ignore file: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".dockerignore"), b, 0o600); err != nil {
			return err
		}
	}
	l.locals[buildflags.LocalDockerfile] = dir
	if req.Context != buildflags.FromDir {
		req.Attrs["dockerfilekey"] = buildflags.LocalDockerfile
	}
	return nil
}

// lendArchive lends a tar on standard input. Its ignore file counts, unlike those of contexts
// that the daemon fetches by itself.
func (a *app) lendArchive(l *lent, req *buildflags.Request, in io.Reader) error {
	const ignores = "build-arg:BUILDKIT_CONTEXT_IGNORE_REMOTE"
	if _, given := req.Attrs[ignores]; !given {
		req.Attrs[ignores] = "1"
	}
	uploads := uploadprovider.New()
	l.session = append(l.session, uploads)
	if !req.WantsFacts {
		req.Attrs["context"] = uploads.Add(io.NopCloser(in))
		return nil
	}
	dir, err := l.temporary()
	if err != nil {
		return err
	}
	spool, err := os.Create(filepath.Join(dir, "context"))
	if err != nil {
		return err
	}
	_, err = io.Copy(spool, in)
	if cerr := spool.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("keep standard input: %w", err)
	}
	for _, url := range []func(string){func(s string) { req.Attrs["context"] = s }, func(s string) { l.again = s }} {
		f, err := os.Open(spool.Name())
		if err != nil {
			return err
		}
		url(uploads.Add(f))
	}
	return nil
}

// detached returns the text of a Dockerfile that cannot be sent from where it is: because
// it is a link to outside of its directory, or has an ignore file elsewhere. Otherwise the
// text is nil.
func detached(dir, name, ignore string) ([]byte, string, error) {
	path := filepath.Join(dir, name)
	outside := false
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSymlink != 0 {
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, "", fmt.Errorf("the Dockerfile cannot be read: %w", err)
		}
		root, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return nil, "", err
		}
		rel, err := filepath.Rel(root, target)
		outside = err != nil || rel == ".." || strings.HasPrefix(rel, "../")
	}
	if !outside && ignore == "" {
		return nil, "", nil
	}
	if own := path + ".dockerignore"; ignore == "" {
		if fi, err := os.Stat(own); err == nil && !fi.IsDir() {
			ignore = own
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("the Dockerfile cannot be read: %w", err)
	}
	defer f.Close()
	text, err := readDockerfile(f, path)
	return text, ignore, err
}

func readDockerfile(r io.Reader, from string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("Dockerfile from %s: %w", from, err) //nolint:staticcheck // a name
	case len(text) > maxDockerfile:
		return nil, fmt.Errorf("the Dockerfile from %s is larger than %d bytes", from, maxDockerfile)
	case len(bytes.TrimSpace(text)) == 0:
		return nil, fmt.Errorf("the Dockerfile from %s is empty", from)
	}
	return text, nil
}

func download(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("-f %s: %w", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("-f: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("-f %s: the server answers %s", url, resp.Status)
	}
	return readDockerfile(resp.Body, url)
}

// isArchive tells whether a tar begins, compressed or not, without taking it.
func isArchive(r *bufio.Reader) bool {
	head, _ := r.Peek(512)
	if compression.Detect(head) != compression.None {
		return true
	}
	if len(head) < 512 {
		return false
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

// mounts opens the directories. A daemon of ours is told versions of files.
func (l *lent) mounts(ours bool) (map[string]fsutil.FS, error) {
	out := make(map[string]fsutil.FS, len(l.locals))
	for name, dir := range l.locals {
		f, err := contextfs.New(dir)
		if err != nil {
			return nil, fmt.Errorf("context %s: %w", dir, err)
		}
		if ours {
			f = f.WithVersions(statXattr, clientStat)
		}
		out[name] = f
	}
	return out, nil
}

// share lets the daemon recognize the directories when they come again.
func (l *lent) share(req *buildflags.Request) {
	for name, dir := range l.locals {
		if req.Context == buildflags.FromDir && name == buildflags.LocalContext {
			l.sharedKey = directoryKey(dir)
		}
		if name != buildflags.LocalContext && name != buildflags.LocalDockerfile {
			req.Attrs["sharedkey:localdir:"+name] = directoryKey(dir)
		}
	}
}

// directoryKey names a directory of this user on this machine.
func directoryKey(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	node, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		host, _ := os.Hostname()
		node = []byte(host)
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(string(node)) + "\x00" + strconv.Itoa(os.Getuid()) + "\x00" + dir))
	return hex.EncodeToString(sum[:16])
}

func nearestCommand(word string, commands []string) string { return suggest.Nearest(word, commands) }
