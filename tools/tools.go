//go:build tools

// Package tools pins the programs that tests and benchmarks run beside dbuild:
// BuildKit's client, daemon and Dockerfile frontend.
package tools

import (
	_ "github.com/moby/buildkit/cmd/buildctl"
	_ "github.com/moby/buildkit/cmd/buildkitd"
	_ "github.com/moby/buildkit/frontend/dockerfile/cmd/dockerfile-frontend"
)
