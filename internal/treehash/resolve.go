package treehash

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// maxLinks is how many symlinks are followed for one path, as in Linux.
const maxLinks = 40

// Resolve returns path with every symlink on the way replaced by what it leads to, inside
// the tree: ".." at the root stays there, absolute links start there. The last element is
// followed only if followLast is set. Elements that do not exist are kept as they are:
// the caller finds out when it looks at the result.
func Resolve(tree FS, name string, followLast bool) (string, error) {
	pending := strings.Split(clean(name), "/")
	at := ""
	links := 0
	for len(pending) > 0 {
		elem := pending[0]
		pending = pending[1:]
		switch elem {
		case "", ".":
			continue
		case "..":
			at = parent(at)
			continue
		}
		next := path.Join(at, elem)
		if len(pending) == 0 && !followLast {
			return next, nil
		}
		st, err := tree.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			return clean(path.Join(next, path.Join(pending...))), nil
		}
		if err != nil {
			return "", err
		}
		if fs.FileMode(st.Mode)&fs.ModeSymlink == 0 {
			if len(pending) > 0 && !fs.FileMode(st.Mode).IsDir() {
				return "", &fs.PathError{Op: "resolve", Path: "/" + name, Err: fs.ErrNotExist}
			}
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%q: too many levels of symbolic links", "/"+name)
		}
		if strings.HasPrefix(st.Linkname, "/") {
			at = ""
		}
		pending = append(strings.Split(st.Linkname, "/"), pending...)
	}
	return at, nil
}

func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

// Match lists the paths of the tree that part names, sorted, symlinks in the last element
// not resolved. A part without a match is an error that satisfies fs.ErrNotExist, unless
// it says otherwise; what comes before the first wildcard must be there in any case.
func Match(ctx context.Context, tree FS, part Part) ([]string, error) {
	name := clean(part.Path)
	if !part.Wildcard || !strings.ContainsAny(name, `*?[\`) {
		return exact(tree, name, part.FollowLinks)
	}
	at := []string{""}
	elems := strings.Split(name, "/")
	plain := true // no wildcard so far
	for i, elem := range elems {
		var next []string
		for _, dir := range at {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			found, err := step(tree, dir, elem, i == len(elems)-1)
			if err != nil {
				return nil, err
			}
			next = append(next, found...)
		}
		plain = plain && !strings.ContainsAny(elem, `*?[\`)
		if plain && len(next) == 0 {
			return nil, &fs.PathError{Op: "match", Path: "/" + path.Join(elems[:i+1]...), Err: fs.ErrNotExist}
		}
		at = next
	}
	if len(at) == 0 && !part.AllowNoMatch {
		return nil, &fs.PathError{Op: "match", Path: "/" + name, Err: fs.ErrNotExist}
	}
	slices.Sort(at)
	return slices.Compact(at), nil
}

// exact checks that name is there and returns it with its parents resolved.
func exact(tree FS, name string, follow bool) ([]string, error) {
	found, err := Resolve(tree, name, false)
	if err != nil {
		return nil, err
	}
	target := found
	if follow {
		if target, err = Resolve(tree, name, true); err != nil {
			return nil, err
		}
	}
	if _, err := tree.Lstat(target); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = &fs.PathError{Op: "lstat", Path: "/" + name, Err: fs.ErrNotExist}
		}
		return nil, err
	}
	return []string{found}, nil
}

// step returns what elem matches in dir. Directories on the way are entered through
// symlinks only where the pattern names them.
func step(tree FS, dir, elem string, last bool) ([]string, error) {
	if !strings.ContainsAny(elem, `*?[\`) {
		next := path.Join(dir, elem)
		if !last {
			resolved, err := Resolve(tree, next, true)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			next = resolved
		}
		st, err := tree.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !last && !fs.FileMode(st.Mode).IsDir() {
			return nil, nil
		}
		return []string{next}, err
	}
	names, err := tree.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		ok, err := path.Match(elem, n)
		if err != nil {
			return nil, fmt.Errorf("bad pattern %q: %w", elem, err)
		}
		if !ok {
			continue
		}
		next := path.Join(dir, n)
		if !last {
			st, err := tree.Lstat(next)
			if err != nil {
				return nil, err
			}
			if !fs.FileMode(st.Mode).IsDir() {
				continue
			}
		}
		out = append(out, next)
	}
	return out, nil
}
