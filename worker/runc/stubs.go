package runc

import (
	"slices"
	"sync"

	"github.com/dbuild/dbuild/worker/runc/rootfs"
)

// sharedStubs makes the mount points of runs. Where runs share a root file system they are
// removed after the last one: the kernel takes away what is mounted on a file that is removed,
// from all of them.
type sharedStubs struct {
	mu    sync.Mutex
	roots map[string]*rootStubs // under mu; by root file system
}

type rootStubs struct {
	users int
	made  []*rootfs.Stubs
}

// make makes mount points. The function it returns must be called after the run.
func (s *sharedStubs) make(root string, targets []rootfs.Target, recursive bool) (remove func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	made, err := rootfs.MakeStubs(root, targets, recursive)
	if err != nil {
		return nil, err
	}
	if s.roots == nil {
		s.roots = make(map[string]*rootStubs)
	}
	r := s.roots[root]
	if r == nil {
		r = new(rootStubs)
		s.roots[root] = r
	}
	r.users++
	r.made = append(r.made, made)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.users--; r.users > 0 {
			return
		}
		delete(s.roots, root)
		for _, m := range slices.Backward(r.made) {
			m.Remove()
		}
	}, nil
}
