package git

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dbuild/dbuild/session"
)

// A runner runs git for one request.
type runner struct {
	program string
	remote  *remote
	env     []string
	config  [][2]string
	secrets []string // never shown
	close   func()
}

// maxOutput bounds what is read of git's output, in bytes: an answer to ls-remote has a
// line for each ref.
const maxOutput = 64 << 20

// runner prepares git for a request: its environment, and the client's credentials. Close
// must be called.
func (s *Source) runner(ctx context.Context, g session.Group, req Request) (_ *runner, err error) {
	r, err := parseRemote(req.Remote)
	if err != nil {
		return nil, err
	}
	if r.scheme == "file" && !s.cfg.AllowFile {
		return nil, fmt.Errorf("%s: repositories on the daemon's own disk are not allowed", r)
	}
	home, err := os.MkdirTemp("", "dbuild-git-")
	if err != nil {
		return nil, err
	}
	u := &runner{program: s.cfg.Program, remote: r, close: func() { os.RemoveAll(home) }}
	defer func() {
		if err != nil {
			u.close()
		}
	}()
	allow := "https:http:git:ssh"
	if s.cfg.AllowFile {
		allow += ":file"
	}
	ssh := "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15"
	if req.KnownHosts != "" {
		file := filepath.Join(home, "known_hosts")
		if err := os.WriteFile(file, []byte(req.KnownHosts), 0o600); err != nil {
			return nil, err
		}
		ssh += " -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + file
	} else {
		ssh += " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
	}
	u.env = []string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=false", "SSH_ASKPASS=false", "GIT_ALLOW_PROTOCOL=" + allow,
		"GIT_ATTR_NOSYSTEM=1", "GIT_SSH_COMMAND=" + ssh, "GIT_SSH_VARIANT=ssh",
	}
	for _, k := range []string{
		"http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
		"SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "TMPDIR",
	} {
		if v, ok := os.LookupEnv(k); ok {
			u.env = append(u.env, k+"="+v)
		}
	}
	u.config = [][2]string{
		{"core.hooksPath", "/dev/null"}, {"core.fsmonitor", "false"}, {"core.autocrlf", "false"}, {"core.symlinks", "true"},
		{"credential.helper", ""}, {"protocol.version", "2"}, {"gc.auto", "0"}, {"fetch.unpackLimit", "1"}, // a pack is there whole or not at all
		{"maintenance.auto", "false"},
		{"http.lowSpeedLimit", "1"}, {"http.lowSpeedTime", "30"}, {"init.defaultBranch", "main"}, {"advice.detachedHead", "false"},
		{"safe.directory", "*"}, // the daemon's own, whoever it runs as
	}
	if err := s.credentials(ctx, g, req, u); err != nil {
		return nil, err
	}
	if r.scheme == "ssh" && req.SSH != "" {
		sock, stop, err := s.cfg.Sessions.SSHSocket(ctx, g, session.SSHOptions{ID: req.SSH, Dir: home, UID: os.Getuid(), GID: os.Getgid()})
		if err != nil {
			return nil, err
		}
		u.env = append(u.env, "SSH_AUTH_SOCK="+sock)
		rm := u.close
		u.close = func() {
			_ = stop() // the directory goes as well
			rm()
		}
	}
	return u, nil
}

// credentials gives git the header by which it is known to the remote, and only to it.
func (s *Source) credentials(ctx context.Context, g session.Group, req Request, u *runner) error {
	r := u.remote
	if r.scheme != "https" && r.scheme != "http" {
		return nil
	}
	header := ""
	if r.user != "" || r.pass != "" {
		header = "basic " + base64.StdEncoding.EncodeToString([]byte(r.user+":"+r.pass))
		u.secrets = append(u.secrets, r.pass)
	}
	type candidate struct{ secret, prefix string }
	var list []candidate
	for _, c := range []candidate{{req.AuthHeaderSecret, ""}, {req.AuthTokenSecret, "x-access-token:"}} {
		if c.secret != "" && header == "" {
			list = append(list, candidate{c.secret + "." + r.hostname(), c.prefix}, c)
		}
	}
	for _, c := range list {
		v, err := s.cfg.Sessions.Secret(ctx, g, c.secret)
		if errors.Is(err, session.ErrNoSecret) || errors.Is(err, session.ErrNoSession) {
			continue
		}
		if err != nil {
			return err
		}
		header = strings.TrimSpace(string(v))
		u.secrets = append(u.secrets, header)
		if c.prefix != "" {
			header = "basic " + base64.StdEncoding.EncodeToString([]byte(c.prefix+header))
		}
		break
	}
	if header == "" {
		return nil
	}
	if strings.ContainsAny(header, "\r\n\x00") {
		return errors.New("the credentials for the repository have more than one line")
	}
	u.secrets = append(u.secrets, strings.TrimPrefix(header, "basic "))
	u.config = append(u.config, [2]string{"http." + r.scheme + "://" + r.host + "/.extraHeader", "Authorization: " + header})
	return nil
}

// A runError is a git that failed.
type runError struct {
	command string
	stderr  string
	err     error
}

func (e *runError) Error() string {
	msg := strings.TrimSpace(e.stderr)
	if msg == "" {
		msg = e.err.Error()
	}
	return fmt.Sprintf("git %s: %s", e.command, msg)
}

func (e *runError) Unwrap() error { return e.err }

// says reports whether a git that failed complained with one of these words.
func says(err error, words ...string) bool {
	var e *runError
	if !errors.As(err, &e) {
		return false
	}
	for _, w := range words {
		if strings.Contains(strings.ToLower(e.stderr), w) {
			return true
		}
	}
	return false
}

// git runs a command in a repository, or in none if dir is empty, and returns what it
// printed. env is added to the environment.
func (u *runner) git(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	// A umask cannot be set for a child alone.
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `umask 022 && exec "$0" "$@"`, u.program}, args...)...)
	cmd.Env = append(append(cmd.Env, u.env...), env...)
	if dir != "" {
		cmd.Env = append(cmd.Env, "GIT_DIR="+dir)
	}
	cmd.Env = append(cmd.Env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(u.config)))
	for i, kv := range u.config {
		cmd.Env = append(cmd.Env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	cmd.Dir = "/"
	stdout, stderr := &limited{max: maxOutput}, &limited{max: 16 << 10, tail: true}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		if args[0] == "-C" {
			args = args[2:]
		}
		return "", &runError{command: args[0], stderr: u.redact(stderr.buf.String()), err: err}
	case stdout.over:
		return "", fmt.Errorf("git %s: printed more than %d bytes", args[0], maxOutput)
	}
	return stdout.buf.String(), nil
}

// redact takes what is secret out of a text, and what a terminal would obey.
func (u *runner) redact(s string) string {
	for _, secret := range u.secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "xxxxx")
		}
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\n' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

// limited keeps the first max bytes, or with tail the last.
type limited struct {
	buf  bytes.Buffer
	max  int
	tail bool
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := len(p)
	if l.buf.Len()+n > l.max {
		l.over = true
		if !l.tail {
			return n, nil
		}
		p = p[max(0, n-l.max):]
		l.buf.Next(max(0, l.buf.Len()+len(p)-l.max))
	}
	l.buf.Write(p)
	return n, nil
}
