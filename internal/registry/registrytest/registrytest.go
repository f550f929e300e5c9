// Package registrytest gives tests a real registry, a proxy before it that counts
// requests and makes trouble, and clients that lend their credentials.
package registrytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/testutil"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Start runs docker-registry on this machine for the length of the test and returns its
// address. Blobs are below the returned directory.
func Start(t testing.TB) (addr, dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	cfg := filepath.Join(dir, "config.yml")
	yml := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\n  delete: {enabled: true}\n  maintenance: {uploadpurging: {enabled: false}}\nhttp: {addr: %q}\nvalidation: {manifests: {urls: {allow: ['.*']}}}\n", dir, addr)
	if err := os.WriteFile(cfg, []byte(yml), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command("docker-registry", "serve", cfg)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
	})
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			resp.Body.Close()
			return addr, dir
		}
		select {
		case <-tick.C:
		case <-exited:
			t.Fatalf("docker-registry ended: %s", out.String())
		case <-deadline:
			t.Fatal("docker-registry does not answer")
		}
	}
}

// Do sends a request that must get the given status, and returns the response's header.
func Do(t testing.TB, method, url, contentType string, body []byte, want int) http.Header {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != want {
		t.Fatalf("%s %s: %s, want %d: %s", method, url, resp.Status, want, b)
	}
	return resp.Header
}

// PutBlob stores a blob with plain HTTP requests.
func PutBlob(t testing.TB, addr, repo string, b []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(b)
	h := Do(t, "POST", "http://"+addr+"/v2/"+repo+"/blobs/uploads/", "", nil, http.StatusAccepted)
	Do(t, "PUT", h.Get("Location")+"&digest="+d.String(), "application/octet-stream", b, http.StatusCreated)
	return d
}

// PutManifest stores a manifest under a tag or digest and returns its descriptor.
func PutManifest(t testing.TB, addr, repo, tag string, mediaType string, doc any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if tag == "" {
		tag = d.Digest.String()
	}
	Do(t, "PUT", "http://"+addr+"/v2/"+repo+"/manifests/"+tag, mediaType, b, http.StatusCreated)
	return d
}

// PutImage stores an image made of gzipped tar layers.
func PutImage(t testing.TB, addr, repo, tag string, p ocispec.Platform, layers ...Layer) ocispec.Descriptor {
	t.Helper()
	img := ocispec.Image{Platform: p}
	img.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, l.DiffID)
		img.History = append(img.History, ocispec.History{CreatedBy: "layer"})
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2LayerGzip, Digest: PutBlob(t, addr, repo, l.Blob), Size: int64(len(l.Blob))})
	}
	config, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: PutBlob(t, addr, repo, config), Size: int64(len(config))}
	d := PutManifest(t, addr, repo, tag, m.MediaType, m)
	d.Platform = &p
	return d
}

// Session connects a client with the given services to a new manager, and returns the
// manager and the group of that one session.
func Session(t testing.TB, services ...bksession.Attachable) (*bksession.Manager, bksession.Group, string) {
	t.Helper()
	m, err := bksession.NewManager()
	if err != nil {
		t.Fatal(err)
	}
	id := Join(t, m, services...)
	return m, bksession.NewGroup(id), id
}

// Join connects a client to a manager and returns its id.
func Join(t testing.TB, m *bksession.Manager, services ...bksession.Attachable) string {
	t.Helper()
	s, err := bksession.NewSession(context.Background(), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range services {
		s.Allow(a)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- s.Run(context.Background(), bksession.Dialer(testutil.TestStream(testutil.Handler(m.HandleConn))))
	}()
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := m.Get(ctx, s.ID(), false); err != nil {
		t.Fatal(err)
	}
	return s.ID()
}
