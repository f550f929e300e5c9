package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
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

	// Images with what popular ones have in their configs.
	"golang:1.26": `{"Env":["PATH=/go/bin:/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin","GOLANG_VERSION=1.26.1","GOTOOLCHAIN=local","GOPATH=/go"],"Cmd":["bash"],"WorkingDir":"/go"}`,
	"node:24":     `{"Env":["PATH=/usr/local/bin:/usr/bin:/bin","NODE_VERSION=24.1.0","YARN_VERSION=1.22.22"],"Entrypoint":["docker-entrypoint.sh"],"Cmd":["node"]}`,
	"python:3.14": `{"Env":["PATH=/usr/local/bin:/usr/bin:/bin","LANG=C.UTF-8","PYTHON_VERSION=3.14.0"],"Cmd":["python3"]}`,
	"rust:1.90":   `{"Env":["PATH=/usr/local/cargo/bin:/usr/bin:/bin","RUSTUP_HOME=/usr/local/rustup","CARGO_HOME=/usr/local/cargo"],"Cmd":["bash"]}`,
	"temurin:25":  `{"Env":["PATH=/opt/java/openjdk/bin:/usr/bin:/bin","JAVA_HOME=/opt/java/openjdk","LANG=en_US.UTF-8"],"Entrypoint":["/__cacert_entrypoint.sh"],"Cmd":["jshell"]}`,
	"nginx":       `{"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin","NGINX_VERSION=1.29.0"],"Entrypoint":["/docker-entrypoint.sh"],"Cmd":["nginx","-g","daemon off;"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT","Labels":{"maintainer":"someone"}}`,
	"postgres:18": `{"Env":["PATH=/usr/lib/postgresql/18/bin:/usr/bin:/bin","PGDATA=/var/lib/postgresql/data"],"Entrypoint":["docker-entrypoint.sh"],"Cmd":["postgres"],"ExposedPorts":{"5432/tcp":{}},"Volumes":{"/var/lib/postgresql/data":{}},"StopSignal":"SIGINT"}`,
	"distroless":  `{"Env":["PATH=/usr/bin:/bin","SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],"User":"65532","WorkingDir":"/home/nonroot"}`,
	"debian:13":   `{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["bash"]}`,
	"alpine:3.22": `{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"],"WorkingDir":"/"}`,
	"bash-shell":  `{"Env":["PATH=/bin"],"Shell":["/bin/bash","-eo","pipefail","-c"],"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":1000000000},"User":"1000:1000","WorkingDir":"rel/dir"}`,
	"odd-env":     `{"Env":["PATH=/bin","EMPTY=","NOVALUE","EQ=a=b","DUP=1","DUP=2","SP=a b"]}`,
	"onbuild-doc": `{"Env":["PATH=/bin"],"OnBuild":["ARG MODE=dev","COPY <<EOF /etc/mode\nmode $MODE\nEOF","RUN <<EOF\necho one\nEOF","COPY --from=localhost:5731/rich /etc/x /x","WORKDIR /on/build","RUN --mount=type=cache,target=/c echo cached","LABEL from=trigger"]}`,
	"amd64-only":  `{"Env":["PATH=/bin"],"Cmd":["sh"]}`,
	"nanoserver":  `{"Env":["PATH=C:\\Windows\\system32;C:\\Windows"],"Cmd":["c:\\windows\\system32\\cmd.exe"],"User":"ContainerUser","WorkingDir":"C:\\app"}`,
}

// platformsOf are the platforms of the images that have others than most.
var platformsOf = map[string][]ocispec.Platform{
	"amd64-only": {{OS: "linux", Architecture: "amd64"}},
	"nanoserver": {{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.1"}},
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
	most := []ocispec.Platform{
		{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}, {OS: "linux", Architecture: "arm", Variant: "v7"},
	}
	all := map[string]known{}
	top := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	for name, config := range images {
		k := known{Configs: map[string]json.RawMessage{}}
		index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
		list := platformsOf[name]
		if list == nil {
			list = most
		}
		for _, p := range list {
			layers, diffs := []ocispec.Descriptor{layer}, []digest.Digest{diff}
			if name == "empty" {
				layers, diffs = []ocispec.Descriptor{}, []digest.Digest{}
			}
			conf := map[string]any{
				"architecture": p.Architecture, "os": p.OS, "created": "2024-01-01T00:00:00Z",
				"config": json.RawMessage(config), "rootfs": ocispec.RootFS{Type: "layers", DiffIDs: diffs},
				"history": []ocispec.History{{CreatedBy: "base", EmptyLayer: name == "empty"}},
			}
			if p.OSVersion != "" {
				conf["os.version"] = p.OSVersion
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
		d := index.Manifests[0]
		if d.Platform = nil; len(list) > 1 { // what has one platform is no index
			if d, err = l.putJSON(ocispec.MediaTypeImageIndex, index); err != nil {
				return err
			}
		}
		k.Digest = d.Digest
		fmt.Println(name)
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
