package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Stand-ins have Docker's manifests, as the images that they stand for.
const (
	manifestType   = "application/vnd.docker.distribution.manifest.v2+json"
	configType     = "application/vnd.docker.container.image.v1+json"
	layerType      = "application/vnd.docker.image.rootfs.diff.tar"
	foreignType    = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	gzipTypeSuffix = ".gzip"
)

// An image is a stand-in to be pushed.
type image struct {
	Name       string // repository and tag
	Layers     [][]byte
	Cmd        []string
	Entrypoint []string
	Foreign    string // where the first layer can be had besides; layers are not compressed then
}

// push uploads the image to the registry at host.
func (i image) push(host string) error {
	repo, tag, _ := strings.Cut(i.Name, ":")
	u := uploader("http://" + host + "/v2/" + repo)
	config := ocispec.Image{Created: &made, Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}}
	config.Config = ocispec.ImageConfig{Cmd: i.Cmd, Entrypoint: i.Entrypoint}
	if len(i.Cmd)+len(i.Entrypoint) > 0 {
		config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType, Layers: []ocispec.Descriptor{}}
	for n, data := range i.Layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(data))
		config.History = append(config.History, ocispec.History{Created: &made, CreatedBy: "/bin/sh -c #(nop) ADD file:stand-in in / "})
		desc := ocispec.Descriptor{MediaType: layerType}
		if i.Foreign == "" {
			desc.MediaType += gzipTypeSuffix
			var err error
			if data, err = gzipped(data); err != nil {
				return err
			}
		} else if n == 0 {
			desc.MediaType, desc.URLs = foreignType, []string{i.Foreign}
		}
		desc.Digest, desc.Size = digest.FromBytes(data), int64(len(data))
		manifest.Layers = append(manifest.Layers, desc)
		if err := u.blob(data); err != nil {
			return err
		}
	}
	if len(i.Cmd) > 0 {
		config.History = append(config.History, ocispec.History{Created: &made, CreatedBy: fmt.Sprintf("/bin/sh -c #(nop)  CMD %q", i.Cmd), EmptyLayer: true})
	}
	dt, err := json.Marshal(config)
	if err != nil {
		return err
	}
	manifest.Config = ocispec.Descriptor{MediaType: configType, Digest: digest.FromBytes(dt), Size: int64(len(dt))}
	if err := u.blob(dt); err != nil {
		return err
	}
	if dt, err = json.Marshal(manifest); err != nil {
		return err
	}
	_, err = u.do(http.MethodPut, string(u)+"/manifests/"+tag, manifestType, dt)
	return err
}

// An uploader is the address of a repository.
type uploader string

func (u uploader) blob(data []byte) error {
	at, err := u.do(http.MethodPost, string(u)+"/blobs/uploads/", "", nil)
	if err != nil {
		return err
	}
	to := at + "?"
	if strings.Contains(at, "?") {
		to = at + "&"
	}
	_, err = u.do(http.MethodPut, to+"digest="+digest.FromBytes(data).String(), "application/octet-stream", data)
	return err
}

// do sends one request and returns the location in the answer.
func (u uploader) do(method, url, kind string, data []byte) (string, error) {
	req, err := http.NewRequest(method, url, bytes.NewReader(data))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", kind)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if res.StatusCode/100 != 2 {
		err = errors.Join(fmt.Errorf("%s %s: %s: %s", method, url, res.Status, body), err)
	}
	return res.Header.Get("Location"), err
}
