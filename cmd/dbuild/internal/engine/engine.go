package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
	"github.com/moby/moby/client"
)

// An Engine is a connection to an engine.
type Engine struct {
	c    *client.Client
	host string // where it listens
	name string // of the program, as far as we know
}

// Choice says which engine is meant: docker's, in the way of the docker command, unless there
// is a Socket.
type Choice struct {
	Context string // a docker context; "" for the one that is in use
	Config  *configfile.ConfigFile
	Socket  string // unix://... of podman's service
}

// defaultContext is what docker calls the engine of DOCKER_HOST or of this machine.
const defaultContext = "default"

// Open finds the engine and asks whether it is there.
func Open(ctx context.Context, ch Choice) (*Engine, error) {
	opts, err := ch.options()
	if err != nil {
		return nil, err
	}
	c, err := client.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("docker: %w", err)
	}
	e := &Engine{c: c, host: c.DaemonHost(), name: "docker"}
	if ch.Socket != "" {
		e.name = "podman"
	}
	if _, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		c.Close()
		return nil, e.explain(err)
	}
	return e, nil
}

// Host is where the engine listens, as DOCKER_HOST has it.
func (e *Engine) Host() string { return e.host }

// Name is docker or podman.
func (e *Engine) Name() string { return e.name }

// Close drops the connection.
func (e *Engine) Close() { e.c.Close() }

func (ch Choice) options() ([]client.Opt, error) {
	if ch.Socket != "" {
		return []client.Opt{client.WithHost(ch.Socket)}, nil
	}
	host := os.Getenv(client.EnvOverrideHost)
	name := ch.Context
	if name == "" && host == "" {
		name = cmp.Or(os.Getenv("DOCKER_CONTEXT"), ch.Config.CurrentContext)
	}
	if name == "" || name == defaultContext {
		if !strings.HasPrefix(host, "ssh://") {
			return []client.Opt{client.FromEnv}, nil
		}
		ep := docker.Endpoint{EndpointMeta: docker.EndpointMeta{Host: host}}
		return ep.ClientOpts()
	}
	s := store.New(config.ContextStoreDir(), store.NewConfig(func() any { return &map[string]any{} },
		store.EndpointTypeGetter(docker.DockerEndpoint, func() any { return &docker.EndpointMeta{} })))
	md, err := s.GetMetadata(name)
	if err != nil {
		return nil, fmt.Errorf("docker context %s: %w", name, err)
	}
	meta, err := docker.EndpointFromContext(md)
	if err != nil {
		return nil, fmt.Errorf("docker context %s: %w", name, err)
	}
	ep, err := docker.WithTLSData(s, name, meta)
	if err != nil {
		return nil, fmt.Errorf("docker context %s: %w", name, err)
	}
	opts, err := ep.ClientOpts()
	if err != nil {
		return nil, fmt.Errorf("docker context %s: %w", name, err)
	}
	return opts, nil
}

// An UnreachableError says that there is no engine, or not for us.
type UnreachableError struct {
	Host string // where it should be
	err  error
}

func (e *UnreachableError) Unwrap() error { return e.err }

// Denied tells whether there may be an engine that is not for us.
func (e *UnreachableError) Denied() bool {
	return strings.Contains(e.err.Error(), "permission denied") // docker's client keeps the text only
}

func (e *UnreachableError) Error() string {
	if e.Denied() {
		return fmt.Sprintf("permission denied on docker's socket %s: it is for root and the group docker", strings.TrimPrefix(e.Host, "unix://"))
	}
	return fmt.Sprintf("no docker engine answers at %s", e.Host)
}

// explain says what went wrong in words of ours.
func (e *Engine) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case client.IsErrConnectionFailed(err), errors.Is(err, context.DeadlineExceeded):
		return &UnreachableError{Host: e.host, err: err}
	case strings.Contains(err.Error(), syscall.ENOSPC.Error()):
		return fmt.Errorf("%s has no room for the image: %w", e.name, syscall.ENOSPC)
	}
	return fmt.Errorf("%s: %s", e.name, strings.TrimPrefix(err.Error(), "Error response from daemon: "))
}
