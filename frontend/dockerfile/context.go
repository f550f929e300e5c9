package dockerfile

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/frontend/sbom"
	"github.com/dbuild/dbuild/internal/ignore"
	"github.com/dbuild/dbuild/llb"
)

const (
	contextLocal    = "context"
	dockerfileLocal = "dockerfile"
	dockerfileName  = "Dockerfile"

	// containerfileName is what others call it.
	containerfileName = "Containerfile"

	// maxFile bounds the Dockerfile and the ignore file, which are held in memory.
	maxFile = 16 << 20
)

// A loader reads what all platforms of a request share: the Dockerfile, the ignore file,
// the build context and image configs.
type loader struct {
	bridge frontend.Bridge
	opts   *options
	inputs map[string]*pb.Definition

	platform   ocispec.Platform // of ops that nobody chose one for
	filename   string
	local      string  // the local source that has the Dockerfile
	dockerfile *output // where else it is, or nil
	context    *output // the build context if it is not local, or nil
	origin     *origin // where that came from, if it was fetched
	data       []byte
	info       *pb.SourceInfo
	declared   string            // the syntax of docker/dockerfile that is asked for, or ""
	file       *instruction.File // once it was parsed, perhaps in part
	scanner    *sbom.Scanner     // nil: the client wants no list of packages
	beyond     error             // what the request demands that we cannot do, if another frontend can

	ignoreMu sync.Mutex   // held while it is read
	ignore   *ignore.File // nil until read, or if it does not count

	imagesMu sync.Mutex
	images   map[string]*imageFlight
}

// remote reports whether the build context is not a directory of the client.
func (l *loader) remote() bool { return l.context != nil }

// bareLoader has read nothing yet.
func bareLoader(bridge frontend.Bridge, opts *options, req *frontend.Request) *loader {
	return &loader{
		bridge: bridge, opts: opts, inputs: req.Inputs,
		filename: dockerfileName, local: dockerfileLocal, images: map[string]*imageFlight{},
		platform: platforms.Normalize(platforms.DefaultSpec()),
	}
}

func newLoader(ctx context.Context, bridge frontend.Bridge, opts *options, req *frontend.Request) (*loader, error) {
	l := bareLoader(bridge, opts, req)
	if v := opts.raw["filename"]; v != "" {
		l.filename = v
	}
	if v, ok := opts.raw["dockerfilekey"]; ok {
		l.local = v
	}
	if err := l.findContext(ctx); err != nil {
		return nil, err
	}
	return l, l.readDockerfile(ctx)
}

// findContext decides what the build context is.
func (l *loader) findContext(ctx context.Context) error {
	key := contextLocal
	if v, ok := l.opts.raw["contextkey"]; ok {
		key = v
	}
	ref := l.opts.raw[key]
	g, err := parseGitRef(ref)
	switch {
	case err != nil:
		return err
	case g != nil:
		if keep, err := strconv.ParseBool(l.opts.raw["build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR"]); err == nil && keep {
			g.keepDir = &keep
		}
		if g.mtime == "" && l.opts.buildArgs[epochArg] != "" {
			g.mtime = "commit"
		}
		out := l.opts.gitSource(g, llb.Meta{Name: "[internal] load git source " + ref})
		l.context, l.dockerfile, l.origin = &out, &out, &origin{git: g}
	case strings.HasPrefix(ref, "http://"), strings.HasPrefix(ref, "https://"):
		if err := l.openDownload(ctx, ref); err != nil {
			return err
		}
	default:
		if def, ok := l.inputs[contextLocal]; ok {
			out, err := fromDefinition(def)
			if err != nil {
				return fmt.Errorf("input %s: %w", contextLocal, err)
			}
			l.context = &out
		}
		if def, ok := l.inputs[l.local]; ok {
			out, err := fromDefinition(def)
			if err != nil {
				return fmt.Errorf("input %s: %w", l.local, err)
			}
			l.dockerfile = &out
		}
	}
	if sub, ok := l.opts.raw["contextsubdir"]; ok && l.context != nil {
		out := copyAll(*l.context, llb.Copy{Src: sub, ContentsOnly: true})
		l.context = &out
	}
	return nil
}

