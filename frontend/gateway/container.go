package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"sync/atomic"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// maxContainers is how many containers one frontend may have at a time.
const maxContainers = 256

// validID is what clients may call their containers. The names go no further than this
// package, but nobody needs others.
var validID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func checkID(id string) error {
	if !validID.MatchString(id) {
		return cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("container id %.70q: want 1 to 64 letters, digits, - or _", id))
	}
	return nil
}

// NewContainer prepares a container for processes of the client.
func (v *service) NewContainer(ctx context.Context, req *gwpb.NewContainerRequest) (*gwpb.NewContainerResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkID(req.GetContainerID()); err != nil {
		return nil, err
	}
	r, err := s.containerRequest(req)
	if err != nil {
		return nil, err
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.admit(req.GetContainerID()); err != nil {
		return nil, err
	}
	c, err := s.Bridge.NewContainer(ctx, r)
	if cerrdefs.IsPermissionDenied(err) {
		// Clients expect to hear of it from the process that may not run.
		c, err = refused{err}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.containers, req.GetContainerID())
		return nil, err
	}
	s.containers[req.GetContainerID()] = &held{Container: c}
	return &gwpb.NewContainerResponse{}, nil
}

// held is a container of a client.
type held struct {
	frontend.Container
	live atomic.Int32 // processes that were started and have not ended
}

// A refused container is one that the build may not have.
type refused struct{ err error }

func (c refused) Start(_ context.Context, p frontend.Process) (frontend.Running, error) {
	for _, s := range []io.Closer{p.Stdin, p.Stdout, p.Stderr} {
		if s != nil {
			s.Close()
		}
	}
	return nil, c.err
}

func (c refused) ReadFile(context.Context, int, string, int64, int64) ([]byte, error) {
	return nil, c.err
}

func (c refused) ReadDir(context.Context, int, string, string) ([]*fstypes.Stat, error) {
	return nil, c.err
}

func (c refused) StatFile(context.Context, int, string) (*fstypes.Stat, error) { return nil, c.err }
func (refused) Release(context.Context) error                                  { return nil }

// admit reserves an id.
func (s *serving) admit(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.containers[id]; ok {
		return cerrdefs.ErrAlreadyExists.WithMessage("container " + id + " exists already")
	}
	if len(s.containers) >= maxContainers {
		return cerrdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("the build has %d containers: release some", len(s.containers)))
	}
	s.containers[id] = nil
	return nil
}

// containerRequest checks what a client asks for as far as it can be seen from here.
func (s *serving) containerRequest(req *gwpb.NewContainerRequest) (r frontend.ContainerRequest, _ error) {
	r = frontend.ContainerRequest{
		Network: req.GetNetwork(), Hostname: req.GetHostname(), ExtraHosts: req.GetExtraHosts(),
		Platform: platform(req.GetPlatform()), Constraints: req.GetConstraints(),
	}
	root := false
	for i, m := range req.GetMounts() {
		switch {
		case m == nil:
			return r, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("mount %d is nil", i))
		case pb.MountType_name[int32(m.MountType)] == "":
			return r, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("mount %q has type %d, which this builder does not know", m.Dest, m.MountType))
		case m.MountType == pb.MountType_SSH && m.SSHOpt == nil:
			return r, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("SSH mount %q requires options", m.Dest))
		case m.MountType == pb.MountType_SECRET && m.SecretOpt == nil:
			return r, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("secret mount %q requires options", m.Dest))
		case m.MountType == pb.MountType_CACHE && m.CacheOpt == nil:
			return r, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cache mount %q requires options", m.Dest))
		}
		root = root || m.Dest == pb.RootMount
		ref, err := s.ref(m.ResultID)
		if err != nil {
			return r, fmt.Errorf("mount %q: %w", m.Dest, err)
		}
		r.Mounts = append(r.Mounts, frontend.ContainerMount{Mount: m, Ref: ref})
	}
	for i, h := range r.ExtraHosts {
		if h == nil {
			return r, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("extra host %d is nil", i))
		}
	}
	if !root {
		return r, cerrdefs.ErrInvalidArgument.WithMessage("root mount is required")
	}
	return r, nil
}

// container returns a container of the client.
func (s *serving) container(id string) (*held, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, cerrdefs.ErrNotFound.WithMessage(fmt.Sprintf("there is no container %.70q: it was released or never made", id))
	}
	return c, nil
}

// ReleaseContainer ends a container and what runs in it.
func (v *service) ReleaseContainer(ctx context.Context, req *gwpb.ReleaseContainerRequest) (*gwpb.ReleaseContainerResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.container(req.GetContainerID())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	delete(s.containers, req.GetContainerID())
	s.mu.Unlock()
	// A client that leaves meanwhile leaves nothing behind.
	killed := c.live.Load() > 0
	if err := c.Release(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	if killed { // a client that did not wait for its processes may want to know
		return nil, fmt.Errorf("processes of the container were killed: %w", context.Canceled)
	}
	return &gwpb.ReleaseContainerResponse{}, nil
}

// ofContainer begins a call about the files of a container.
func (v *service) ofContainer(ctx context.Context, id string) (frontend.Container, context.Context, func(), error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	c, err := s.container(id)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, leave, err := s.enter(ctx)
	return c, ctx, leave, err
}

// asAsked makes err name a file as the client did, and not as it is found here.
func asAsked(err error, path string) error {
	var of *fs.PathError
	if !errors.As(err, &of) {
		return err
	}
	return &fs.PathError{Op: of.Op, Path: path, Err: of.Err}
}

// ReadFileContainer reads a file that a container sees.
func (v *service) ReadFileContainer(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	if err := checkRange(req); err != nil {
		return nil, err
	}
	c, ctx, leave, err := v.ofContainer(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	defer leave()
	data, err := c.ReadFile(ctx, int(req.GetMountIndex()), req.GetFilePath(), req.GetRange().GetOffset(), req.GetRange().GetLength())
	if err != nil {
		return nil, asAsked(err, req.GetFilePath())
	}
	return &gwpb.ReadFileResponse{Data: data}, nil
}

// ReadDirContainer lists a directory that a container sees.
func (v *service) ReadDirContainer(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	c, ctx, leave, err := v.ofContainer(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	defer leave()
	entries, err := c.ReadDir(ctx, int(req.GetMountIndex()), req.GetDirPath(), req.GetIncludePattern())
	if err != nil {
		return nil, asAsked(err, req.GetDirPath())
	}
	return &gwpb.ReadDirResponse{Entries: entries}, nil
}

// StatFileContainer describes a file that a container sees.
func (v *service) StatFileContainer(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	c, ctx, leave, err := v.ofContainer(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	defer leave()
	st, err := c.StatFile(ctx, int(req.GetMountIndex()), req.GetPath())
	if err != nil {
		return nil, asAsked(err, req.GetPath())
	}
	return &gwpb.StatFileResponse{Stat: st}, nil
}
