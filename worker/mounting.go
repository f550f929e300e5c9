package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/proxy"
	"github.com/dbuild/dbuild/worker/runc/usage"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// mounting is everything that one run of a process has mounted, opened or begun to
// write. close undoes what commit did not turn into results.
type mounting struct {
	w      *Worker
	access snapshot.Access // on whose behalf
	id     string          // of the run
	name   string
	anew   bool // cache mounts start empty
	demand solver.Demand

	fetched *proxy.Record           // what the process asked its proxy for; nil if it had none
	used    []usage.Sample          // what it used of the machine, if somebody asked
	uses    map[*pb.Mount]CacheUse  // cache mounts that builds may bring along
	caches  map[string]string       // cache mounts, by key: a step may mount one twice
	drafts  map[int]*snapshot.Draft // by index of the mount
	roots   map[int]string          // what is mounted from the host, by index of the mount
	secrets string                  // tmpfs that holds secret files, if any
	undo    []func() error          // last first
}

func (m *mounting) close() error {
	var errs []error
	for i := len(m.undo) - 1; i >= 0; i-- {
		errs = append(errs, m.undo[i]())
	}
	for _, d := range m.drafts {
		errs = append(errs, d.Discard())
	}
	return errors.Join(errs...)
}

// mount prepares the mounts of a process and fills in p.
func (m *mounting) mount(ctx context.Context, mounts []*pb.Mount, in []solver.Ref, p *runc.Process) error {
	m.drafts, m.roots = map[int]*snapshot.Draft{}, map[int]string{}
	seeded, stop := m.seed(ctx, mounts, in)
	defer stop()
	for i, mt := range mounts {
		var ref solver.Ref
		if n := input(mt); n >= 0 {
			ref = in[n]
		}
		if mt.Dest == pb.RootMount {
			root, err := m.bind(ctx, i, mt, ref)
			if err != nil {
				return err
			}
			m.roots[i] = root
			p.Rootfs, p.ReadOnly = root, mt.Readonly
			continue
		}
		out := runc.Mount{Type: "bind", Target: mt.Dest, ReadOnly: mt.Readonly}
		var err error
		switch mt.MountType {
		case pb.MountType_BIND:
			out.Source, err = m.bind(ctx, i, mt, ref)
		case pb.MountType_CACHE:
			if err = seeded(); err == nil {
				out.Source, err = m.cache(ctx, mt, ref)
			}
		case pb.MountType_TMPFS:
			out.Type, out.Size = "tmpfs", mt.TmpfsOpt.GetSize()
		case pb.MountType_SECRET:
			out.Source, err = m.secret(ctx, i, mt.SecretOpt)
			out.ReadOnly = true
		case pb.MountType_SSH:
			out.Source, err = m.ssh(ctx, mt.SSHOpt)
		default:
			err = fmt.Errorf("not implemented: mount type %s", mt.MountType)
		}
		if errors.Is(err, errOptional) {
			continue
		}
		if err != nil {
			return err
		}
		if out.Source != "" {
			m.roots[i] = out.Source
		}
		p.Mounts = append(p.Mounts, out)
	}
	return nil
}

// errOptional says that a mount is left out because what it needs is not there and
// need not be.
var errOptional = errors.New("optional mount left out")

// bind mounts an input: read-only, or as a new layer on top of it that becomes an output
// or is thrown away.
func (m *mounting) bind(ctx context.Context, i int, mt *pb.Mount, ref solver.Ref) (string, error) {
	var root string
	if tree, ok := ref.(*TreeRef); ok && mt.Readonly && output(mt) < 0 && mt.Dest != pb.RootMount {
		root = tree.tree.Dir()
	} else {
		var layers *snapshot.Ref
		if ref != nil {
			var err error
			if layers, err = m.w.Layers(ctx, ref); err != nil {
				return "", err
			}
			defer layers.Release()
		}
		var err error
		// The root gets a layer even if it is read-only: mount points are made in it.
		if mt.Readonly && output(mt) < 0 && layers != nil && mt.Dest != pb.RootMount {
			root, err = m.readOnly(ctx, layers)
		} else {
			root, err = m.draft(ctx, i, layers)
		}
		if err != nil {
			return "", lost(ref, err)
		}
	}
	return inside(root, mt.Selector)
}

func (m *mounting) readOnly(ctx context.Context, layers *snapshot.Ref) (string, error) {
	mnt, err := layers.Mount(ctx, m.access)
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, mnt.Unmount)
	return mnt.Root, nil
}

func (m *mounting) draft(ctx context.Context, i int, layers *snapshot.Ref) (string, error) {
	draft, err := m.w.Store.NewDraft(ctx, layers, snapshot.Desc{Description: m.name})
	if err != nil {
		return "", err
	}
	m.drafts[i] = draft
	root, _, err := draft.Mount(ctx, m.access)
	return root, err
}

// inside returns the path of selector under root, or root itself.
func inside(root, selector string) (string, error) {
	if selector == "" || selector == "/" || selector == "." {
		return root, nil
	}
	p, err := securejoin.SecureJoin(root, selector)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(p); err != nil {
		return "", fmt.Errorf("mount source %q: not found", selector)
	}
	return p, nil
}

