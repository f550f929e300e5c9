package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// manifest reads the manifest of an image of one platform.
func (r *registryServer) manifest(repo string) (*ocispec.Manifest, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+r.addr+"/v2/"+repo+"/manifests/latest", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var m ocispec.Manifest
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
		return nil, err
	}
	if len(m.Layers) == 0 {
		return nil, fmt.Errorf("%s has no layers", repo)
	}
	return &m, nil
}

// copyBig is plainCopy of the image of relabel, copyPushed of what our side has pushed last.
func copyBig(b *bench) (time.Duration, error)    { return b.plainCopy("big") }
func copyPushed(b *bench) (time.Duration, error) { return b.plainCopy(b.peers[0].pushed) }

// plainCopy streams the layers of an image from one registry to a new repository of another
// without looking at them: who pushes cannot be faster than the registries.
func (b *bench) plainCopy(repo string) (time.Duration, error) {
	m, err := b.registry.manifest(repo)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	to := "http://" + b.other.addr + "/v2/plain-" + b.unique() + "/blobs/uploads/"
	var g errgroup.Group
	for _, l := range m.Layers {
		g.Go(func() error {
			return pipe("http://"+b.registry.addr+"/v2/"+repo+"/blobs/"+l.Digest.String(), to, l)
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

func pipe(from, to string, d ocispec.Descriptor) error {
	in, err := http.Get(from)
	if err != nil {
		return err
	}
	defer in.Body.Close()
	upload, err := http.Post(to, "", nil)
	if err != nil {
		return err
	}
	upload.Body.Close()
	at, err := upload.Location()
	if err != nil {
		return err
	}
	q := at.Query()
	q.Set("digest", d.Digest.String())
	at.RawQuery = q.Encode()
	req := &http.Request{Method: http.MethodPut, URL: at, ContentLength: d.Size, Body: io.NopCloser(in.Body)}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("upload: %s", resp.Status)
	}
	return nil
}