// openDownload makes a context of a URL: of an archive its files, of anything else the
// Dockerfile.
func (l *loader) openDownload(ctx context.Context, url string) error {
	const name = "context"
	out := httpSource(url, name, "", llb.Meta{Name: "[internal] load remote build context"})
	ref, err := l.solve(ctx, out)
	if err != nil {
		return err
	}
	head, err := ref.ReadFile(ctx, name, 0, 1024)
	if err != nil {
		return fmt.Errorf("build context %s: %w", url, err)
	}
	if isArchive(head) {
		out = copyAll(out, llb.Copy{Src: name, AttemptUnpack: true})
	} else {
		l.filename = name
	}
	l.context, l.dockerfile, l.origin = &out, &out, &origin{url: url}
	return nil
}

func isArchive(head []byte) bool {
	for _, magic := range []string{"BZh", "\x1f\x8b\x08", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	if len(head) >= 8 && binary.LittleEndian.Uint32(head)&^0xf == 0x184d2a50 { // a skippable frame of zstd
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

func (l *loader) solve(ctx context.Context, out output) (frontend.Ref, error) {
	def, err := marshal(ctx, out, l.platform)
	if err != nil {
		return nil, err
	}
	return l.bridge.Solve(ctx, def)
}

func (l *loader) readDockerfile(ctx context.Context) error {
	base := path.Base(l.filename)
	lower := path.Join(path.Dir(l.filename), strings.ToLower(dockerfileName))
	var src output
	if _, forced := l.opts.raw["dockerfilekey"]; l.dockerfile != nil && !forced {
		src = *l.dockerfile
	} else {
		names := []string{l.filename, l.filename + ignore.Name}
		if base == dockerfileName {
			names = append(names, lower)
		}
		dir := localDir{name: l.local, session: l.opts.session(l.local), hint: l.local}
		src = dir.files(names, "[internal] load build definition from "+l.filename)
	}
	def, err := marshal(ctx, src, l.platform)
	if err != nil {
		return err
	}
	ref, err := l.bridge.Solve(ctx, def)
	if err != nil {
		return err
	}
	if l.data, err = readSmall(ctx, ref, l.filename); errors.Is(err, fs.ErrNotExist) && base == dockerfileName {
		if data, err1 := readSmall(ctx, ref, lower); err1 == nil {
			l.data, err = data, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) && l.filename == dockerfileName && l.remote() {
		// In a directory of its own the client has looked for it.
		if data, err1 := readSmall(ctx, ref, containerfileName); err1 == nil {
			l.filename, l.data, err = containerfileName, data, nil
		}
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", l.filename, err)
	}
	l.info = &pb.SourceInfo{Filename: l.filename, Data: attest.RedactBytes(l.data), Language: "Dockerfile", Definition: def}
	if !l.ignores() {
		return nil
	}
	if l.ignore, err = l.givenIgnore(contextLocal); l.ignore != nil || err != nil {
		return err
	}
	text, err := readSmall(ctx, ref, l.filename+ignore.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		l.ignore, err = ignore.Parse(l.filename+ignore.Name, text)
	}
	return err
}

// readSmall reads a file that must not be huge.
func readSmall(ctx context.Context, ref frontend.Ref, name string) ([]byte, error) {
	if ref == nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	data, err := ref.ReadFile(ctx, name, 0, maxFile+1)
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s exceeds maximum allowed size of %d bytes", name, maxFile)
	}
	return data, err
}

// mainContext is the build context, of which the paths that follow returns are read.
func (l *loader) mainContext(ctx context.Context, follow func() []string) (output, error) {
	if err := l.loadIgnore(ctx); err != nil {
		return output{}, err
	}
	if l.context != nil {
		return l.admitted(*l.context), nil
	}
	dir := l.contextDir()
	dir.exclude = l.ignore.Patterns()
	return dir.source(follow, "[internal] load build context"), nil
}

func (l *loader) contextDir() localDir {
	return localDir{name: contextLocal, session: l.opts.session(contextLocal), hint: contextLocal}
}
