package e2e

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An image is what an OCI layout has for one platform, read with no code of dbuild's.
type image struct {
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
	config   []byte
	files    map[string]*file // by path without the leading slash; nil until asked for
}

// A file is the last that the layers say about a path.
type file struct {
	*tar.Header
	data []byte
}

// openImage reads what the layout in dir has for a platform, "" if there is only one.
func openImage(dir, platform string) (*image, error) {
	var index ocispec.Index
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, err
	}
	all, err := imagesOf(dir, index)
	if err != nil {
		return nil, err
	}
	var found *image
	for _, img := range all {
		var p ocispec.Platform
		if err := json.Unmarshal(img.config, &p); err != nil {
			return nil, err
		}
		if name := platforms.Format(p); platform != "" && name != platform {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%s has several images: choose one with -p PLATFORM", dir)
		}
		found = img
	}
	if found == nil {
		return nil, fmt.Errorf("%s has no image for %q", dir, platform)
	}
	return found, nil
}

func imagesOf(dir string, index ocispec.Index) ([]*image, error) {
	var all []*image
	for _, d := range index.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue // what is said about an image
		}
		if strings.Contains(d.MediaType, "index") || strings.Contains(d.MediaType, "list") {
			var inner ocispec.Index
			if err := readBlob(dir, d.Digest, &inner); err != nil {
				return nil, err
			}
			more, err := imagesOf(dir, inner)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
			continue
		}
		img := &image{desc: d}
		if err := readBlob(dir, d.Digest, &img.manifest); err != nil {
			return nil, err
		}
		var err error
		if img.config, err = os.ReadFile(blobPath(dir, img.manifest.Config.Digest)); err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	return all, nil
}

func blobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded())
}

func readBlob(dir string, d digest.Digest, into any) error {
	b, err := os.ReadFile(blobPath(dir, d))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// unpack reads the layers into files, the lowest first.
func (img *image) unpack(dir string) error {
	if img.files != nil {
		return nil
	}
	img.files = map[string]*file{}
	for _, l := range img.manifest.Layers {
		f, err := os.Open(blobPath(dir, l.Digest))
		if err != nil {
			return err
		}
		err = img.apply(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("layer %s: %w", l.Digest, err)
		}
	}
	return nil
}

func (img *image) apply(layer io.Reader) error {
	z, err := compression.DecompressStream(layer)
	if err != nil {
		return err
	}
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		name := clean(h.Name)
		dir, base := path.Split(name)
		switch {
		case base == ".wh..wh..opq":
			img.remove(path.Clean(dir), false)
		case strings.HasPrefix(base, ".wh."):
			img.remove(path.Join(dir, strings.TrimPrefix(base, ".wh.")), true)
		default:
			data, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			if h.Typeflag != tar.TypeDir {
				img.remove(name, true)
			}
			img.files[name] = &file{h, data}
		}
	}
}

// remove forgets what is below a path, and with itself the path, too.
func (img *image) remove(name string, itself bool) {
	for p := range img.files {
		if strings.HasPrefix(p, name+"/") || itself && p == name {
			delete(img.files, p)
		}
	}
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// file finds a path; hard links are followed, symbolic links are not.
func (img *image) file(name string) (*file, error) {
	f := img.files[clean(name)]
	if f != nil && f.Typeflag == tar.TypeLink {
		target, err := img.file(f.Linkname)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		f = target
	}
	if f == nil {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return f, nil
}

// list returns the paths below a directory, relative to it.
func (img *image) list(dir string) []string {
	var out []string
	prefix := clean(dir)
	if prefix != "" {
		prefix += "/"
	}
	for p := range img.files {
		if rest, ok := strings.CutPrefix(p, prefix); ok && rest != "" {
			out = append(out, rest)
		}
	}
	return out
}
