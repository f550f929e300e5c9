// Package enginetest is an engine for tests, with the API and the rules of docker's by which
// images are loaded and saved.
package enginetest

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Engine listens on a socket. Its fields are set before it is asked anything.
type Engine struct {
	Host       string // for DOCKER_HOST
	Containerd bool   // images are blobs; else layers have chain IDs
	API        string // version; 1.51 if empty
	Fail       string // what every load fails with, if not empty

	mu     sync.Mutex               // guards all below
	blobs  map[digest.Digest][]byte // Containerd: of images; else configs
	chains map[digest.Digest]bool   // layers, if not Containerd
	images map[string]image         // by name; those without one by id
	files  map[string][]byte        // that came in archives
	loads  []Load
	saves  int
}

// A Load is an archive that came, also if it was refused.
type Load struct {
	Files    []string // in it, without directories
	Platform string   // that the engine had to check
	Err      error
}

type image struct {
	id     digest.Digest // of the config, or of the manifest with Containerd
	config ocispec.Image
	layers []ocispec.Descriptor // with Containerd
	top    []byte               // manifest.json, or index.json with Containerd
}

// New starts an engine that ends with the test.
func New(t testing.TB) *Engine {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{Host: "unix://" + sock, blobs: map[digest.Digest][]byte{}, chains: map[digest.Digest]bool{}, images: map[string]image{}, files: map[string][]byte{}}
	s := &http.Server{Handler: e}
	done := make(chan struct{})
	go func() { // ends with the server
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Close(); <-done })
	return e
}

// Loads returns the archives that came, in order.
func (e *Engine) Loads() []Load {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.loads)
}

// Saves returns how many images have been given out.
func (e *Engine) Saves() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.saves
}

// Names returns the names of images with their ids.
func (e *Engine) Names() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]string{}
	for name, img := range e.images {
		out[name] = img.id.String()
	}
	return out
}

// Forget drops a blob, as if it had never come.
func (e *Engine) Forget(d digest.Digest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.blobs, d)
}

func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	api := e.API
	if api == "" {
		api = "1.51"
	}
	w.Header().Set("Api-Version", api)
	path := strings.TrimPrefix(r.URL.Path, "/v"+api)
	name, inspect := strings.CutSuffix(strings.TrimPrefix(path, "/images/"), "/json")
	tagged, tag := strings.CutSuffix(strings.TrimPrefix(path, "/images/"), "/tag")
	switch {
	case path == "/_ping":
		fmt.Fprint(w, "OK")
	case path == "/info":
		status := [][2]string{{"Backing Filesystem", "extfs"}}
		if e.Containerd {
			status = [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}}
		}
		reply(w, map[string]any{"DriverStatus": status})
	case path == "/images/json":
		var all []map[string]any
		for _, img := range e.images {
			all = append(all, map[string]any{"Id": img.id})
		}
		reply(w, all)
	case path == "/images/load":
		e.load(w, r)
	case path == "/images/get":
		img, ok := e.find(r.URL.Query().Get("names"))
		if !ok {
			refuse(w, http.StatusNotFound, "No such image")
			return
		}
		e.saves++
		e.save(tar.NewWriter(w), img)
	case inspect:
		img, ok := e.find(name)
		if !ok {
			refuse(w, http.StatusNotFound, "No such image: "+name)
			return
		}
		answer := map[string]any{"Id": img.id, "RootFS": map[string]any{"Type": "layers", "Layers": img.config.RootFS.DiffIDs}}
		if r.URL.Query().Get("manifests") != "" && e.Containerd {
			answer["Manifests"] = []map[string]any{{"ID": img.id, "Kind": "image", "Available": e.complete(img)}}
		}
		answer["Os"], answer["Architecture"], answer["Variant"] = img.config.OS, img.config.Architecture, img.config.Variant
		reply(w, answer)
	case tag:
		img, ok := e.find(tagged)
		if !ok {
			refuse(w, http.StatusNotFound, "No such image: "+tagged)
			return
		}
		e.images[familiar(r.URL.Query().Get("repo")+":"+r.URL.Query().Get("tag"))] = img
		w.WriteHeader(http.StatusCreated)
	default:
		refuse(w, http.StatusNotFound, "page not found: "+path)
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

// find knows images by name, normalized, and by id.
func (e *Engine) find(name string) (image, bool) {
	for _, img := range e.images {
		if img.id.String() == name {
			return img, true
		}
	}
	img, ok := e.images[familiar(name)]
	return img, ok
}

