package local

import (
	"fmt"
	"strings"
)

const (
	maxPath    = 4096
	maxName    = 255
	maxEntries = 1_000_000
)

// An order checks the list of paths a client sends: clean, relative, sorted, without
// duplicates, and each below a directory that was listed before.
type order struct {
	last string
	dirs []string // that contain last, outermost first; last itself if it is one
}

// next checks that path may follow, and says whether it is a directory.
func (o *order) next(path string, dir bool) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if o.last != "" && compare(o.last, path) >= 0 {
		return fmt.Errorf("client sent %q after %q: out of order", path, o.last)
	}
	for len(o.dirs) > 0 && !within(path, o.dirs[len(o.dirs)-1]) {
		o.dirs = o.dirs[:len(o.dirs)-1]
	}
	parent := ""
	if len(o.dirs) > 0 {
		parent = o.dirs[len(o.dirs)-1]
	}
	if dirname(path) != parent {
		return fmt.Errorf("client sent %q without its directory", path)
	}
	o.last = path
	if dir {
		o.dirs = append(o.dirs, path)
	}
	return nil
}

// checkPath reports whether path is a clean relative path.
func checkPath(path string) error {
	ok := path != "" && len(path) <= maxPath && strings.IndexByte(path, 0) < 0
	for rest := path; ok; {
		name, more, found := strings.Cut(rest, "/")
		ok = name != "" && name != "." && name != ".." && len(name) <= maxName
		if !found {
			break
		}
		rest = more
	}
	if !ok {
		return fmt.Errorf("client sent the invalid path %.100q", path)
	}
	return nil
}
