package fileop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	mode "github.com/tonistiigi/dchapes-mode"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// A copier carries out one copy action.
type copier struct {
	ctx              context.Context
	d                *Dest
	src              treehash.FS
	host             HostPather // nil: files are always copied
	may              func(host string) bool
	a                *pb.FileActionCopy
	owner            *Owner
	time             *time.Time
	mode             *fs.FileMode
	symbolic         *mode.Set
	include, exclude *patternmatcher.PatternMatcher
	buf              []byte
	links            linker
}

const defaultDirMode = 0o755

func copyAction(ctx context.Context, d *Dest, a *pb.FileActionCopy, o Options) error {
	if o.Source == nil {
		o.Source = treehash.Empty
	}
	c := &copier{ctx: ctx, d: d, src: o.Source, a: a, owner: o.Owner, time: timestamp(a.Timestamp)}
	defer c.links.close()
	if o.Link != nil {
		c.host, _ = o.Source.(HostPather)
		c.may = o.Link
	}
	if err := c.parse(); err != nil {
		return err
	}
	names, err := treehash.Match(ctx, c.src, treehash.Part{
		Path: a.Src, Wildcard: a.AllowWildcard, FollowLinks: a.FollowSymlink, AllowNoMatch: a.AllowEmptyWildcard,
	})
	if errors.Is(err, fs.ErrNotExist) {
		return &NotFoundError{Path: "/" + clean(a.Src)}
	}
	if err != nil {
		return err
	}
	for _, required := range a.RequiredPaths {
		_, err := treehash.Match(ctx, c.src, treehash.Part{Path: required})
		if errors.Is(err, fs.ErrNotExist) {
			return &NotFoundError{Path: "/" + clean(required)}
		}
		if err != nil {
			return err
		}
	}
	if !a.CreateDestPath {
		p, err := d.resolve(clean(a.Dest))
		if err != nil {
			return err
		}
		if err := d.needParent(p); err != nil {
			return err
		}
	}
	for _, n := range names {
		if a.AttemptUnpackDockerCompatibility {
			done, err := c.unpack(n)
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		if err := c.root(n); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) parse() error {
	var err error
	switch {
	case c.a.ModeStr != "":
		set, err := mode.ParseWithUmask(c.a.ModeStr, 0)
		if err != nil {
			return fmt.Errorf("mode %q: %w", c.a.ModeStr, err)
		}
		c.symbolic = &set
	case c.a.Mode != -1:
		m := unixMode(c.a.Mode)
		c.mode = &m
	}
	if len(c.a.IncludePatterns) > 0 {
		if c.include, err = patternmatcher.New(c.a.IncludePatterns); err != nil {
			return fmt.Errorf("include patterns: %w", err)
		}
	}
	if len(c.a.ExcludePatterns) > 0 {
		if c.exclude, err = patternmatcher.New(c.a.ExcludePatterns); err != nil {
			return fmt.Errorf("exclude patterns: %w", err)
		}
	}
	return nil
}

// parents is what directories made on the way to the destination look like.
func (c *copier) parents() (fs.FileMode, attr) {
	m := fs.FileMode(defaultDirMode)
	if c.mode != nil {
		m = c.mode.Perm()
	}
	return m, attr{owner: c.owner, time: c.time}
}

// root copies one match of the source.
func (c *copier) root(name string) error {
	from := name
	if c.a.FollowSymlink {
		var err error
		if from, err = treehash.Resolve(c.src, name, true); err != nil {
			return err
		}
	}
	st, err := c.src.Lstat(from)
	if err != nil {
		return err
	}
	isDir := fs.FileMode(st.Mode).IsDir()
	target, takes, err := c.target(name, isDir)
	if err != nil {
		return err
	}
	if !isDir {
		return c.entry(from, st, target)
	}
	_, err = c.dir(from, "", st, target, takes, patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{})
	return err
}

// target is where a match of the source goes, its parent made. A destination that ends
// with a slash or is a directory takes the source into it, unless it is a directory whose
// content is meant.
func (c *copier) target(name string, isDir bool) (string, takes, error) {
	dest := clean(c.a.Dest)
	perm, at := c.parents()
	fresh := false
	if strings.HasSuffix(c.a.Dest, "/") || c.a.Dest == "." || strings.HasSuffix(c.a.Dest, "/.") {
		there, err := c.d.exists(dest)
		if err != nil {
			return "", 0, err
		}
		fresh = !there
		if _, err := c.d.mkdirAll(dest, perm, at); err != nil {
			return "", 0, err
		}
	}
	resolved, err := c.d.resolve(dest)
	if err != nil {
		return "", 0, err
	}
	st, err := c.d.Lstat(resolved)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", 0, err
	}
	exists := err == nil
	into := exists && fs.FileMode(st.Mode).IsDir()
	switch {
	case isDir && c.a.DirCopyContents:
	case isDir && exists, !isDir && into:
		resolved = path.Join(resolved, path.Base("/"+name))
	}
	if isDir && c.a.DirCopyContents && (fresh || !exists) {
		// A directory made for contents is not a copy of the one they come from.
		return resolved, takesTime, c.d.mkdirs(resolved, perm, at)
	}
	return resolved, takesNothing, c.d.mkdirs(parent(resolved), perm, at)
}

// takes says what a directory that is there already takes from the one copied onto it.
type takes int

const (
	takesNothing takes = iota // the destination of a copy
	takesTime                 // the same, made a moment ago and empty
	takesMode                 // what the patterns do not admit, on the way to what they do
	takesAll
)

// dir copies the directory from to target. It reports whether the directory is there now.
func (c *copier) dir(from, rel string, st *fstypes.Stat, target string, takes takes, inc, exc patternmatcher.MatchInfo) (bool, error) {
	made, fresh := false, false
	vacant := false // nothing is in the way of what comes into it
	var kept time.Time
	ensure := func() error {
		if made {
			return nil
		}
		made = true
		if takes == takesTime {
			vacant = true
			return nil
		}
		old, err := c.d.Lstat(target)
		switch {
		case err == nil && fs.FileMode(old.Mode).IsDir():
			if err := c.d.copyUp(target); err != nil {
				return err
			}
			if err := c.take(target, st, takes); err != nil {
				return err
			}
			vacant, kept, err = c.d.vacant(target)
			return err
		case err == nil && !c.a.AlwaysReplaceExistingDestPaths:
			return fmt.Errorf("cannot copy a directory to /%s, which is not one", target)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		fresh, vacant = true, true
		return c.d.mkdir(target, 0o700, attr{})
	}
	if err := ensure(); err != nil {
		return false, err
	}
	names, err := c.src.ReadDir(from)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		if err := c.child(path.Join(from, n), path.Join(rel, n), path.Join(target, n), ensure, func() bool { return vacant }, inc, exc); err != nil {
			return false, err
		}
	}
	switch {
	case takes == takesTime && c.time != nil:
		return true, setTime(c.d.host(target), *c.time)
	case takes == takesTime:
		return true, setTime(c.d.host(target), time.Unix(0, st.ModTime))
	case fresh:
		return true, c.stat(c.d.host(target), st)
	case vacant:
		return true, setTime(c.d.host(target), kept)
	}
	return made, nil
}

// take gives the directory target, which is there already, what it takes from the source.
func (c *copier) take(target string, st *fstypes.Stat, takes takes) error {
	host := c.d.host(target)
	switch takes {
	case takesMode:
		return chmod(host, fs.FileMode(st.Mode)&^fs.ModeType)
	case takesAll:
		return c.stat(host, st)
	}
	return nil
}

// child copies one entry of a directory if the patterns admit it.
func (c *copier) child(from, rel, target string, ensure func() error, vacant func() bool, inc, exc patternmatcher.MatchInfo) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	included, excluded := true, false
	var err error
	if c.include != nil {
		if included, inc, err = c.include.MatchesUsingParentResults(rel, inc); err != nil {
			return err
		}
	}
	if c.exclude != nil {
		if excluded, exc, err = c.exclude.MatchesUsingParentResults(rel, exc); err != nil {
			return err
		}
	}
	if excluded && !c.exclude.Exclusions() {
		return nil
	}
	st, err := c.src.Lstat(from)
	if err != nil {
		return err
	}
	if fs.FileMode(st.Mode).IsDir() {
		return c.subdir(from, rel, st, target, included && !excluded, ensure, inc, exc)
	}
	if !included || excluded {
		return nil
	}
	if err := ensure(); err != nil {
		return err
	}
	if vacant() {
		return c.create(from, st, c.d.host(target))
	}
	return c.entry(from, st, target)
}

