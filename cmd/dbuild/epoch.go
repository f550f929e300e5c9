package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/docker/cli/cli/config/configfile"
)

// requestEnv is what the command line means something relative to.
func (a *app) requestEnv(ctx context.Context, c *configfile.ConfigFile) buildflags.Env {
	return buildflags.Env{
		Lookup:     a.lookup,
		Proxies:    proxies(c),
		CommitTime: func(dir string) (string, error) { return commitTime(ctx, dir) },
	}
}

// commitTime is when the newest commit of the repository that dir is in was made, in seconds
// since 1970.
func commitTime(ctx context.Context, dir string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "-C", dir, "log", "-1", "--format=%ct").Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		why, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(failed.Stderr)), "fatal: "), "\n")
		return "", fmt.Errorf("git: %s", why)
	}
	if err != nil {
		return "", err
	}
	seconds := strings.TrimSpace(string(out))
	if _, err := strconv.ParseInt(seconds, 10, 64); err != nil {
		return "", fmt.Errorf("git: %q is not a time", seconds)
	}
	return seconds, nil
}
