package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/dbuild/dbuild/session"
	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil/types"
)

// MetadataFile is the name of the file that lists a directory of which only the list was
// sent: each path's Stat, as fsutil writes it, after its length in 32 bits, little endian.
const MetadataFile = ".fsutil-metadata"

const (
	maxMetadata = 256 << 20 // bytes of a MetadataFile
	maxExcepted = 10_000    // files that are wanted nevertheless, if they must be named
)

// Metadata lists the directory of req as a MetadataFile has it, and returns the request for
// the files that are wanted nevertheless; ok is false if there are none.
func (s *Source) Metadata(ctx context.Context, g session.Group, req Request, except []string) (list []byte, files Request, ok bool, _ error) {
	match, err := patternmatcher.New(except)
	if err != nil {
		return nil, req, false, fmt.Errorf("local directory %q: %w", req.Name, err)
	}
	var wanted []string
	var failed error
	err = s.walk(ctx, g, req, func(st *stat, n int) bool {
		if n == 0 {
			list, wanted = list[:0], nil
		}
		path := string(st.path)
		if path == MetadataFile {
			return true
		}
		if list, failed = appendStat(list, st); failed != nil {
			return false
		}
		if len(list) > maxMetadata || len(wanted) > maxExcepted {
			failed = errors.New("it has too many files")
			return false
		}
		in, err := match.MatchesOrParentMatches(path)
		if err != nil {
			failed = err
			return false
		}
		if in && !st.mode.IsDir() {
			wanted = append(wanted, path)
		}
		return true
	})
	if err == nil && failed != nil {
		err = fmt.Errorf("local directory %q: %w", req.Name, failed)
	}
	if err != nil || len(wanted) == 0 {
		return list, req, false, err
	}
	files = req
	if len(req.Include) == 0 && len(req.FollowPaths) == 0 {
		files.Include = except // few patterns instead of many names
		return list, files, true, nil
	}
	files.Include, files.FollowPaths = make([]string, len(wanted)), nil
	for i, name := range wanted {
		files.Include[i] = literal(name)
	}
	return list, files, true, nil
}

// literal is the pattern of one name.
func literal(name string) string {
	out := make([]byte, 0, len(name)+8)
	for i := range len(name) {
		switch name[i] {
		case '*', '?', '[', ']', '\\', '!', '^':
			out = append(out, '\\')
		}
		out = append(out, name[i])
	}
	return string(out)
}

// appendStat appends a Stat and its length.
func appendStat(b []byte, s *stat) ([]byte, error) {
	if len(s.path) > maxPath || len(s.link) > maxPath {
		return b, fmt.Errorf("client sent a path of %d bytes", len(s.path)+len(s.link))
	}
	st := &types.Stat{
		Path: string(s.path), Linkname: string(s.link), Mode: uint32(s.mode & (fs.ModeType | modeBits)), Uid: s.uid, Gid: s.gid,
		Size: s.size, ModTime: s.mtime, Devmajor: s.devmajor, Devminor: s.devminor,
	}
	for _, x := range s.xattrs {
		if keepXattr(view(x.name)) {
			if st.Xattrs == nil {
				st.Xattrs = map[string][]byte{}
			}
			st.Xattrs[string(x.name)] = append([]byte(nil), x.value...)
		}
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(st.SizeVT()))
	data, err := st.MarshalVT()
	return append(b, data...), err
}
