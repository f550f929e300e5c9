package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxApart bounds how many merges the store remembers as having layers without common files.
const maxApart = 4096

// setApart sees to it that no two layers of a merge have one file under two names: each was
// made without knowing of the others, so that both may link to the file they were copied
// from (see Links). Where that is so, the upper layer gets a copy of its own.
//
// dirs are the directories of r's layers.
func (r *Ref) setApart(ctx context.Context, dirs []string) error {
	if len(r.heads) < 2 {
		return nil // what is drafted on a layer is kept apart from it by Links
	}
	kin := relatives(r.layers)
	if len(kin) == 0 {
		return nil
	}
	s := r.s
	var key strings.Builder
	for _, i := range kin {
		key.WriteString(dirs[i] + "\n")
	}
	s.apartMu.Lock()
	defer s.apartMu.Unlock()
	if s.apart[key.String()] {
		return nil
	}
	owner := map[inode]int{}
	for _, i := range kin {
		if err := s.ownFiles(ctx, dirs[i], i, owner); err != nil {
			return err
		}
	}
	if len(s.apart) >= maxApart || s.apart == nil {
		s.apart = map[string]bool{}
	}
	s.apart[key.String()] = true
	return nil
}

// relatives returns which layers may have files in common with another of the list.
func relatives(layers []*layer) []int {
	families := make([][]string, len(layers))
	members := map[string]int{} // how many layers have files of a directory
	for i, l := range layers {
		own, links := l.origins()
		if own == "" {
			continue
		}
		families[i] = append([]string{own}, links...)
		for _, f := range families[i] {
			members[f]++
		}
	}
	var kin []int
	for i, family := range families {
		if slices.ContainsFunc(family, func(f string) bool { return members[f] > 1 }) {
			kin = append(kin, i)
		}
	}
	return kin
}

// ownFiles notes the files below dir that have several names as those of layer i. Of those
// that another layer owns it makes copies, which take their place: whoever has the old ones
// open or mounted sees the same bytes.
func (s *Store) ownFiles(ctx context.Context, dir string, i int, owner map[inode]int) error {
	c := &copier{ctx: ctx, links: map[inode]string{}}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		if st.Nlink < 2 {
			return nil
		}
		key := inode{uint64(st.Dev), st.Ino}
		if first, ok := owner[key]; !ok || first == i {
			owner[key] = i
			return nil
		}
		return s.replace(c, path, &st)
	})
}

// replace puts a copy of the file at path in its place. Two names that the layer has for
// one file are names of one copy.
func (s *Store) replace(c *copier, path string, st *unix.Stat_t) error {
	parent := filepath.Dir(path)
	var dir unix.Stat_t
	if err := unix.Lstat(parent, &dir); err != nil {
		return &fs.PathError{Op: "lstat", Path: parent, Err: err}
	}
	// Not beside it: of a daemon that is killed here nothing may be left in the layer.
	tmp := filepath.Join(s.work, "apart-"+strconv.FormatUint(s.workSeq.Add(1), 10))
	if err := c.copy(path, tmp, st); err != nil {
		return err
	}
	if err := syncFile(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	if key := (inode{uint64(st.Dev), st.Ino}); c.links[key] == tmp {
		c.links[key] = path
	}
	return setTimes(parent, &dir)
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
