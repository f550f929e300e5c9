package exporter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dbuild/dbuild/attest"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// An attachedFS is a tree with a few more files at its root.
type attachedFS struct {
	fsutil.FS
	files []attachedFile // by name
	time  *time.Time
}

type attachedFile struct {
	name string
	data []byte
}

// attach adds the attestations of a part to its tree, as files with names that rename
// makes. What is only for images is left out.
func attach(ctx context.Context, tree fsutil.FS, list []Attestation, rename func(string) string) (*attachedFS, error) {
	list = slices.DeleteFunc(slices.Clone(list), func(a Attestation) bool { return a.InlineOnly })
	out := &attachedFS{FS: tree}
	if len(list) == 0 {
		return out, nil
	}
	made, err := attestAll(ctx, list, nil)
	if err != nil {
		return nil, err
	}
	self, err := fileSubjects(ctx, tree)
	if err != nil {
		return nil, err
	}
	for _, a := range made {
		b, err := attest.NewStatement(a.PredicateType, a.predicate, a.subjects(self))
		if err != nil {
			return nil, err
		}
		name := rename(path.Base(path.Clean("/" + a.Filename)))
		if slices.ContainsFunc(out.files, func(f attachedFile) bool { return f.name == name }) {
			return nil, fmt.Errorf("two attestations would be written to %s", name)
		}
		out.files = append(out.files, attachedFile{name, b})
	}
	slices.SortFunc(out.files, func(a, b attachedFile) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// fileSubjects are the files of a tree with their digests.
func fileSubjects(ctx context.Context, tree fsutil.FS) ([]attest.Subject, error) {
	out := []attest.Subject{}
	err := tree.Walk(ctx, "", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.Type().IsRegular() {
			return nil
		}
		rc, err := tree.Open(p)
		if err != nil {
			return err
		}
		defer rc.Close()
		sum := digest.Canonical.Digester()
		if _, err := io.Copy(sum.Hash(), rc); err != nil {
			return fmt.Errorf("digest of %s: %w", p, err)
		}
		d := sum.Digest()
		out = append(out, attest.Subject{Name: filepath.ToSlash(p), Digest: map[string]string{d.Algorithm().String(): d.Encoded()}})
		return nil
	})
	return out, err
}

// Walk visits the files in order: those of a directory by name, what is below a directory
// right after it.
func (a *attachedFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	left := a.files
	add := func(before string) error {
		for len(left) > 0 && (before == "" || left[0].name < before) {
			f := left[0]
			left = left[1:]
			st := &types.Stat{Path: f.name, Mode: 0o644, Size: int64(len(f.data)), ModTime: time.Now().UnixNano()}
			if a.time != nil {
				st.ModTime = a.time.UnixNano()
			}
			if err := fn(f.name, &fsutil.DirEntryInfo{Stat: st}, nil); err != nil {
				return err
			}
		}
		return nil
	}
	err := a.FS.Walk(ctx, target, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		top, _, _ := strings.Cut(filepath.ToSlash(p), "/")
		if err := add(top); err != nil {
			return err
		}
		if len(left) > 0 && left[0].name == top {
			return fmt.Errorf("the result has a file with the name of an attestation, %s: choose another with attestation-prefix", top)
		}
		return fn(p, e, nil)
	})
	if err != nil {
		return err
	}
	return add("")
}

// Open opens a file.
func (a *attachedFS) Open(p string) (io.ReadCloser, error) {
	for _, f := range a.files {
		if f.name == p {
			return io.NopCloser(bytes.NewReader(f.data)), nil
		}
	}
	return a.FS.Open(p)
}

// withPlatform puts a platform before the extension of a name: provenance.linux_arm64.json.
func withPlatform(name, id string) string {
	ext := path.Ext(name)
	return strings.TrimSuffix(name, ext) + "." + DirOf(id) + ext
}