func familiar(name string) string {
	if n, err := reference.ParseNormalizedNamed(name); err == nil {
		name = reference.FamiliarString(reference.TagNameOnly(n))
	}
	return name
}

// save writes an archive with all files that have come, of which the last is the image's own.
func (e *Engine) save(w *tar.Writer, img image) {
	files := maps.Clone(e.files)
	maps.DeleteFunc(files, func(name string, _ []byte) bool { return !strings.HasPrefix(name, "blobs/") })
	if e.Containerd {
		files["oci-layout"], files["index.json"] = []byte(`{"imageLayoutVersion":"1.0.0"}`), img.top
	} else {
		files["manifest.json"] = img.top
	}
	_ = WriteTar(w, files)
}

// WriteTar writes files, sorted by name.
func WriteTar(w *tar.Writer, files map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := w.Write(files[name]); err != nil {
			return err
		}
	}
	return w.Close()
}

func (e *Engine) load(w http.ResponseWriter, r *http.Request) {
	files, err := untar(r.Body)
	said := ""
	switch {
	case err != nil:
	case e.Fail != "":
		err = errors.New(e.Fail)
	case e.Containerd:
		said, err = e.loadBlobs(files, r.URL.Query().Get("platform") != "")
	default:
		said, err = e.loadLayers(files)
	}
	maps.Copy(e.files, files)
	e.loads = append(e.loads, Load{Files: slices.Sorted(maps.Keys(files)), Platform: r.URL.Query().Get("platform"), Err: err})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	reply(w, map[string]string{"stream": said})
}

func untar(r io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			return nil, err
		}
	}
}

// loadLayers reads manifest.json. A layer whose chain ID is known is not looked for.
func (e *Engine) loadLayers(files map[string][]byte) (string, error) {
	var items []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &items); err != nil || len(items) != 1 {
		return "", fmt.Errorf("invalid archive: %d images, %v", len(items), err)
	}
	var img image
	if err := json.Unmarshal(files[items[0].Config], &img.config); err != nil {
		return "", err
	}
	img.id, img.top = digest.FromBytes(files[items[0].Config]), files["manifest.json"]
	ids := img.config.RootFS.DiffIDs
	if len(ids) != len(items[0].Layers) {
		return "", errors.New("invalid manifest, layers length mismatch")
	}
	for i, name := range items[0].Layers {
		chain := identity.ChainID(ids[:i+1])
		if _, ok := files[name]; !ok && !e.chains[chain] {
			return "", fmt.Errorf("open /var/lib/docker/tmp/docker-import-1/%s: no such file or directory", name)
		}
		e.chains[chain] = true
	}
	return e.named(img, items[0].RepoTags), nil
}

// loadBlobs reads index.json. The image is there in any case, but is complete only if all
// blobs are.
func (e *Engine) loadBlobs(files map[string][]byte, check bool) (string, error) {
	var index ocispec.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil || len(index.Manifests) == 0 {
		return "", fmt.Errorf("invalid archive: %d manifests, %v", len(index.Manifests), err)
	}
	for name, b := range files {
		if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			e.blobs[digest.NewDigestFromEncoded(digest.SHA256, hex)] = b
		}
	}
	var m ocispec.Manifest
	img := image{id: index.Manifests[0].Digest, top: files["index.json"]}
	if err := json.Unmarshal(e.blobs[img.id], &m); err != nil {
		return "", err
	}
	if err := json.Unmarshal(e.blobs[m.Config.Digest], &img.config); err != nil {
		return "", err
	}
	img.layers = m.Layers
	var names []string
	for _, d := range index.Manifests {
		named, err := reference.ParseNormalizedNamed(d.Annotations[images.AnnotationImageName])
		if err != nil {
			return "", err
		}
		names = append(names, reference.FamiliarString(named))
	}
	said := e.named(img, names)
	if check && !e.complete(img) {
		return "", fmt.Errorf("image %s was loaded, but doesn't provide the requested platform", names[0])
	}
	return said, nil
}

func (e *Engine) complete(img image) bool {
	return !slices.ContainsFunc(img.layers, func(l ocispec.Descriptor) bool { _, ok := e.blobs[l.Digest]; return !ok })
}

func (e *Engine) named(img image, names []string) string {
	said := ""
	for _, n := range names {
		e.images[n] = img
		said += "Loaded image: " + n + "\n"
	}
	return said
}
