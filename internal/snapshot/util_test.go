package snapshot

import (
	digest "github.com/opencontainers/go-digest"
)

type dgst = digest.Digest

func dgstOf(s string) dgst { return digest.FromString(s) }
