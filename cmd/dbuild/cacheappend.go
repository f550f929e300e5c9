package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/dbuild/dbuild/cache/remote"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/ociindex"
)

// sayWhatIsThere adds to the local caches that are appended to which manifest their directory
// has: a daemon sees blobs only.
func sayWhatIsThere(exports []client.CacheOptionsEntry) error {
	for _, e := range exports {
		v, ok := e.Attrs["append"]
		if wanted, err := strconv.ParseBool(v); e.Type != "local" || !ok || v != "" && (err != nil || !wanted) {
			continue
		}
		tag := e.Attrs["tag"]
		if tag == "" {
			tag = "latest"
		}
		desc, err := ociindex.NewStoreIndex(e.Attrs["dest"]).Get(tag)
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && desc == nil:
			e.Attrs[remote.AppendTo] = "none"
		case err != nil:
			return fmt.Errorf("cache in %s: %w", e.Attrs["dest"], err)
		default:
			e.Attrs[remote.AppendTo] = desc.Digest.String()
		}
	}
	return nil
}
