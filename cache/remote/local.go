package remote

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// storePrefix begins the names that clients give to content stores for caches. The rest
// is the directory as they wrote it.
const storePrefix = "local:"

// AppendTo is the attribute of a local cache with append=true in which the client says which
// manifest its directory has: a digest, or "none".
const AppendTo = "append-to"

// Methods of the content store of a client.
const (
	readMethod  = "/containerd.services.content.v1.Content/Read"
	writeMethod = "/containerd.services.content.v1.Content/Write"
)

// newLocalExporter writes to a directory of the client, which writes its index.json
// itself.
func newLocalExporter(sessions *bksession.Manager, a *exporter.Attrs) (*Exporter, error) {
	dest := a.String("dest")
	a.Ignore("tag", "reset") // the client's business
	was := a.String(AppendTo)
	opts, err := optionsFrom(a)
	if err != nil {
		return nil, err
	}
	if opts.builds > 0 && was == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage("a local cache with append=true needs a client that says what is in the directory, such as dbuild")
	}
	if dest == "" {
		return nil, fmt.Errorf("a local cache needs a directory (dest=DIR): %w", errdefs.ErrInvalidArgument)
	}
	return &Exporter{name: "exporting cache to client directory", opts: opts, open: func(ctx context.Context, a exporter.Access) (store, error) {
		cs, err := clientStore(ctx, sessions, a.SessionIDs, writeMethod, dest)
		return &localStore{to: cs, group: a.Group, dir: dest, top: digest.Digest(was)}, err
	}}, nil
}

func clientStore(ctx context.Context, sessions *bksession.Manager, ids []string, method, dir string) (content.Store, error) {
	caller, err := exporter.Client{Sessions: sessions}.Caller(ctx, exporter.Access{SessionIDs: ids}, method)
	if err != nil {
		return nil, err
	}
	return sessioncontent.NewCallerStore(caller, storePrefix+dir), nil
}

type localStore struct {
	to    content.Store
	group bksession.Group
	dir   string
	top   digest.Digest // the manifest of the cache that is there, as far as is known here
}

func (s *localStore) blob(ctx context.Context, b snapshot.Blob, line *progress.Tracker) error {
	return exporter.WriteBlob(ctx, s.to, b.Descriptor, func(ctx context.Context) (io.ReadCloser, error) {
		rc, err := b.Open(ctx, s.group)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.TeeReader(rc, &exporter.Meter{W: io.Discard, Line: line}), rc}, nil
	})
}

func (s *localStore) manifest(ctx context.Context, d ocispec.Descriptor, data []byte) error {
	err := s.blob(ctx, document(d, data), nil)
	if err == nil {
		s.top = d.Digest
	}
	return err
}

// place implements appendable. The client writes the directory when the build has ended.
func (s *localStore) place() string { return "" }

func (s *localStore) before(ctx context.Context) (*origin, error) {
	if s.top.Validate() != nil {
		return nil, nil
	}
	o, err := inDirectory(ctx, s.to, s.dir, s.top)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

func (s *localStore) finish(ctx context.Context, c contents, log *progress.Log) (map[string]string, error) {
	return finish(ctx, s, c, log)
}

// fromClient finds a cache in a directory of the client that has one of these sessions,
// and of no other: what a directory is called says nothing elsewhere.
func fromClient(ctx context.Context, sessions *bksession.Manager, g bksession.Group, attrs map[string]string) (*origin, error) {
	dir, dgst := attrs["src"], digest.Digest(attrs["digest"])
	if dir == "" {
		return nil, fmt.Errorf("a local cache needs a directory (src=DIR): %w", errdefs.ErrInvalidArgument)
	}
	if err := dgst.Validate(); err != nil {
		return nil, fmt.Errorf("the client named no digest for the cache in %s: %w", dir, errdefs.ErrInvalidArgument)
	}
	ids := bksession.AllSessionIDs(g)
	cs, err := clientStore(ctx, sessions, ids, readMethod, dir)
	if err != nil {
		return nil, err
	}
	o, err := inDirectory(ctx, cs, dir, dgst)
	if err != nil {
		return nil, err
	}
	o.promise = func(l *snapshot.ImageLayer) {
		d := l.Blob
		l.Open = func(ctx context.Context, _ bksession.Group) (io.ReadCloser, error) {
			cs, err := clientStore(ctx, sessions, ids, readMethod, dir)
			if err != nil {
				return nil, err
			}
			return openBlob(ctx, cs, d)
		}
	}
	return o, nil
}

// inDirectory is a cache in a directory of a client, whose layers nobody will read.
func inDirectory(ctx context.Context, cs content.Store, dir string, dgst digest.Digest) (*origin, error) {
	info, err := cs.Info(ctx, dgst)
	if err != nil {
		return nil, err
	}
	return &origin{
		name: dir,
		top:  ocispec.Descriptor{Digest: dgst, Size: info.Size},
		read: func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) { return readBlob(ctx, cs, d) },
		exists: func(ctx context.Context, d ocispec.Descriptor) (bool, error) {
			_, err := cs.Info(ctx, d.Digest)
			return err == nil, err
		},
		promise: func(*snapshot.ImageLayer) {},
	}, nil
}

// readBlob reads a document and verifies it.
func readBlob(ctx context.Context, from content.Provider, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > registry.MaxManifest {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed: %w", d.Digest, d.Size, registry.MaxManifest, errdefs.ErrInvalidArgument)
	}
	b, err := content.ReadBlob(ctx, from, d)
	if err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("%s holds something else: %w", d.Digest, errdefs.ErrDataLoss)
	}
	return b, nil
}

// readAhead is how much is read from a client at once.
const readAhead = 1 << 20

func openBlob(ctx context.Context, from content.Provider, d ocispec.Descriptor) (io.ReadCloser, error) {
	ra, err := from.ReaderAt(ctx, d)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{bufio.NewReaderSize(io.NewSectionReader(ra, 0, d.Size), readAhead), ra}, nil
}
