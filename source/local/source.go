package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Config is what a Source needs.
type Config struct {
	Store    *snapshot.Store  // keeps the directories; required
	Sessions *session.Manager // reaches the clients; required
}

// A Source receives directories of clients.
type Source struct {
	cfg Config

	mu    sync.Mutex
	dirs  map[string]*siblings // by client and directory
	clock int64                // counts uses
}

// siblings are what is kept of one directory of a client, for different patterns.
type siblings struct {
	live map[*Tree]string // in use, with their keys
	last map[string]int64 // keys used lately, with the time on the clock
}

const (
	maxSiblings = 8    // keys remembered for one directory
	maxOwners   = 1000 // directories remembered that nobody uses
)

// New returns a Source.
func New(cfg Config) *Source {
	return &Source{cfg: cfg, dirs: map[string]*siblings{}}
}

// A Differ says how to tell whether a file must be sent again.
type Differ string

const (
	DifferDefault  Differ = ""         // as the package comment says
	DifferMetadata Differ = "metadata" // size, times, mode and owner, from clients that say no more
	DifferNone     Differ = "none"     // every file is sent
)

// A Request names a directory of a client.
type Request struct {
	Name string // the name the client gave to the directory; required
	// SessionID is the session to ask; "" or one that has gone is any of the group. A
	// prefix before a colon is put before Name.
	SessionID        string
	Include, Exclude []string // patterns, as in .dockerignore
	FollowPaths      []string // only these paths, and what symlinks in them lead to
	SharedKeyHint    string   // tells directories of one client with the same name apart
	Differ           Differ
}

// Sync receives the directory and returns it. It is shown in log, which may be nil, as
// "transferring NAME:". The caller releases the Tree.
func (s *Source) Sync(ctx context.Context, g session.Group, req Request, log *progress.Log) (*Tree, error) {
	if prefix, id, ok := strings.Cut(req.SessionID, ":"); ok && id != "" {
		req.Name, req.SessionID = prefix+"-"+req.Name, id
	}
	if len(req.Name) > maxPath {
		return nil, errors.New("the name of a local directory is too long")
	}
	var tree *Tree
	do := func(ctx context.Context, id string, c session.Caller) (err error) {
		tree, err = s.sync(ctx, id, c, req, log)
		return err
	}
	if req.SessionID != "" {
		c, err := s.cfg.Sessions.Get(ctx, req.SessionID)
		if err == nil {
			err = s.cfg.Sessions.With(ctx, c, func(ctx context.Context) error { return do(ctx, req.SessionID, c) })
		}
		if err == nil || ctx.Err() != nil || !errors.Is(err, session.ErrNoSession) && status.Code(err) != codes.NotFound {
			return tree, s.explain(req, err)
		}
	}
	err := s.cfg.Sessions.Any(ctx, g, do)
	return tree, s.explain(req, err)
}

func (s *Source) explain(req Request, err error) error {
	if err == nil {
		return nil
	}
	if st, ok := status.FromError(err); ok && st.Code() == codes.NotFound {
		return fmt.Errorf("local directory %q: %s: %w", req.Name, st.Message(), os.ErrNotExist)
	}
	return fmt.Errorf("local directory %q: %w", req.Name, err)
}

