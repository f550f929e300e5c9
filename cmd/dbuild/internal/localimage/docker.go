package localimage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/closedstore"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/engine"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDocument is the size of the largest manifest or config that is remembered, in bytes.
const maxDocument = 4 << 20

// A Docker is an image of a docker engine. What is read of it may make the engine save it.
type Docker struct {
	closedstore.Store
	engine *engine.Engine
	id     string
	docs   documents               // known without saving
	blobs  map[digest.Digest]int64 // all that belongs to the image, with sizes
	files  content.Store           // what has been saved

	mu    sync.Mutex // held while the engine saves
	saved bool
	root  ocispec.Descriptor // of the saved image
}

// documents are those of an image, and which of them is on top.
type documents struct {
	Root digest.Digest
	Docs map[digest.Digest][]byte // manifests, configs
}

// A Config says where an image is and where to put it.
type Config struct {
	Engine     *engine.Engine // stays open as long as the image is used
	ID         string
	Dir        string // for the image, if it has to be saved
	Remembered string // directory for the documents of all images
	Saving     func() // told when the image has to be saved at once; may be nil
}

// OpenDocker opens an image of an engine.
func OpenDocker(ctx context.Context, c Config) (*Docker, error) {
	store, err := local.NewStore(c.Dir)
	if err != nil {
		return nil, err
	}
	d := &Docker{files: store, engine: c.Engine, id: c.ID}
	path := filepath.Join(c.Remembered, digest.FromString(c.ID).Encoded()+".json")
	if d.recall(path) == nil {
		return d, d.list()
	}
	if c.Saving != nil {
		c.Saving()
	}
	if err := d.save(ctx); err != nil {
		return nil, err
	}
	if err := d.collect(ctx); err != nil {
		return nil, err
	}
	_ = d.remember(path) // or the image is saved the next time, too
	return d, d.list()
}

// list finds out what belongs to the image.
func (d *Docker) list() error {
	d.blobs = map[digest.Digest]int64{}
	for dgst, b := range d.docs.Docs {
		d.blobs[dgst] = int64(len(b))
		var m struct {
			Layers []ocispec.Descriptor `json:"layers"`
		}
		if err := json.Unmarshal(b, &m); err != nil {
			return fmt.Errorf("the image that docker saved: %w", err)
		}
		for _, l := range m.Layers {
			d.blobs[l.Digest] = l.Size
		}
	}
	return nil
}

// Digest is that of the image's manifest or index.
func (d *Docker) Digest() digest.Digest { return d.docs.Root }

// Info implements content.InfoProvider.
func (d *Docker) Info(_ context.Context, dgst digest.Digest) (content.Info, error) {
	if size, ok := d.blobs[dgst]; ok {
		return content.Info{Digest: dgst, Size: size}, nil
	}
	return content.Info{}, fmt.Errorf("%s is not part of the image: %w", dgst, errdefs.ErrNotFound)
}

// ReaderAt implements content.Provider.
func (d *Docker) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if b, ok := d.docs.Docs[desc.Digest]; ok {
		return document{bytes.NewReader(b)}, nil
	}
	if _, err := d.Info(ctx, desc.Digest); err != nil {
		return nil, err
	}
	if err := d.save(ctx); err != nil {
		return nil, err
	}
	return d.files.ReaderAt(ctx, desc)
}

type document struct{ *bytes.Reader }

func (document) Close() error { return nil }

// save has the engine save the image, once.
func (d *Docker) save(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.saved {
		return nil
	}
	r, err := d.engine.Save(ctx, d.id)
	if err != nil {
		return err
	}
	defer r.Close()
	top, err := archive.ImportIndex(ctx, d.files, r)
	if err != nil {
		return fmt.Errorf("the image that docker saved: %w", err)
	}
	b, err := content.ReadBlob(ctx, d.files, top)
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return fmt.Errorf("the image that docker saved: %w", err)
	}
	if len(index.Manifests) == 0 {
		return fmt.Errorf("docker saved no image %s", d.id)
	}
	d.root, d.saved = index.Manifests[0], true
	return nil
}

// collect reads the documents of the saved image. An index may name images that the engine
// does not have.
func (d *Docker) collect(ctx context.Context) error {
	d.docs = documents{Root: d.root.Digest, Docs: map[digest.Digest][]byte{}}
	return images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if images.IsLayerType(desc.MediaType) || desc.Size > maxDocument {
			return nil, nil
		}
		b, err := content.ReadBlob(ctx, d.files, desc)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		d.docs.Docs[desc.Digest] = b
		return images.Children(ctx, d.files, desc)
	}), d.root)
}

func (d *Docker) recall(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var docs documents
	if err := json.Unmarshal(b, &docs); err != nil {
		return err
	}
	if _, ok := docs.Docs[docs.Root]; !ok {
		return fmt.Errorf("%s: it lacks %s", path, docs.Root)
	}
	for dgst, b := range docs.Docs {
		if digest.FromBytes(b) != dgst {
			return fmt.Errorf("%s: %s holds something else", path, dgst)
		}
	}
	d.docs = docs
	return nil
}

// remember writes the documents so that they are never seen incomplete.
func (d *Docker) remember(path string) error {
	b, err := json.Marshal(d.docs)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
