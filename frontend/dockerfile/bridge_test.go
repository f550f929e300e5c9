package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/platforms"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"

	"github.com/dbuild/dbuild/frontend"
)

// A fakeBridge has the files of the client's directories and the images of images.json.
type fakeBridge struct {
	files     map[string][]byte // of the context; "NAME/x" is x in the local context NAME
	platforms []ocispec.Platform
	times     map[string]time.Time // of what is fetched, by identifier; zero if nobody knows

	mu       sync.Mutex
	images   map[string]fakeImage
	resolved []string // log names
	solved   []*pb.Definition
	warnings []frontend.Warning
}

type fakeImage struct {
	Digest  digest.Digest
	Configs map[string]json.RawMessage
}

func newFakeBridge(t testing.TB) *fakeBridge {
	t.Helper()
	b := &fakeBridge{
		files:     map[string][]byte{},
		platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "386"}},
	}
	dt, err := os.ReadFile("../../testdata/dockerfile/images.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(dt, &b.images); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *fakeBridge) ImportCache(...frontend.CacheEntry) {}

func (b *fakeBridge) SolveFrontend(_ context.Context, name string, _ *frontend.Request) (*frontend.Result, error) {
	return nil, errors.New("there is no frontend " + name)
}

func (b *fakeBridge) Log(string) io.WriteCloser { return nil }

func (b *fakeBridge) NewContainer(context.Context, frontend.ContainerRequest) (frontend.Container, error) {
	return nil, errors.New("a Dockerfile needs no containers of its own")
}

func (b *fakeBridge) Platforms() []ocispec.Platform { return b.platforms }
func (b *fakeBridge) Warn(_ context.Context, w frontend.Warning) {
	b.warnings = append(b.warnings, w)
}

// The frontend asks for sources and policies of none.
func (b *fakeBridge) ResolveSource(context.Context, *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	panic("not asked for")
}
func (b *fakeBridge) WithPolicies([]*spb.Policy) (frontend.Bridge, error) { panic("not asked for") }

func (b *fakeBridge) Solve(_ context.Context, def *pb.Definition) (frontend.Ref, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.solved = append(b.solved, def)
	var op pb.Op
	if len(def.Def) == 0 {
		return nil, nil
	}
	if err := op.UnmarshalVT(def.Def[0]); err != nil {
		return nil, err
	}
	dir := strings.TrimPrefix(op.GetSource().GetIdentifier(), "local://") + "/"
	if dir == "context/" || dir == "dockerfile/" {
		dir = ""
	}
	return &fakeRef{def: def, dir: dir, files: b.files, times: b.times}, nil
}

func (b *fakeBridge) ResolveImage(_ context.Context, ref string, opt frontend.ResolveOpt) (*frontend.ImageMeta, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resolved = append(b.resolved, opt.LogName)
	name, _, _ := strings.Cut(ref, "@")
	name = strings.TrimSuffix(strings.TrimPrefix(name, "docker.io/library/"), ":latest")
	img, ok := b.images[name]
	if opt.OCILayout != nil { // which has all of them, under any name
		for _, i := range b.images {
			if strings.HasSuffix(ref, "@"+i.Digest.String()) {
				img, ok = i, true
			}
		}
	}
	if !ok {
		return nil, fmt.Errorf("image %s: %w", ref, fs.ErrNotExist)
	}
	p := b.platforms[0]
	if opt.Platform != nil {
		p = *opt.Platform
	}
	config, ok := img.Configs[platforms.Format(platforms.Normalize(p))]
	for _, only := range img.Configs {
		if len(img.Configs) == 1 { // not an index: it is what it is
			config, ok = only, true
		}
	}
	if !ok {
		return nil, fmt.Errorf("image %s has no %s", ref, platforms.Format(p))
	}
	return &frontend.ImageMeta{Ref: ref, Digest: img.Digest, Config: config}, nil
}

// A fakeRef is a directory of the client, or a result that nobody reads.
type fakeRef struct {
	def   *pb.Definition
	dir   string
	files map[string][]byte
	times map[string]time.Time
}

func (r *fakeRef) Definition() *pb.Definition     { return r.def }
func (r *fakeRef) Evaluate(context.Context) error { return nil }

func (r *fakeRef) ReadFile(_ context.Context, name string, offset, length int64) ([]byte, error) {
	dt, ok := r.files[r.dir+name]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	if dt = dt[min(offset, int64(len(dt))):]; length > 0 {
		dt = dt[:min(length, int64(len(dt)))]
	}
	return dt, nil
}

func (r *fakeRef) ReadDir(context.Context, string, string) ([]*fstypes.Stat, error) {
	return nil, fs.ErrNotExist
}

func (r *fakeRef) StatFile(_ context.Context, name string) (*fstypes.Stat, error) {
	var op pb.Op
	if err := op.UnmarshalVT(r.def.Def[0]); err != nil {
		return nil, err
	}
	t, ok := r.times[op.GetSource().GetIdentifier()]
	if !ok {
		return nil, fmt.Errorf("stat %s: %w", name, fs.ErrNotExist)
	}
	return &fstypes.Stat{ModTime: t.UnixNano()}, nil
}