// subdir copies a directory in a directory. One that the patterns do not admit by itself
// is made only if something in it is.
func (c *copier) subdir(from, rel string, st *fstypes.Stat, target string, admitted bool, ensure func() error, inc, exc patternmatcher.MatchInfo) error {
	if admitted {
		if err := ensure(); err != nil {
			return err
		}
		_, err := c.dir(from, rel, st, target, takesAll, inc, exc)
		return err
	}
	any, err := c.anything(from, rel, inc, exc)
	if err != nil || !any {
		return err
	}
	if err := ensure(); err != nil {
		return err
	}
	_, err = c.dir(from, rel, st, target, takesMode, inc, exc)
	return err
}

// anything reports whether the patterns admit something in the directory from.
func (c *copier) anything(from, rel string, inc, exc patternmatcher.MatchInfo) (bool, error) {
	names, err := c.src.ReadDir(from)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		r := path.Join(rel, n)
		included, excluded := true, false
		i, e := inc, exc
		if c.include != nil {
			if included, i, err = c.include.MatchesUsingParentResults(r, inc); err != nil {
				return false, err
			}
		}
		if c.exclude != nil {
			if excluded, e, err = c.exclude.MatchesUsingParentResults(r, exc); err != nil {
				return false, err
			}
		}
		if included && !excluded {
			return true, nil
		}
		st, err := c.src.Lstat(path.Join(from, n))
		if err != nil {
			return false, err
		}
		if fs.FileMode(st.Mode).IsDir() {
			if ok, err := c.anything(path.Join(from, n), r, i, e); ok || err != nil {
				return ok, err
			}
		}
	}
	return false, nil
}

