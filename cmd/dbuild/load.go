package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/engine"
	"github.com/dbuild/dbuild/session"
	"github.com/docker/cli/cli/config/configfile"
)

// A load hands an image to an engine.
type load interface {
	// wait returns when the engine has the image.
	wait(context.Context) error
	// failure returns why the engine took no more, if that is so.
	failure() error
	// kill ends what is going on; no-op afterwards.
	kill()
}

// A streamLoad takes the image as an archive.
type streamLoad interface {
	load
	// open is told what image will come. None comes if it returns no writer.
	open(md map[string]string) (io.WriteCloser, error)
}

// askTimeout is how long an engine may think about a question. Without an answer it gets
// the image.
const askTimeout = 10 * time.Second

// newLoad finds the engine: docker's if there is one, or else what a command leads to.
func (a *app) newLoad(ctx context.Context, e buildflags.Export, c *configfile.ConfigFile) (streamLoad, error) {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	switch e.Engine {
	case "podman":
		return a.newPodmanLoad(ask)
	case "nerdctl":
		return a.newCommandLoad(e.Engine)
	}
	docker, err := engine.Open(ask, engine.Choice{Context: e.Attrs["context"], Config: c})
	if err == nil {
		return newEngineLoad(docker, a.stderr), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if e.Attrs["context"] != "" || os.Getenv("DOCKER_HOST") != "" {
		return nil, err
	}
	if l, lerr := a.newCommandLoad("docker"); lerr == nil {
		// The command may be podman's, or know a way to its engine that we don't.
		if l.ask("version") != nil {
			return nil, err
		}
		return l, nil
	}
	if e.Engine == "" {
		if l, lerr := a.newPodmanLoad(ask); lerr == nil {
			return l, nil
		}
		if l, lerr := a.newCommandLoad("nerdctl"); lerr == nil {
			return l, nil
		}
	}
	var unreachable *engine.UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Denied() || e.Engine != "" {
		return nil, err
	}
	return nil, fmt.Errorf("--load needs an engine: %w, and there is none of the commands docker, podman, nerdctl; write a file with -o type=docker,dest=FILE", err)
}

// newPodmanLoad uses podman's service, which speaks docker's API, if it runs, or the command.
func (a *app) newPodmanLoad(ctx context.Context) (streamLoad, error) {
	if e, err := engine.Open(ctx, engine.Choice{Socket: podmanSocket()}); err == nil {
		return newEngineLoad(e, a.stderr), nil
	}
	return a.newCommandLoad("podman")
}

// podmanSocket is where podman's service listens for this user, as podman has it.
func podmanSocket() string {
	if host := os.Getenv("CONTAINER_HOST"); strings.HasPrefix(host, "unix://") {
		return host
	}
	dir := "/run"
	if os.Getuid() != 0 {
		dir = os.Getenv("XDG_RUNTIME_DIR")
	}
	return "unix://" + filepath.Join(dir, "podman", "podman.sock")
}

func (a *app) newCommandLoad(name string) (*commandLoad, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("--load=%s: there is no such command", name)
	}
	return &commandLoad{path: path, name: name, out: a.stderr}, nil
}

// answerLoads answers the daemon's questions to the engines of outputs, which are by number.
func answerLoads(loads map[int]*engineLoad) session.LoadAnswerer {
	return func(ctx context.Context, q session.LoadQuestion) (session.LoadAnswer, error) {
		if l := loads[q.Exporter]; l != nil {
			return l.answer(ctx, q)
		}
		return session.LoadAnswer{}, nil
	}
}

// idsOf returns what an engine may call the image: by its config or, with containerd, by
// its manifest.
func idsOf(md map[string]string) []string {
	var ids []string
	for _, key := range []string{keyConfigDigest, keyDigest} {
		if id := md[key]; id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// namesOf returns the names that the image is to get.
func namesOf(md map[string]string) []string {
	return strings.FieldsFunc(md["image.name"], func(r rune) bool { return r == ',' })
}
