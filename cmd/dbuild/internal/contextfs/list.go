package contextfs

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ahead is how many entries may be read before they are asked for. It bounds memory.
const ahead = 16 << 10

// A dir is a directory to be listed.
type dir struct {
	path    string // "" is the root
	matches matches
	claimed bool          // somebody lists it, or nobody will; guarded by lister.mu
	done    chan struct{} // closed when items and err are there
	items   []item        // in the order of names
	err     error
}

// A lister lists a tree. Directories are read by several goroutines, ahead of the one that
// consumes them in order: it reads itself what nobody has begun to read.
type lister struct {
	fs     *FS
	rootfd int

	mu    sync.Mutex
	more  sync.Cond // todo, unread or ended have changed
	todo  []*dir    // the next one last
	read  int       // entries read and not consumed
	ended bool

	own    *reader   // of the goroutine that consumes
	around []pending // the directories around the one being consumed
}

// list calls emit for all paths that the patterns admit, parents first, in the order of
// names. What disappears meanwhile is left out. The item is good only until emit returns,
// and has attributes only if it is a directory.
func (f *FS) list(ctx context.Context, p Patterns, emit func(path string, it *item) error) error {
	p, err := p.resolve(f)
	if err != nil {
		return err
	}
	var readers []*reader
	for range min(4, runtime.GOMAXPROCS(0)) {
		flt, err := newFilter(p)
		if err != nil {
			return err
		}
		readers = append(readers, &reader{filter: flt})
	}
	fd, err := unix.Open(f.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: f.root, Err: err}
	}
	defer unix.Close(fd)
	l := &lister{fs: f, rootfd: fd, own: readers[0]}
	l.more.L = &l.mu
	var helpers sync.WaitGroup
	for _, r := range readers[1:] {
		helpers.Go(func() { l.help(r) })
	}
	defer helpers.Wait()
	defer l.end()
	return l.visit(ctx, &dir{done: make(chan struct{})}, emit)
}

func (l *lister) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.more.Broadcast()
}

// help lists directories until the end.
func (l *lister) help(r *reader) {
	for {
		l.mu.Lock()
		for !l.ended && (len(l.todo) == 0 || l.read > ahead) {
			l.more.Wait()
		}
		if l.ended {
			l.mu.Unlock()
			return
		}
		d := l.todo[len(l.todo)-1]
		l.todo = l.todo[:len(l.todo)-1]
		claimed := d.claimed
		d.claimed = true
		l.mu.Unlock()
		if !claimed {
			l.fill(d, r)
		}
	}
}

// fill lists a directory that the caller has claimed.
func (l *lister) fill(d *dir, r *reader) {
	d.items, d.err = r.list(l, d)
	l.mu.Lock()
	l.read += len(d.items)
	subs := len(l.todo)
	for i := len(d.items) - 1; i >= 0; i-- {
		if sub := d.items[i].dir; sub != nil {
			l.todo = append(l.todo, sub)
		}
	}
	if len(l.todo) > subs {
		l.more.Broadcast()
	}
	l.mu.Unlock()
	close(d.done)
}

// A pending directory is not meant itself, and so is listed only if something in it is.
type pending struct {
	path string
	it   *item // nil if it was listed
}

// visit emits what is in d, and before it those of the directories around it that are
// still pending.
func (l *lister) visit(ctx context.Context, d *dir, emit func(string, *item) error) error {
	l.mu.Lock()
	claimed := d.claimed
	d.claimed = true
	l.mu.Unlock()
	if !claimed {
		l.fill(d, l.own)
	}
	<-d.done
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d.err != nil {
		out := len(l.around) > 0 && l.around[len(l.around)-1].it != nil // and so is of no interest
		if out && errors.Is(d.err, fs.ErrPermission) || gone(d.err) {
			return nil
		}
		return d.err
	}
	for i := range d.items {
		it := &d.items[i]
		path := join(d.path, it.name)
		if it.keep {
			if err := l.emitAround(emit); err != nil {
				return err
			}
			if err := emit(path, it); err != nil {
				return err
			}
		}
		if it.dir != nil {
			p := pending{path: path}
			if !it.keep {
				p.it = it
			}
			l.around = append(l.around, p)
			if err := l.visit(ctx, it.dir, emit); err != nil {
				return err
			}
			l.around = l.around[:len(l.around)-1]
			it.dir = nil
		}
	}
	l.mu.Lock()
	l.read -= len(d.items)
	if l.read <= ahead {
		l.more.Broadcast()
	}
	l.mu.Unlock()
	d.items = nil
	return nil
}

func (l *lister) emitAround(emit func(string, *item) error) error {
	for i := range l.around {
		if p := &l.around[i]; p.it != nil {
			if err := emit(p.path, p.it); err != nil {
				return err
			}
			p.it = nil
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + string(filepath.Separator) + name
}

// gone reports whether an error says that something has disappeared.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }

// A reader lists directories, one at a time.
type reader struct {
	filter *filter
	buf    []byte
	names  []name
	stat   unix.Stat_t
}

type name struct {
	s    string
	kind byte // DT_*
}

// list reads a directory and looks at what the filter admits.
func (r *reader) list(l *lister, d *dir) ([]item, error) {
	rel := d.path
	if rel == "" {
		rel = "."
	}
	full := filepath.Join(l.fs.root, d.path)
	fd, err := unix.Openat(l.rootfd, rel, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: full, Err: err}
	}
	defer unix.Close(fd)
	if err := r.readNames(fd); err != nil {
		return nil, &fs.PathError{Op: "readdirent", Path: full, Err: err}
	}
	seen := time.Now().UnixNano()
	items := make([]item, 0, len(r.names))
	for _, n := range r.names {
		it := item{name: n.s}
		path := join(d.path, n.s)
		looked := n.kind == unix.DT_UNKNOWN // not every filesystem tells
		if looked {
			err := it.look(&r.stat, fd, full, n.s, seen)
			if gone(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if it.mode.IsDir() {
				n.kind = unix.DT_DIR
			}
		}
		m, keep, enter, err := r.filter.admit(path, n.kind == unix.DT_DIR, &d.matches)
		if err != nil {
			return nil, err
		}
		if !keep && !enter {
			continue
		}
		if !looked {
			err = it.look(&r.stat, fd, full, n.s, seen)
		}
		if err == nil && it.mode.IsDir() {
			it.xattrs, err = byPath(filepath.Join(full, n.s)).xattrs()
		}
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		it.keep = keep
		if enter && it.mode.IsDir() {
			it.dir = &dir{path: path, matches: m, done: make(chan struct{})}
		}
		items = append(items, it)
	}
	return items, nil
}

// readNames reads the names in an open directory, sorted.
func (r *reader) readNames(fd int) error {
	if r.buf == nil {
		r.buf = make([]byte, 32<<10)
	}
	r.names = r.names[:0]
	for {
		n, err := unix.Getdents(fd, r.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		all := string(r.buf[:n]) // names are parts of it: one allocation for many
		for off := 0; off < n; {
			// struct linux_dirent64: inode, offset, length, type, name
			const lengthAt, kindAt, nameAt = 16, 18, 19
			size := int(binary.NativeEndian.Uint16(r.buf[off+lengthAt:]))
			s := all[off+nameAt : off+size]
			if i := strings.IndexByte(s, 0); i >= 0 {
				s = s[:i]
			}
			if s != "." && s != ".." {
				r.names = append(r.names, name{s, r.buf[off+kindAt]})
			}
			off += size
		}
	}
	slices.SortFunc(r.names, func(a, b name) int { return strings.Compare(a.s, b.s) })
	return nil
}