// entry copies something that is no directory to target, whose parent exists.
func (c *copier) entry(from string, st *fstypes.Stat, target string) error {
	return c.d.place(target, c.a.AlwaysReplaceExistingDestPaths, func(host string) error { return c.create(from, st, host) })
}

// create makes host, which does not exist, a copy of from.
func (c *copier) create(from string, st *fstypes.Stat, host string) error {
	switch m := fs.FileMode(st.Mode); {
	case m.IsRegular():
		if c.link(from, host) {
			return nil
		}
		if err := c.copyFile(from, host); err != nil {
			return err
		}
	case m&fs.ModeSymlink != 0:
		if err := os.Symlink(st.Linkname, host); err != nil {
			return err
		}
	case m&(fs.ModeDevice|fs.ModeNamedPipe) != 0:
		if err := mknod(host, m, st); err != nil {
			return err
		}
	default:
		return nil // a socket is nothing without its process
	}
	return c.stat(host, st)
}

// link makes host a hard link of the host file behind from, if that is what a copy would
// look like.
func (c *copier) link(from, host string) bool {
	if c.host == nil || c.owner != nil || c.mode != nil || c.symbolic != nil || c.time != nil {
		return false
	}
	p, err := c.host.HostPath(from)
	return err == nil && c.may(p) && c.links.link(p, host)
}

func (c *copier) copyFile(from, host string) error {
	in, err := c.src.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(host, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	// Between two files this is a reflink or an in-kernel copy where the filesystem can.
	if f, ok := in.(*os.File); ok {
		_, err = out.ReadFrom(f)
	} else {
		if c.buf == nil {
			c.buf = make([]byte, 256<<10)
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, c.buf)
	}
	if err != nil {
		return fmt.Errorf("copy /%s: %w", from, err)
	}
	return out.Close()
}

// stat gives host the metadata of st as far as the action does not say otherwise.
func (c *copier) stat(host string, st *fstypes.Stat) error {
	out := &fstypes.Stat{Mode: st.Mode, Uid: st.Uid, Gid: st.Gid, ModTime: st.ModTime, Xattrs: st.Xattrs}
	m := fs.FileMode(st.Mode)
	if m&fs.ModeSymlink == 0 {
		switch {
		case c.symbolic != nil:
			m = m.Type() | c.symbolic.Apply(m)&^fs.ModeType
		case c.mode != nil:
			m = m.Type() | *c.mode
		}
		out.Mode = uint32(m)
	}
	if c.owner != nil {
		out.Uid, out.Gid = uint32(c.owner.UID), uint32(c.owner.GID)
	}
	if c.time != nil {
		out.ModTime = c.time.UnixNano()
	}
	return setStat(host, out)
}

// symlink makes host a link to oldpath.
func (a attr) symlink(oldpath, host string) error {
	if err := os.Symlink(oldpath, host); err != nil {
		return err
	}
	if a.owner != nil {
		if err := os.Lchown(host, a.owner.UID, a.owner.GID); err != nil {
			return err
		}
	}
	if a.time != nil {
		return setTime(host, *a.time)
	}
	return nil
}

func writeFile(host string, data []byte) error {
	f, err := os.OpenFile(host, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func mknod(host string, m fs.FileMode, st *fstypes.Stat) error {
	kind := uint32(unix.S_IFIFO)
	switch {
	case m&fs.ModeCharDevice != 0:
		kind = unix.S_IFCHR
	case m&fs.ModeDevice != 0:
		kind = unix.S_IFBLK
	}
	return unix.Mknod(host, kind|0o600, int(unix.Mkdev(uint32(st.Devmajor), uint32(st.Devminor))))
}
