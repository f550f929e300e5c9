package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// mirrorVariable names the directory of the registry that stands for docker.io.
const mirrorVariable = "BUILDKIT_REGISTRY_MIRROR_DIR"

// fixturesVersion is raised when fixtures change, so that older ones are not used.
const fixturesVersion = "6"

// fixtures are what the tests find on the machine, in a directory that is made once.
type fixtures struct{ dir string }

func (f *fixtures) mirror() string    { return filepath.Join(f.dir, "mirror") } // storage of the registry
func (f *fixtures) path() string      { return filepath.Join(f.dir, "path") }   // programs
func (f *fixtures) keys() string      { return filepath.Join(f.dir, "keys") }   // what signs commits
func (f *fixtures) tls() string       { return filepath.Join(f.dir, "tls") }
func (f *fixtures) www() string       { return filepath.Join(f.dir, "www") } // files of the stand-in internet
func (f *fixtures) authority() string { return filepath.Join(f.tls(), "ca.crt") }

// makeFixtures makes the fixtures, unless these are there. module is upstream's.
func makeFixtures(ctx context.Context, dir, module string) (*fixtures, error) {
	f := &fixtures{dir: filepath.Join(dir, "fixtures-"+fixturesVersion)}
	done := filepath.Join(f.dir, "done")
	switch _, err := os.Stat(done); {
	case err == nil:
		return f, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	fmt.Println("making fixtures")
	if err := os.RemoveAll(f.dir); err != nil {
		return nil, err
	}
	for _, d := range []string{f.mirror(), f.path(), f.keys(), f.tls(), f.www()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	registry, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, err
	}
	if err := os.Symlink(registry, filepath.Join(f.path(), "registry")); err != nil {
		return nil, err
	}
	if err := makeCertificates(f.tls()); err != nil {
		return nil, err
	}
	if err := f.makeKeys(ctx, module); err != nil {
		return nil, err
	}
	if err := f.makeWWW(); err != nil {
		return nil, err
	}
	busybox, err := makeBusybox(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := f.makeMirror(ctx, busybox); err != nil {
		return nil, err
	}
	return f, os.WriteFile(done, nil, 0o644)
}

// makeKeys makes what signs commits: for gpg with upstream's own script; for ssh here, since
// upstream's needs a newer git than Debian has.
func (f *fixtures) makeKeys(ctx context.Context, module string) error {
	for _, user := range []string{"user1", "user2"} {
		cmd := exec.CommandContext(ctx, "sh", filepath.Join(module, "hack/fixtures/gen_gpg_test_env.sh"), user)
		cmd.Env = append(os.Environ(), "BUILDKIT_TEST_SIGN_FIXTURES="+f.keys())
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("make keys for gpg: %w\n%s", err, out)
		}
		key := user + ".ssh"
		if err := command(ctx, f.keys(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", user+"@example.com", "-f", key); err != nil {
			return err
		}
		const config = "[gpg]\nformat = ssh\n[user]\nsigningkey = %s\nname = Test Git %s\nemail = %[2]s@example.com\n[commit]\ngpgsign = true\n"
		text := fmt.Appendf(nil, config, filepath.Join(f.keys(), key), user)
		if err := os.WriteFile(filepath.Join(f.keys(), key+".gitconfig"), text, 0o644); err != nil {
			return err
		}
	}
	// The agent that gpg started would outlive us.
	stop := exec.CommandContext(ctx, "gpgconf", "--kill", "all")
	stop.Env = append(os.Environ(), "GNUPGHOME="+filepath.Join(f.keys(), "gnupg"))
	return stop.Run()
}

// makeWWW puts the files of the internet that tests read where the tests look. Of one the
// tests know the first words.
func (f *fixtures) makeWWW() error {
	for _, name := range []string{"moby/buildkit/v0.10.1/README.md", "moby/moby/v20.10.21/README.md"} {
		at := filepath.Join(f.www(), name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte("The Moby Project\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeMirror pushes the stand-ins into a registry whose storage the tests use later.
func (f *fixtures) makeMirror(ctx context.Context, busybox string) error {
	authority, err := os.ReadFile(f.authority())
	if err != nil {
		return err
	}
	images, foreign, err := standins(busybox, authority)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(f.www(), "foreign.tar"), foreign, 0o644); err != nil {
		return err
	}
	const config = "version: 0.1\nloglevel: debug\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: 127.0.0.1:0\n%s"
	storage := filepath.Join(f.mirror(), "data")
	if err := os.WriteFile(filepath.Join(f.mirror(), "config.yaml"), fmt.Appendf(nil, config, storage, ""), 0o644); err != nil {
		return err
	}
	// The manifest of the foreign layer names an address.
	pushing := filepath.Join(f.dir, "push.yaml")
	if err := os.WriteFile(pushing, fmt.Appendf(nil, config, storage, "validation:\n  manifests:\n    urls:\n      allow: [\".*\"]\n"), 0o644); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, filepath.Join(f.path(), "registry"), "serve", pushing)
	log, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		stop()
		_ = cmd.Wait() // it was killed
	}()
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		m := listening.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		go func() { _, _ = io.Copy(io.Discard, log) }() // ends with the registry
		for _, i := range images {
			if err := i.push(m[1]); err != nil {
				return fmt.Errorf("push %s: %w", i.Name, err)
			}
		}
		return nil
	}
	return errors.Join(errors.New("docker-registry does not listen"), lines.Err())
}

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
