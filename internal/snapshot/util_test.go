package snapshot

import (
	"github.com/dbuild/dbuild/internal/registry"
	digest "github.com/opencontainers/go-digest"
)

type dgst = digest.Digest

func dgstOf(s string) dgst { return digest.FromString(s) }

func registryAt(repo string) []registry.Location { return []registry.Location{{Repo: repo}} }
