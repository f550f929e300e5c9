package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/llb"
)

// origins say where a source was found, and so where those are that it includes: a path in
// a tree, or a download, which is alone.
type origins struct {
	tree *sourceTree // nil for a download
	path string      // in it
	info *pb.SourceInfo
}

// A sourceTree is a directory that fragments are read from. What an ignore file says of it
// does not count.
type sourceTree struct {
	name string // before the paths, for people: "" or "NAME:"
	// output is the tree, of which at least one path is there.
	output func(ctx context.Context, p string) (output, error)
}

// mainOrigin is that of the Dockerfile.
func (l *loader) mainOrigin() *origins {
	return &origins{path: path.Clean(l.filename), info: l.info, tree: &sourceTree{output: func(_ context.Context, p string) (output, error) {
		if _, forced := l.opts.raw["dockerfilekey"]; l.dockerfile != nil && !forced {
			return *l.dockerfile, nil
		}
		dir := localDir{name: l.local, session: l.opts.session(l.local), hint: l.local + "-include"}
		return dir.files([]string{p}, "[internal] load "+p), nil
	}}}
}

// opener finds fragments for one reading of the Dockerfile.
func (l *loader) opener(ctx context.Context, main *instruction.Source) instruction.Opener {
	o := &opening{loader: l, ctx: ctx, found: map[string]*instruction.Source{}, trees: map[string]*sourceTree{}}
	o.found[":"+main.Origin.(*origins).path] = main
	return o.open
}

type opening struct {
	*loader
	ctx   context.Context // of the reading
	found map[string]*instruction.Source
	trees map[string]*sourceTree // of named contexts
}

// contextPath is NAME:PATH.
var contextPath = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._/@-]*):([^/].*|/[^/].*)$`)

func (o *opening) open(from *instruction.Source, p, checksum string) (*instruction.Source, error) {
	if isHTTP(p) {
		return o.download(p, checksum)
	}
	if checksum != "" {
		return nil, errors.New("--checksum is for URLs")
	}
	at := from.Origin.(*origins)
	tree, dir, written := at.tree, path.Dir(at.path), p
	if m := contextPath.FindStringSubmatch(p); m != nil {
		var err error
		if tree, err = o.named(m[1]); err != nil {
			return nil, err
		}
		dir, p = ".", m[2]
	}
	if tree == nil {
		return nil, fmt.Errorf("%s was downloaded, and what it includes must be a URL or in a named context", from.Name)
	}
	if path.IsAbs(p) {
		dir = "."
	}
	p = path.Join(dir, strings.TrimLeft(p, "/"))
	if p == ".." || strings.HasPrefix(p, "../") || p == "." {
		return nil, fmt.Errorf("%s is not below the directory that the build is given; name one with --build-context NAME=DIR and write NAME:PATH", written)
	}
	return o.read(&origins{tree: tree, path: p}, tree.name+p, func() ([]byte, *pb.Definition, error) {
		out, err := tree.output(o.ctx, p)
		if err != nil {
			return nil, nil, err
		}
		data, def, err := o.content(out, p)
		if errors.Is(err, fs.ErrNotExist) {
			if tree.name != "" {
				return nil, nil, fmt.Errorf("there is no %s in the context %s", p, strings.TrimSuffix(tree.name, ":"))
			}
			return nil, nil, fmt.Errorf("there is no %s: a path is seen from the directory of the file that includes it", p)
		}
		return data, def, err
	})
}

// read makes a source once, whoever includes it.
func (o *opening) read(at *origins, name string, content func() ([]byte, *pb.Definition, error)) (*instruction.Source, error) {
	key := name
	if at.tree != nil {
		key = at.tree.name + ":" + at.path
	}
	if s := o.found[key]; s != nil {
		return s, nil
	}
	data, def, err := content()
	if err != nil {
		return nil, err
	}
	at.info = &pb.SourceInfo{Filename: name, Data: attest.RedactBytes(data), Language: "Dockerfile", Definition: def}
	s := &instruction.Source{Name: name, Data: data, Origin: at}
	o.found[key] = s
	return s, nil
}

func (o *opening) content(out output, p string) ([]byte, *pb.Definition, error) {
	def, err := marshal(o.ctx, out, o.platform)
	if err != nil {
		return nil, nil, err
	}
	ref, err := o.bridge.Solve(o.ctx, def)
	if err != nil {
		return nil, nil, err
	}
	data, err := readSmall(o.ctx, ref, p)
	return data, def, err
}

// named is the tree of a context that the client names.
func (o *opening) named(name string) (*sourceTree, error) {
	if t := o.trees[name]; t != nil {
		return t, nil
	}
	b := newBuild(o.loader, &instruction.File{Escape: '\\'}, o.opts.firstPlatform())
	c, err := b.namedContext(name, nil)
	if err != nil {
		return nil, err
	}
	if c == nil {
		var names []string
		for key := range o.opts.raw {
			if n, ok := strings.CutPrefix(key, "context:"); ok {
				names = append(names, n)
			}
		}
		return nil, instruction.Suggest(fmt.Errorf("there is no context named %s: give it with --build-context %s=DIR, or write ./%s:... for a path", name, name, name), name, names)
	}
	t := &sourceTree{name: name + ":"}
	if local, ok := strings.CutPrefix(c.value, "local:"); ok {
		t.output = func(_ context.Context, p string) (output, error) {
			dir := localDir{name: local, session: o.opts.session(local), hint: "context:" + c.key + "-include"}
			return dir.files([]string{p}, "[context "+c.key+"] load "+p), nil
		}
	} else {
		loaded, err := c.load(o.ctx, func() []string { return nil })
		if err != nil {
			return nil, err
		}
		t.output = func(context.Context, string) (output, error) { return loaded.out, nil }
	}
	o.trees[name] = t
	return t, nil
}

// download reads a URL, of which the digest must be known: behind an @ at its end, or as
// checksum.
func (o *opening) download(url, checksum string) (*instruction.Source, error) {
	if i := strings.LastIndexByte(url, '@'); i >= 0 {
		if sum, err := digest.Parse(url[i+1:]); err == nil {
			if checksum != "" && checksum != sum.String() {
				return nil, fmt.Errorf("the digest of the URL, %s, is not that of --checksum", sum)
			}
			url, checksum = url[:i], sum.String()
		}
	}
	if checksum == "" {
		return nil, errors.New("what a URL gives may change: its digest is needed, behind the URL as in @sha256:HEX or as --checksum=sha256:HEX")
	}
	sum, err := digest.Parse(checksum)
	if err != nil {
		return nil, fmt.Errorf("checksum %q: %w", checksum, err)
	}
	return o.read(&origins{}, url, func() ([]byte, *pb.Definition, error) {
		const name = "fragment"
		data, def, err := o.content(httpSource(url, name, sum.String(), llb.Meta{Name: "[internal] load " + url}), name)
		if err == nil && sum.Algorithm().FromBytes(data) != sum {
			err = fmt.Errorf("its digest is not %s", sum)
		}
		return data, def, err
	})
}
