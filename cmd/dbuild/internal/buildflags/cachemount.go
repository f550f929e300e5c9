package buildflags

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
)

// cacheMounts reads --cache-mount id=ID,type=local,src=DIR: a directory of the user that
// takes the place of a cache mount. A directory that does not exist is made.
func (f *Flags) cacheMounts(r *Request, _ Env) error {
	for _, v := range f.CacheMount {
		id, src, err := parseCacheMount(v)
		if err != nil {
			return err
		}
		// As the daemon names it: the namespace is what BUILDKIT_CACHE_MOUNT_NS says.
		id = r.Attrs["build-arg:BUILDKIT_CACHE_MOUNT_NS"] + "/" + id
		if _, twice := r.CacheMounts[id]; twice {
			return fmt.Errorf("--cache-mount %s: the id is given twice", v)
		}
		if err := os.MkdirAll(src, 0o755); err != nil {
			return filef("--cache-mount %s: %w", v, err)
		}
		dir, err := filepath.EvalSymlinks(src)
		if err == nil {
			dir, err = filepath.Abs(dir)
		}
		if err != nil {
			return filef("--cache-mount %s: %w", v, err)
		}
		if r.CacheMounts == nil {
			r.CacheMounts = map[string]string{}
		}
		r.CacheMounts[id] = dir
	}
	return nil
}

func parseCacheMount(v string) (id, src string, err error) {
	fields, err := csvvalue.Fields(v, nil)
	if err != nil {
		return "", "", fmt.Errorf("--cache-mount %s: %w", v, err)
	}
	kind := "local"
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return "", "", fmt.Errorf("--cache-mount %s: %q is not key=value", v, field)
		}
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "id":
			id = value
		case "type":
			kind = value
		case "src", "source":
			src = value
		default:
			return "", "", fmt.Errorf("--cache-mount %s: unknown key %q; there are id, type and src", v, key)
		}
	}
	switch {
	case kind != "local":
		return "", "", fmt.Errorf("--cache-mount %s: unknown type %q; there is local", v, kind)
	case id == "":
		return "", "", fmt.Errorf("--cache-mount %s: id is missing: the id of the cache mount, or its target", v)
	case src == "":
		return "", "", fmt.Errorf("--cache-mount %s: src is missing: the directory that is to be the cache", v)
	}
	if path.IsAbs(id) {
		id = path.Clean(id) // a target, which is the id of mounts that have none
	}
	return id, src, nil
}
