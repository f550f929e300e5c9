package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/moby/buildkit/solver/pb"
)

// Options are what an action needs besides its destination.
type Options struct {
	// Source is what a copy reads.
	Source treehash.FS
	// Link permits a hard link to a host file of Source (see HostPather), which must then
	// never change; nil permits none.
	Link func(host string) bool
	// Owner is what the action says about ownership; see LookUp. nil keeps the owner of
	// copied files and makes others root's.
	Owner *Owner
}

// A HostPather is a tree that can name the host file behind a path.
type HostPather interface {
	HostPath(path string) (string, error)
}

// A NotFoundError says that a path an action needs is missing. It satisfies
// fs.ErrNotExist.
type NotFoundError struct {
	Path string // absolute, in the tree
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("%q: not found", e.Path) }

// Unwrap makes errors.Is(err, fs.ErrNotExist) hold.
func (e *NotFoundError) Unwrap() error { return fs.ErrNotExist }

// Run carries out one action on d. On an error, what d's upper directory holds is of no
// use.
func Run(ctx context.Context, d *Dest, action *pb.FileAction, o Options) error {
	switch a := action.GetAction().(type) {
	case *pb.FileAction_Copy:
		return copyAction(ctx, d, a.Copy, o)
	case *pb.FileAction_Mkfile:
		return mkfile(d, a.Mkfile, o)
	case *pb.FileAction_Mkdir:
		return mkdir(d, a.Mkdir, o)
	case *pb.FileAction_Rm:
		return rm(ctx, d, a.Rm)
	case *pb.FileAction_Symlink:
		return symlink(d, a.Symlink, o)
	}
	return errors.New("not implemented: this kind of file action")
}

// timestamp turns the wire's nanoseconds into a time; -1 is none.
func timestamp(ns int64) *time.Time {
	if ns == -1 {
		return nil
	}
	t := time.Unix(0, ns)
	return &t
}

// unixMode turns permission bits as in chmod(2) into a FileMode.
func unixMode(m int32) fs.FileMode {
	out := fs.FileMode(m) & fs.ModePerm
	for bit, mode := range map[int32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			out |= mode
		}
	}
	return out
}

func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

func mkfile(d *Dest, a *pb.FileActionMkFile, o Options) error {
	p, err := d.resolve(clean(a.Path))
	if err != nil {
		return err
	}
	at := attr{owner: o.Owner, time: timestamp(a.Timestamp)}
	if err := d.needParent(p); err != nil {
		return err
	}
	return d.place(p, false, func(host string) error {
		if err := writeFile(host, a.Data); err != nil {
			return err
		}
		return at.apply(host, unixMode(a.Mode))
	})
}

// needParent checks that the directory of p is there.
func (d *Dest) needParent(p string) error {
	st, err := d.Lstat(parent(p))
	if errors.Is(err, fs.ErrNotExist) {
		return &NotFoundError{Path: "/" + parent(p)}
	}
	if err == nil && !fs.FileMode(st.Mode).IsDir() {
		err = fmt.Errorf("/%s: not a directory", parent(p))
	}
	return err
}

func mkdir(d *Dest, a *pb.FileActionMkDir, o Options) error {
	p, err := d.resolve(clean(a.Path))
	if err != nil {
		return err
	}
	at := attr{owner: o.Owner, time: timestamp(a.Timestamp)}
	st, err := d.Lstat(p)
	switch {
	case err == nil && a.MakeParents && !fs.FileMode(st.Mode).IsDir():
		return fmt.Errorf("/%s: not a directory", p)
	case err == nil:
		return nil // what is there stays as it is
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if a.MakeParents {
		return d.mkdirs(p, unixMode(a.Mode), at)
	}
	if err := d.needParent(p); err != nil {
		return err
	}
	return d.mkdir(p, unixMode(a.Mode), at)
}

func rm(ctx context.Context, d *Dest, a *pb.FileActionRm) error {
	names := []string{clean(a.Path)}
	if a.AllowWildcard {
		var err error
		names, err = treehash.Match(ctx, resolver{d}, treehash.Part{Path: a.Path, Wildcard: true, AllowNoMatch: true})
		if errors.Is(err, fs.ErrNotExist) {
			if a.AllowNotFound {
				return nil
			}
			return &NotFoundError{Path: "/" + clean(a.Path)}
		}
		if err != nil {
			return err
		}
	}
	for _, n := range names {
		p, err := treehash.Resolve(resolver{d}, n, false)
		if err != nil {
			return err
		}
		_, err = d.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			if a.AllowNotFound {
				continue
			}
			return &NotFoundError{Path: "/" + n}
		}
		if err != nil {
			return err
		}
		if err := d.remove(p); err != nil {
			return err
		}
	}
	return nil
}

func symlink(d *Dest, a *pb.FileActionSymlink, o Options) error {
	p, err := treehash.Resolve(resolver{d}, clean(a.Newpath), false)
	if err != nil {
		return err
	}
	if err := d.needParent(p); err != nil {
		return err
	}
	if _, err := d.Lstat(p); err == nil {
		return fmt.Errorf("/%s: exists already", p)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	at := attr{owner: o.Owner, time: timestamp(a.Timestamp)}
	return d.place(p, false, func(host string) error { return at.symlink(a.Oldpath, host) })
}