func (m *mounting) cache(ctx context.Context, mt *pb.Mount, ref solver.Ref) (string, error) {
	if dir, ok := cacheDir(m.demand, mt.CacheOpt.GetID()); ok {
		key := mt.CacheOpt.GetID()
		path, ok := m.caches[key]
		if !ok {
			var err error
			if path, err = m.lent(ctx, dir, mt.CacheOpt.GetSharing()); err != nil {
				return "", err
			}
			m.use(key, path)
		}
		return path, nil // as it is: what the step says of owner and content is for new ones
	}
	key, base, err := m.startOf(ctx, mt, ref)
	if err != nil {
		return "", err
	}
	defer base.Release()
	if path, ok := m.caches[key]; ok {
		return inside(path, mt.Selector)
	}
	if m.anew {
		if err := m.w.Store.DropDir(ctx, key, snapshot.TypeCacheMount, base); err != nil {
			return "", err
		}
	}
	dir, err := m.w.Store.OpenDir(ctx, key, m.describe(mt), sharings[mt.CacheOpt.GetSharing()], base, m.access)
	if err != nil {
		return "", lost(ref, err)
	}
	m.undo = append(m.undo, dir.Close)
	if use := m.uses[mt]; use.Base != "" {
		dir.SetMeta(metaBase, []byte(use.Base))
	}
	m.use(key, dir.Path)
	return inside(dir.Path, mt.Selector)
}

// startOf returns what names the directory of a cache mount, and what it starts with.
func (m *mounting) startOf(ctx context.Context, mt *pb.Mount, ref solver.Ref) (key string, base *snapshot.Ref, err error) {
	key = mt.CacheOpt.GetID()
	if ref != nil {
		if base, err = m.w.Layers(ctx, ref); err != nil {
			return "", nil, err
		}
		key += "\x00" + ref.ID()
	}
	return key, base, nil
}

func (m *mounting) describe(mt *pb.Mount) snapshot.Desc {
	return snapshot.Desc{
		Type:        snapshot.TypeCacheMount,
		Description: fmt.Sprintf("cached mount %s from exec %s", mt.Dest, m.name),
	}
}

// use remembers where a cache mount is.
func (m *mounting) use(key, path string) {
	if m.caches == nil {
		m.caches = map[string]string{}
	}
	m.caches[key] = path
}

// secret writes a secret to a tmpfs that only this run sees.
func (m *mounting) secret(ctx context.Context, i int, opt *pb.SecretOpt) (string, error) {
	value, err := m.w.Sessions.Secret(ctx, m.access.Group, opt.GetID())
	if errors.Is(err, session.ErrNoSecret) {
		if opt.GetOptional() {
			return "", errOptional
		}
		return "", fmt.Errorf("secret %s: not found; pass it with --secret id=%s,src=FILE", opt.GetID(), opt.GetID())
	}
	if err != nil {
		return "", err
	}
	if m.secrets == "" {
		dir, err := m.tmpfs()
		if err != nil {
			return "", err
		}
		m.secrets = dir
	}
	path := filepath.Join(m.secrets, strconv.Itoa(i))
	if err := os.WriteFile(path, value, 0o600); err != nil {
		return "", err
	}
	if err := os.Chown(path, int(opt.GetUid()), int(opt.GetGid())); err != nil {
		return "", err
	}
	return path, os.Chmod(path, os.FileMode(opt.GetMode()&0o777))
}

// tmpfs mounts memory that never reaches the disk.
func (m *mounting) tmpfs() (string, error) {
	dir := filepath.Join(m.w.Root, "secrets-"+m.id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	m.undo = append(m.undo, func() error { return os.Remove(dir) })
	flags := uintptr(unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC)
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=0700"); err != nil {
		return "", fmt.Errorf("mount a tmpfs for secrets: %w", err)
	}
	m.undo = append(m.undo, func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, nil
}

func (m *mounting) ssh(ctx context.Context, opt *pb.SSHOpt) (string, error) {
	dir := filepath.Join(m.w.Root, "ssh-"+newID())
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	m.undo = append(m.undo, func() error { return os.RemoveAll(dir) })
	id := cmp.Or(opt.GetID(), sshforward.DefaultID)
	path, done, err := m.w.Sessions.SSHSocket(ctx, m.access.Group, session.SSHOptions{
		ID: id, Dir: dir, UID: int(opt.GetUid()), GID: int(opt.GetGid()), Mode: os.FileMode(opt.GetMode() & 0o777),
	})
	if errors.Is(err, session.ErrNoSSH) {
		if opt.GetOptional() {
			return "", errOptional
		}
		var reply interface{ GRPCStatus() *status.Status }
		why := "the client forwards no agent"
		if errors.As(err, &reply) && reply.GRPCStatus().Code() != codes.Unimplemented {
			why = reply.GRPCStatus().Message()
		}
		return "", fmt.Errorf("no SSH key %q: %s; pass it with --ssh %s", id, why, id)
	}
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, done)
	return path, nil
}

// commit turns the drafts into the outputs of the process.
func (m *mounting) commit(ctx context.Context, mounts []*pb.Mount, outputs int) (_ []solver.Ref, err error) {
	refs := make([]solver.Ref, outputs)
	defer func() {
		if err != nil {
			for _, r := range refs {
				if r != nil {
					r.Release()
				}
			}
		}
	}()
	note := m.note()
	for i, mt := range mounts {
		if output(mt) < 0 {
			continue
		}
		draft, ok := m.drafts[i]
		if !ok {
			return nil, fmt.Errorf("mount %s cannot be an output", mt.Dest)
		}
		draft.Annotate(note)
		snap, err := draft.Commit(ctx)
		if err != nil {
			return nil, err // close discards it
		}
		delete(m.drafts, i)
		refs[mt.Output] = NewRef(snap)
	}
	for i, r := range refs {
		if r == nil {
			return nil, fmt.Errorf("output %d of the process belongs to no mount", i)
		}
	}
	return refs, nil
}
