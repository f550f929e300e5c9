package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
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

// loaders are the commands that take images as docker does, the usual one first.
var loaders = []string{"docker", "podman", "nerdctl"}

// askTimeout is how long an engine may think about a question. Without an answer it gets
// the image.
const askTimeout = 10 * time.Second

// newLoad finds the engine: docker's if there is one, or else what a command leads to.
func (a *app) newLoad(ctx context.Context, e buildflags.Export, c *configfile.ConfigFile) (streamLoad, error) {
	if e.Engine == "podman" || e.Engine == "nerdctl" {
		return a.newCommandLoad(e.Engine)
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
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
	for _, name := range loaders {
		if e.Engine != "" && e.Engine != name {
			continue
		}
		l, lerr := a.newCommandLoad(name)
		if lerr != nil {
			continue
		}
		// The command may be podman's, or know a way to its engine that we don't.
		if name == "docker" && l.ask("version") != nil {
			return nil, err
		}
		return l, nil
	}
	var unreachable *engine.UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Denied() || e.Engine != "" {
		return nil, err
	}
	return nil, fmt.Errorf("--load needs an engine: %w, and there is none of the commands %s; write a file with -o type=docker,dest=FILE", err, strings.Join(loaders, ", "))
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