// sync receives the directory from one session.
func (s *Source) sync(ctx context.Context, id string, c session.Caller, req Request, log *progress.Log) (*Tree, error) {
	owner := c.SharedKey() + "\n" + req.SharedKeyHint + "\n" + req.Name
	patterns, err := json.Marshal([]any{req.Include, req.Exclude, req.FollowPaths})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte(owner+"\n"), patterns...))
	key := hex.EncodeToString(sum[:])
	dir, err := s.openDir(ctx, key, req, log)
	if err != nil {
		return nil, err
	}
	donors := s.donors(owner)
	if dir.Fresh && len(donors) == 0 {
		donors = s.idle(ctx, owner, key, req, log)
	}
	defer func() {
		for _, d := range donors {
			d.Release()
		}
	}()
	track := log.Track("transferring " + req.Name + ":")
	defer track.Done()
	p := &throttle{show: func(n int64) { track.Set(n, 0) }}
	defer p.flush()

	x, err := receive(ctx, dir.Path, options{
		distrust: req.Differ == DifferNone,
		trust:    req.Differ == DifferMetadata,
		donors:   donors,
		progress: p.set,
		warn: func(path, reason string) {
			log.Warn(progress.Warning{Level: 1, Short: fmt.Appendf(nil, "%s was left out of %s: %s", path, req.Name, reason)})
		},
		open: func(ctx context.Context) (Stream, error) { return s.open(ctx, id, c, req) },
	})
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			wipe(dir.Path)
		}
		return nil, errors.Join(err, dir.Close())
	}
	var t *Tree
	t = newTree(x, filepath.Join(dir.Path, "tree"), func() {
		s.forget(owner, t)
		_ = dir.Close() // nothing is lost: the index is on disk
	})
	s.remember(owner, key, t)
	return t, nil
}

func (s *Source) openDir(ctx context.Context, key string, req Request, log *progress.Log) (*snapshot.Dir, error) {
	return s.cfg.Store.OpenDir(ctx, key,
		snapshot.Desc{Type: snapshot.TypeLocal, Description: "local source for " + req.Name},
		snapshot.Private, nil, snapshot.Access{Log: log})
}

// donors returns the trees in use that hold the same directory, retained.
func (s *Source) donors(owner string) []*Tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*Tree
	if d := s.dirs[owner]; d != nil {
		for t := range d.live {
			if t.tryRetain() {
				list = append(list, t)
			}
		}
	}
	return list
}

// idle returns the tree used last that holds the same directory with other patterns.
func (s *Source) idle(ctx context.Context, owner, not string, req Request, log *progress.Log) []*Tree {
	s.mu.Lock()
	key, last := "", int64(-1)
	if d := s.dirs[owner]; d != nil {
		for k, used := range d.last {
			if k != not && used > last {
				key, last = k, used
			}
		}
	}
	s.mu.Unlock()
	if key == "" {
		return nil
	}
	dir, err := s.openDir(ctx, key, req, log)
	if err != nil {
		return nil // it would only have saved work
	}
	x, sure, err := loadIndex(dir.Path)
	if err != nil || !sure {
		dir.Close()
		return nil
	}
	return []*Tree{newTree(x, filepath.Join(dir.Path, "tree"), func() { dir.Close() })}
}

func (s *Source) remember(owner, key string, t *Tree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirs[owner]
	if d == nil {
		d = &siblings{live: map[*Tree]string{}, last: map[string]int64{}}
		s.dirs[owner] = d
	}
	d.live[t] = key
	s.clock++
	d.last[key] = s.clock
	if len(d.last) > maxSiblings {
		oldest := key
		for k, used := range d.last {
			if used < d.last[oldest] {
				oldest = k
			}
		}
		delete(d.last, oldest)
	}
}

func (s *Source) forget(owner string, t *Tree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirs[owner]
	delete(d.live, t)
	if len(d.live) == 0 && len(s.dirs) > maxOwners {
		delete(s.dirs, owner)
	}
}

// wipe gives back the space of a directory whose transfer filled the disk.
func wipe(dir string) {
	for _, name := range []string{"index", "tree", "tmp", "dirty"} {
		_ = os.RemoveAll(filepath.Join(dir, name)) // what stays is checked by the next transfer
	}
}

// A throttle passes on at most ten values a second.
type throttle struct {
	show        func(int64)
	value, seen int64
	calls       int
	last        time.Time
}

func (t *throttle) set(n int64) {
	t.value = n
	if t.calls++; t.calls%64 != 0 && n-t.seen < 64<<10 {
		return
	}
	t.seen = n
	if now := time.Now(); now.Sub(t.last) >= 100*time.Millisecond {
		t.last = now
		t.show(n)
	}
}

func (t *throttle) flush() { t.show(t.value) }
