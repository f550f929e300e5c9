package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// images are the configs of the base images; none of them can run anything.
var images = map[string]string{
	"base":    `{"Env":["PATH=/bin:/usr/bin","BASE=yes"],"Cmd":["sh"]}`,
	"rich":    `{"Env":["LANG=C","PATH=/opt/bin:/bin"],"WorkingDir":"/srv","User":"app","Entrypoint":["/entry"],"Cmd":["serve"],"Labels":{"a":"1"},"ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}},"StopSignal":"SIGINT"}`,
	"nopath":  `{}`,
	"onbuild": `{"Env":["PATH=/bin"],"OnBuild":["COPY . /app","RUN echo triggered","ENV TRIGGER=1"]}`,
	"empty":   `{"Env":["PATH=/bin"]}`,
}

type layout struct{ dir string }

func (l layout) put(mediaType string, dt []byte) (ocispec.Descriptor, error) {
	d := digest.FromBytes(dt)
	err := os.WriteFile(filepath.Join(l.dir, "blobs/sha256", d.Encoded()), dt, 0o644)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(dt))}, err
}

func (l layout) putJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	dt, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return l.put(mediaType, dt)
}

// writeImages makes an OCI layout with the images as tags, and images.json.
func writeImages(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		return err
	}
	l := layout{dir}
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.WriteHeader(&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	diff := digest.FromBytes(buf.Bytes())
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	if _, err := zw.Write(buf.Bytes()); err != nil {
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	layer, err := l.put(ocispec.MediaTypeImageLayerGzip, zipped.Bytes())
	if err != nil {
		return err
	}
	type known struct {
		Digest  digest.Digest
		Configs map[string]json.RawMessage
	}
	all := map[string]known{}
	top := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	for name, config := range images {
		k := known{Configs: map[string]json.RawMessage{}}
		index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
		for _, p := range []ocispec.Platform{
			{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}, {OS: "linux", Architecture: "arm", Variant: "v7"},
		} {
			layers, diffs := []ocispec.Descriptor{layer}, []digest.Digest{diff}
			if name == "empty" {
				layers, diffs = []ocispec.Descriptor{}, []digest.Digest{}
			}
			conf := map[string]any{
				"architecture": p.Architecture, "os": p.OS, "created": "2024-01-01T00:00:00Z",
				"config": json.RawMessage(config), "rootfs": ocispec.RootFS{Type: "layers", DiffIDs: diffs},
				"history": []ocispec.History{{CreatedBy: "base", EmptyLayer: name == "empty"}},
			}
			key := p.OS + "/" + p.Architecture
			if p.Variant != "" {
				conf["variant"] = p.Variant
				key += "/" + p.Variant
			}
			dt, err := json.Marshal(conf)
			if err != nil {
				return err
			}
			k.Configs[key] = dt
			c, err := l.put(ocispec.MediaTypeImageConfig, dt)
			if err != nil {
				return err
			}
			m, err := l.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: c, Layers: layers,
			})
			if err != nil {
				return err
			}
			m.Platform = &p
			index.Manifests = append(index.Manifests, m)
		}
		d, err := l.putJSON(ocispec.MediaTypeImageIndex, index)
		if err != nil {
			return err
		}
		k.Digest = d.Digest
		d.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		top.Manifests = append(top.Manifests, d)
		all["localhost:5731/"+name] = k
	}
	for name, v := range map[string]any{
		filepath.Join(dir, "index.json"):  top,
		filepath.Join(dir, "oci-layout"):  ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
		"testdata/dockerfile/images.json": all,
	} {
		dt, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(name, append(dt, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}
