// Package imagestore is a containerd as a place for images: its content store, to which the
// daemon writes the blobs that are missing, and the names that images have there.
package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/closedstore"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

// Defaults of containerd.
const (
	DefaultAddress   = "/run/containerd/containerd.sock"
	DefaultNamespace = "default"
)

const (
	// dialTimeout is how long containerd may take to answer the first time.
	dialTimeout = 10 * time.Second
	// leaseTime is when containerd may drop what a client has written that has died.
	leaseTime = 24 * time.Hour
)

// A Config says where the store is.
type Config struct {
	Address   string // of its socket
	Namespace string
}

// A Store is a namespace's content, in which what is written stays until Close at least. As a
// content store, which a session offers to the daemon, it takes blobs and says which there are.
type Store struct {
	closedstore.Store
	c       *client.Client
	content content.Store
	cfg     Config
	lease   leases.Lease // of all calls

	mu   sync.Mutex
	last digest.Digest // under mu; the blob that was offered last
}

// Open connects to containerd.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	cfg.Address = strings.TrimPrefix(cfg.Address, "unix://")
	s := &Store{cfg: cfg}
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := d.DialContext(ctx, "unix", cfg.Address)
	if err != nil {
		return nil, &UnreachableError{Address: cfg.Address, err: err}
	}
	conn.Close()
	s.c, err = client.New(cfg.Address, client.WithExtraDialOpts([]grpc.DialOption{
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(s.with(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(s.with(ctx), desc, cc, method, opts...)
		}),
	}))
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	lease, err := s.c.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err != nil {
		s.c.Close()
		return nil, &UnreachableError{Address: cfg.Address, err: err}
	}
	s.lease, s.content = lease, s.c.ContentStore()
	return s, nil
}

// with adds to a call whose it is. Calls come with what the daemon says of itself.
func (s *Store) with(ctx context.Context) context.Context {
	ctx = namespaces.WithNamespace(ctx, s.cfg.Namespace)
	if s.lease.ID != "" {
		ctx = leases.WithLease(ctx, s.lease.ID)
	}
	return ctx
}

// Close gives up what no name refers to.
func (s *Store) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	_ = s.c.LeasesService().Delete(ctx, s.lease) // or it ends by itself
	s.c.Close()
}

// Writer implements content.Ingester.
func (s *Store) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	s.last = o.Desc.Digest
	s.mu.Unlock()
	w, err := s.content.Writer(ctx, opts...)
	return w, explain(err)
}

// Info implements content.InfoProvider.
func (s *Store) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	return s.content.Info(ctx, d)
}

// Status implements content.IngestManager.
func (s *Store) Status(ctx context.Context, ref string) (content.Status, error) {
	return s.content.Status(ctx, ref)
}

// Content is all that the namespace has.
func (s *Store) Content() content.Store { return s.content }

// Name gives names to the image whose blobs were written: whatever is above all others
// comes last. That all of it is there is made sure.
func (s *Store) Name(ctx context.Context, names []string) (ocispec.Descriptor, error) {
	s.mu.Lock()
	root := ocispec.Descriptor{Digest: s.last}
	s.mu.Unlock()
	if root.Digest == "" {
		return root, errors.New("containerd: the daemon sent no image")
	}
	info, err := s.Info(ctx, root.Digest)
	if err != nil {
		return root, fmt.Errorf("containerd: %w", err)
	}
	root.Size = info.Size
	if root.MediaType, err = mediaType(ctx, s.content, root); err != nil {
		return root, err
	}
	present := images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if _, err := s.Info(ctx, d.Digest); err != nil {
			return nil, fmt.Errorf("containerd lacks a part of the image: %w", err)
		}
		return nil, nil
	})
	if err := images.Walk(ctx, images.Handlers(present, images.SetChildrenLabels(s.content, images.ChildrenHandler(s.content))), root); err != nil {
		return root, explain(err)
	}
	for _, name := range names {
		img := images.Image{Name: name, Target: root}
		_, err := s.c.ImageService().Create(ctx, img)
		if errdefs.IsAlreadyExists(err) {
			_, err = s.c.ImageService().Update(ctx, img, "target")
		}
		if err != nil {
			return root, fmt.Errorf("containerd: image %s: %w", name, explain(err))
		}
	}
	return root, nil
}

// Image looks an image up. One that lacks a part of what a platform needs counts as not found.
func (s *Store) Image(ctx context.Context, name string, platform *ocispec.Platform) (ocispec.Descriptor, error) {
	ctx = s.with(ctx)
	img, err := s.c.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return img.Target, fmt.Errorf("containerd has no image %s in the namespace %s: %w", name, s.cfg.Namespace, errdefs.ErrNotFound)
	}
	if err != nil || platform == nil {
		return img.Target, err
	}
	available, _, _, _, err := images.Check(ctx, s.content, img.Target, platforms.Only(*platform))
	if err == nil && !available {
		err = fmt.Errorf("containerd has no complete image %s for %s: %w", name, platforms.FormatAll(*platform), errdefs.ErrNotFound)
	}
	return img.Target, err
}

// Unpack makes snapshots of the layers of an image that has a name, if it is for machines
// like this. An empty snapshotter is the namespace's.
func (s *Store) Unpack(ctx context.Context, root ocispec.Descriptor, name, snapshotter string) error {
	ctx = s.with(ctx)
	if _, err := images.Manifest(ctx, s.content, root, platforms.Default()); errdefs.IsNotFound(err) {
		return nil
	}
	if err := client.NewImage(s.c, images.Image{Name: name, Target: root}).Unpack(ctx, snapshotter); err != nil {
		return fmt.Errorf("containerd has the image, but cannot unpack it (unpack=false leaves it packed): %w", explain(err))
	}
	return nil
}

// mediaType returns what a manifest or an index says that it is.
func mediaType(ctx context.Context, p content.Provider, d ocispec.Descriptor) (string, error) {
	b, err := content.ReadBlob(ctx, p, d)
	if err != nil {
		return "", fmt.Errorf("containerd: %w", explain(err))
	}
	var doc struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(b, &doc); err != nil || !images.IsManifestType(doc.MediaType) && !images.IsIndexType(doc.MediaType) {
		return "", errors.New("containerd: what the daemon sent last is neither a manifest nor an index")
	}
	return doc.MediaType, nil
}

// An UnreachableError says that no containerd answers, or not to us.
type UnreachableError struct {
	Address string
	err     error
}

func (e *UnreachableError) Unwrap() error { return e.err }

func (e *UnreachableError) Error() string {
	if errors.Is(e.err, fs.ErrPermission) || errdefs.IsPermissionDenied(e.err) {
		return fmt.Sprintf("permission denied on containerd's socket %s: it is for root", e.Address)
	}
	return fmt.Sprintf("no containerd answers at %s", e.Address)
}

// explain says what a user can do something about in words of ours.
func explain(err error) error {
	if err != nil && strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return fmt.Errorf("containerd has no room for the image: %w", syscall.ENOSPC)
	}
	return err
}
