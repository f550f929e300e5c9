package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dbuild/dbuild/internal/snapshot"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// TreeOptions say what the files of a result are to look like.
type TreeOptions struct {
	Split    *bool      // a directory for each platform; nil is for several only
	Src      string     // what part of the filesystem; "" is all
	Epoch    *time.Time // modification time of every file
	EpochSet bool       // Epoch overrides the frontend
	// AttestationPrefix begins the names of files with attestations.
	AttestationPrefix string
}

// TreeOptionsFrom takes the options of exporters of files.
func TreeOptionsFrom(a *Attrs) TreeOptions {
	o := TreeOptions{Src: a.String("src"), AttestationPrefix: a.String("attestation-prefix")}
	if strings.ContainsAny(o.AttestationPrefix, `/\`) {
		a.refuse("attestation-prefix=%s is not the beginning of a file name", o.AttestationPrefix)
	}
	o.Epoch, o.EpochSet = a.Epoch()
	if _, ok := a.left["platform-split"]; ok {
		b := a.Bool("platform-split", true)
		o.Split = &b
	}
	// What the client does with the files.
	switch mode := a.String("mode"); mode {
	case "", "copy", "delete":
	default:
		a.refuse("mode=%s is neither copy nor delete", mode)
	}
	a.Ignore("dest")
	return o
}

// OpenTree returns the files of a result. Every layer becomes files. The tree is good
// until release is called.
func OpenTree(ctx context.Context, src Source, a Access, o TreeOptions) (tree fsutil.FS, release func() error, err error) {
	var mounts []*snapshot.Mount
	unmount := func() error {
		var err error
		for _, m := range mounts {
			err = errors.Join(err, m.Unmount())
		}
		return err
	}
	defer func() {
		if err != nil {
			_ = unmount() // the first error is what matters
		}
	}()
	parts, err := src.Parts()
	if err != nil {
		return nil, nil, err
	}
	split := src.Multi()
	if o.Split != nil {
		split = *o.Split
	}
	var dirs []fsutil.Dir
	for _, p := range parts {
		epoch := o.Epoch
		if !o.EpochSet {
			if epoch, err = src.EpochOf(p); err != nil {
				return nil, nil, err
			}
		}
		var files fsutil.FS = emptyFS{}
		if p.Ref != nil {
			m, err := p.Ref.Mount(ctx, snapshot.Access{Group: a.Group, Log: a.Log})
			if err != nil {
				return nil, nil, err
			}
			mounts = append(mounts, m)
			if files, err = openDir(m.Root, o.Src, epoch); err != nil {
				return nil, nil, err
			}
		}
		rename := func(name string) string {
			if name = o.AttestationPrefix + name; !split && len(parts) > 1 {
				name = withPlatform(name, p.ID)
			}
			return name
		}
		if list := src.Attestations[p.ID]; len(list) > 0 {
			with, err := attach(ctx, files, list, rename)
			if err != nil {
				return nil, nil, err
			}
			with.time = epoch
			files = with
		}
		st := &types.Stat{Path: DirOf(p.ID), Mode: uint32(os.ModeDir | 0o755)}
		if epoch != nil {
			st.ModTime = epoch.UnixNano()
		}
		dirs = append(dirs, fsutil.Dir{Stat: st, FS: files})
	}
	switch {
	case split:
		tree, err = fsutil.SubDirFS(dirs)
	case len(dirs) == 1:
		tree = dirs[0].FS
	default:
		tree, err = union(ctx, parts, dirs)
	}
	return tree, unmount, err
}

// DirOf is the directory for a platform in a tree of several: linux_arm64.
func DirOf(id string) string {
	id = strings.NewReplacer("/", "_", `\`, "_", ":", "_").Replace(id)
	if id == "." || id == ".." {
		return strings.Repeat("_", len(id))
	}
	return id
}

func openDir(root, sub string, epoch *time.Time) (fsutil.FS, error) {
	if sub != "" {
		dir, err := securejoin.SecureJoin(root, sub)
		if err != nil {
			return nil, fmt.Errorf("src=%s: %w", sub, err)
		}
		if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
			return nil, fmt.Errorf("src=%s: there is no such directory in the result", sub)
		}
		root = dir
	}
	dir, err := fsutil.NewFS(root)
	if err != nil {
		return nil, err
	}
	files := fsutil.FS(presentFS{dir})
	if epoch == nil {
		return files, nil
	}
	t := epoch.UnixNano()
	return fsutil.NewFilterFS(files, &fsutil.FilterOpt{Map: func(_ string, st *types.Stat) fsutil.MapResult {
		st.ModTime = t
		return fsutil.MapResultKeep
	}})
}

// A presentFS leaves out names that a directory lists although they are not there, as an overlay
// does with what a layer removes from a directory that no other layer has. fsutil takes such a
// name for the end of the directory.
type presentFS struct{ fsutil.FS }

// Walk implements fsutil.FS.
func (f presentFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	return f.FS.Walk(ctx, target, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e != nil {
			if _, err := e.Info(); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
		}
		return fn(p, e, err)
	})
}

type emptyFS struct{}

func (emptyFS) Walk(context.Context, string, fs.WalkDirFunc) error { return nil }
func (emptyFS) Open(p string) (io.ReadCloser, error) {
	return nil, &os.PathError{Op: "open", Path: p, Err: os.ErrNotExist}
}

// A unionFS is the trees of several platforms in one. Directories may be in several of
// them, nothing else.
type unionFS struct {
	entries []unionEntry // in the order of a walk
	of      map[string]fsutil.FS
}

type unionEntry struct {
	key   string
	entry fs.DirEntry
}

func union(ctx context.Context, parts []Platform, dirs []fsutil.Dir) (*unionFS, error) {
	u := &unionFS{of: map[string]fsutil.FS{}}
	from := map[string]string{} // path to platform id
	for i, d := range dirs {
		err := d.FS.Walk(ctx, "", func(p string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			before, dup := from[p]
			if dup && (!entry.IsDir() || u.of[p] != nil) {
				return fmt.Errorf("cannot overwrite %s from %s with that from %s: they share a directory when split option is disabled (platform-split=false)", p, before, parts[i].ID)
			}
			if dup {
				return nil
			}
			info, err := entry.Info() // now: it shares state with the walk
			if err != nil {
				return err
			}
			st, ok := info.Sys().(*types.Stat)
			if !ok {
				return fmt.Errorf("%s: no file status", p)
			}
			from[p] = parts[i].ID
			if !entry.IsDir() {
				u.of[p] = d.FS
			}
			u.entries = append(u.entries, unionEntry{strings.ReplaceAll(p, string(filepath.Separator), "\x00"), &fsutil.DirEntryInfo{Stat: st}})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(u.entries, func(a, b unionEntry) int { return strings.Compare(a.key, b.key) })
	return u, nil
}

func (u *unionFS) Walk(ctx context.Context, _ string, fn fs.WalkDirFunc) error {
	for _, e := range u.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(strings.ReplaceAll(e.key, "\x00", string(filepath.Separator)), e.entry, nil); err != nil {
			return err
		}
	}
	return nil
}

func (u *unionFS) Open(p string) (io.ReadCloser, error) {
	f := u.of[p]
	if f == nil {
		return nil, &os.PathError{Op: "open", Path: p, Err: os.ErrNotExist}
	}
	return f.Open(p)
}
