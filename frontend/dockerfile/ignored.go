package dockerfile

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/ignore"
	"github.com/dbuild/dbuild/llb"
)

const (
	// optIgnoreFile begins the option that has the ignore file of a context, instead of any
	// that would be looked for: "ignorefile:context" for the build context, "ignorefile:NAME"
	// for others. The first line of the value is the file's name, the rest its text.
	optIgnoreFile = "ignorefile:"
	// optIgnoreRemote lets ignore files count in contexts that are not the client's, too.
	optIgnoreRemote = "build-arg:BUILDKIT_CONTEXT_IGNORE_REMOTE"
)

// givenIgnore is the ignore file that came with the request for a context, or nil.
func (l *loader) givenIgnore(name string) (*ignore.File, error) {
	v, ok := l.opts.raw[optIgnoreFile+name]
	if !ok {
		return nil, nil
	}
	shown, text, _ := strings.Cut(v, "\n")
	return ignore.Parse(shown, []byte(text))
}

// ignores reports whether an ignore file counts for the build context. BuildKit has none for
// contexts that it fetches itself.
func (l *loader) ignores() bool {
	if !l.remote() {
		return true
	}
	_, given := l.opts.raw[optIgnoreFile+contextLocal]
	on, err := strconv.ParseBool(l.opts.raw[optIgnoreRemote])
	return given || err == nil && on
}

// loadIgnore reads the ignore file of the build context, once.
func (l *loader) loadIgnore(ctx context.Context) error {
	if !l.ignores() {
		return nil
	}
	l.ignoreMu.Lock()
	defer l.ignoreMu.Unlock()
	if l.ignore != nil {
		return nil
	}
	var f *ignore.File
	var err error
	if l.context != nil {
		var ref frontend.Ref
		if ref, err = l.solve(ctx, *l.context); err == nil {
			f, err = ignoreIn(ctx, ref)
		}
	} else {
		f, err = l.readIgnore(ctx, l.contextDir(), "[internal] load "+ignore.Name)
	}
	if err == nil {
		l.ignore = f
	}
	return err
}

// readIgnore reads the ignore file of a local directory.
func (l *loader) readIgnore(ctx context.Context, dir localDir, name string) (*ignore.File, error) {
	dir.hint += "-" + ignore.Name
	ref, err := l.solve(ctx, dir.files([]string{ignore.Name, ignore.Alternative}, name))
	if err != nil {
		return nil, err
	}
	return ignoreIn(ctx, ref)
}

// ignoreIn reads the ignore file in the root of a context.
func ignoreIn(ctx context.Context, ref frontend.Ref) (*ignore.File, error) {
	for _, name := range []string{ignore.Name, ignore.Alternative} {
		data, err := readSmall(ctx, ref, name)
		if err == nil {
			return ignore.Parse(name, data)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &ignore.File{}, nil
}

// admitted is a context that the daemon fetched, without what the ignore file leaves out.
func (l *loader) admitted(from output) output {
	if l.ignore == nil || len(l.ignore.Patterns()) == 0 {
		return from
	}
	return fileOp(output{}, llb.Meta{Name: "[internal] apply " + l.ignore.Name}, action{from: from, copy: llb.Copy{
		Src: "/", Dest: "/", Mode: llb.KeepMode, ContentsOnly: true, Exclude: l.ignore.Patterns(),
	}})
}
