package oci_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/dbuild/dbuild/exporter"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	"github.com/dbuild/dbuild/exporter/oci"
	"github.com/dbuild/dbuild/internal/progress"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/source/image"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/filesync"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// export runs an exporter with a client that takes its file as number 3.
func export(t *testing.T, kind oci.Kind, src exporter.Source, f *xt.File, attrs map[string]string, more ...bksession.Attachable) (map[string]string, error) {
	t.Helper()
	services := append(more, filesync.NewFSSyncTarget(filesync.WithFSSync(3, f.Open)))
	m, g, id := rt.Session(t, services...)
	x, err := oci.New(exporter.Client{Sessions: m, Index: 3}, kind, attrs)
	if err != nil {
		t.Fatal(err)
	}
	return x.Export(t.Context(), src, exporter.Access{Group: g, SessionIDs: []string{id}, Log: progress.NewLog()})
}

func skopeo(t *testing.T, transport string, b []byte) map[string]any {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("skopeo", "inspect", transport+":"+file).Output()
	if err != nil {
		var ee *exec.ExitError
		errors.As(err, &ee)
		t.Fatalf("skopeo %s: %v: %s", transport, err, ee.Stderr)
	}
	var v map[string]any
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func names(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

func TestArchives(t *testing.T) {
	addr, _ := rt.Start(t)
	rt.PutImage(t, addr, "base", "v1", amd64, rt.Files(t, "base", "file"))
	p := rt.NewProxy(t, addr)
	c := xt.Client(nil)
	s, dir := xt.Store(t, c)
	images := image.New(image.Config{Registry: c, Store: s})
	r, err := images.Resolve(t.Context(), nil, p.Addr+"/base:v1", &amd64, image.ModePull)
	if err != nil {
		t.Fatal(err)
	}
	base, err := images.Ref(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Release()
	for _, kind := range []oci.Kind{oci.OCI, oci.Docker} {
		p.Reset()
		before := xt.Size(t, dir)
		var f xt.File
		resp, err := export(t, kind, exporter.Source{Ref: base, Metadata: map[string][]byte{exporter.KeyConfig: r.Config}}, &f, map[string]string{"name": "app:v1", "source-date-epoch": "1700000000"})
		if err != nil {
			t.Fatal(err)
		}
		got := skopeo(t, string(kind)+"-archive", f.Bytes())
		if layers := got["Layers"].([]any); len(layers) != 1 {
			t.Errorf("%s: %v", kind, got)
		}
		if resp[exporter.RespName] != "docker.io/library/app:v1" {
			t.Errorf("%v", resp)
		}
		if f.Metadata()[exporter.RespDigest] != resp[exporter.RespDigest] {
			t.Errorf("the client was told %v", f.Metadata())
		}
		if has := slices.Contains(names(t, f.Bytes()), "manifest.json"); has != (kind == oci.Docker) {
			t.Errorf("%s: manifest.json: %v", kind, has)
		}
		if n := p.Count("GET .*/blobs/"); n != 1 {
			t.Errorf("layer was read %d times", n)
		}
		if grown := xt.Size(t, dir) - before; grown > 64<<10 {
			t.Errorf("state grew by %d bytes", grown)
		}
		var again xt.File
		if _, err := export(t, kind, exporter.Source{Ref: base, Metadata: map[string][]byte{exporter.KeyConfig: r.Config}}, &again, map[string]string{"name": "app:v1", "source-date-epoch": "1700000000"}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(f.Bytes(), again.Bytes()) {
			t.Errorf("%s: two exports differ", kind)
		}
	}
}

func multi(t *testing.T, s *snapshot.Store) exporter.Source {
	t.Helper()
	src := exporter.Source{Metadata: map[string][]byte{}}
	for _, arch := range []string{"arm64", "amd64"} {
		p := ocispec.Platform{OS: "linux", Architecture: arch}
		src.Platforms = append(src.Platforms, exporter.Platform{ID: "linux/" + arch, Platform: p, Ref: xt.Ref(t, s, nil, "arch", arch)})
		b, err := json.Marshal(ocispec.Image{Platform: p})
		if err != nil {
			t.Fatal(err)
		}
		src.Metadata[exporter.KeyConfig+"/linux/"+arch] = b
	}
	return src
}

func TestSeveralNames(t *testing.T) {
	var f xt.File
	resp, err := export(t, oci.Docker, exporter.Source{}, &f, map[string]string{"name": "app:v1,other"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "docker.io/library/app:v1,docker.io/library/other:latest"; resp[exporter.RespName] != want {
		t.Errorf("%v", resp)
	}
	r := tar.NewReader(bytes.NewReader(f.Bytes()))
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("no manifest.json: %v", err)
		}
		if h.Name != "manifest.json" {
			continue
		}
		var v []struct{ RepoTags []string }
		if err := json.NewDecoder(r).Decode(&v); err != nil || len(v) != 1 || !slices.Equal(v[0].RepoTags, []string{"app:v1", "other:latest"}) {
			t.Errorf("%+v %v", v, err)
		}
		return
	}
}

func TestSeveralPlatforms(t *testing.T) {
	s, _ := xt.Store(t, xt.Client(nil))
	src := multi(t, s)
	var f xt.File
	if _, err := export(t, oci.OCI, src, &f, nil); err != nil {
		t.Fatal(err)
	}
	if got := skopeo(t, "oci-archive", f.Bytes()); got["Architecture"] != "amd64" {
		t.Errorf("%v", got)
	}
	_, err := export(t, oci.Docker, src, &f, nil)
	if err == nil || err.Error() != "docker exporter does not currently support exporting manifest lists" {
		t.Errorf("got %v", err)
	}
}

func TestClientThatHasItIsSuccess(t *testing.T) {
	s, _ := xt.Store(t, xt.Client(nil))
	big := strings.Repeat("0123456789abcdef", 1<<18)
	var f xt.File
	f.Refuse()
	resp, err := export(t, oci.OCI, exporter.Source{Ref: xt.Ref(t, s, nil, "a", big)}, &f, map[string]string{"compression": "uncompressed"})
	if err != nil || resp[exporter.RespDigest] == "" {
		t.Fatalf("%v %v", resp, err)
	}
}

func TestClientWithoutDestination(t *testing.T) {
	m, g, id := rt.Session(t)
	x, err := oci.New(exporter.Client{Sessions: m}, oci.OCI, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.Export(t.Context(), exporter.Source{}, exporter.Access{Group: g, SessionIDs: []string{id}})
	if err == nil || !strings.Contains(err.Error(), "takes no files") {
		t.Errorf("got %v", err)
	}
}

func TestIntoContentStore(t *testing.T) {
	s, _ := xt.Store(t, xt.Client(nil))
	to, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	src := multi(t, s)
	for range 2 { // the second time it has everything
		resp, err := export(t, oci.OCI, src, &xt.File{}, map[string]string{"tar": "false"}, sessioncontent.NewAttachable(map[string]content.Store{"export": to}))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := to.Walk(t.Context(), func(content.Info) error { n++; return nil }); err != nil || n != 7 {
			t.Errorf("%d blobs, want 2 layers, 2 configs, 2 manifests, 1 index (%v)", n, err)
		}
		if _, err := to.Info(t.Context(), digest.Digest(resp[exporter.RespDigest])); err != nil {
			t.Error(err)
		}
	}
}
