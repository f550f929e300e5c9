package exporter

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
)

func saying(what string, inline bool, subjects ...Subject) Attestation {
	return Attestation{
		PredicateType: "https://example.com/" + what, Filename: what + ".json", InlineOnly: inline, Subjects: subjects,
		Predicate: func(_ context.Context, layers []snapshot.Blob) ([]byte, error) {
			return json.Marshal(map[string]int{what: len(layers)})
		},
	}
}

func assembleAttested(t *testing.T, kind string, attrs map[string]string, list ...Attestation) (*Image, error) {
	t.Helper()
	a := NewAttrs(kind, attrs)
	o := ImageOptionsFrom(a)
	if err := a.Done(); err != nil {
		t.Fatal(err)
	}
	o.Names = []string{"docker.io/library/app:1", "localhost:5000/app:2"}
	src := Source{
		Metadata:     map[string][]byte{KeyConfig: []byte(`{"os":"linux","architecture":"arm64"}`)},
		Attestations: map[string][]Attestation{"linux/arm64": list},
	}
	return Assemble(t.Context(), src, Access{Log: progress.NewLog()}, o)
}

func TestAttestationsMakeAnIndex(t *testing.T) {
	other := Subject{Subject: attest.Subject{Name: "other", Digest: map[string]string{"sha256": "00"}}}
	for _, tt := range []struct {
		name     string
		kind     string
		attrs    map[string]string
		list     []Attestation
		artifact bool
		index    bool
	}{
		{name: "none", kind: "image"},
		{name: "image", kind: "image", list: []Attestation{saying("a", false), saying("b", true)}, index: true, artifact: true},
		{name: "inline", kind: "image", list: []Attestation{saying("a", true), saying("b", true)}, index: true, artifact: true},
		{name: "not inline", kind: "image", attrs: map[string]string{"attestation-inline": "false"}, list: []Attestation{saying("a", true)}},
		{name: "archive", kind: "oci", list: []Attestation{saying("a", true)}},
		{name: "archive inline", kind: "oci", attrs: map[string]string{"attestation-inline": "true"}, list: []Attestation{saying("a", true), saying("b", true)}, index: true, artifact: true},
		{name: "image manifest", kind: "image", attrs: map[string]string{"oci-artifact": "false"}, list: []Attestation{saying("a", false), saying("b", false, other, Subject{Self: true})}, index: true},
		{name: "media types", kind: "image", attrs: map[string]string{"oci-mediatypes": "false"}, list: []Attestation{saying("a", false), saying("b", false)}, index: true, artifact: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img, err := assembleAttested(t, tt.kind, tt.attrs, tt.list...)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.index {
				if img.Index != nil || len(img.Attestations) > 0 || img.Top.Digest != img.Manifests[0].Desc.Digest {
					t.Errorf("%+v", img)
				}
				return
			}
			var index ocispec.Index
			if err := json.Unmarshal(img.Index, &index); err != nil {
				t.Fatal(err)
			}
			if index.MediaType != ocispec.MediaTypeImageIndex || len(index.Manifests) != 2 {
				t.Fatalf("index %s", img.Index)
			}
			about, d := index.Manifests[0], index.Manifests[1]
			if p := d.Platform; p.OS != "unknown" || p.Architecture != "unknown" || d.Annotations["vnd.docker.reference.type"] != "attestation-manifest" ||
				d.Annotations["vnd.docker.reference.digest"] != about.Digest.String() {
				t.Errorf("descriptor %+v", d)
			}
			docs := img.Documents()
			var m ocispec.Manifest
			if err := json.Unmarshal(docs[d.Digest], &m); err != nil {
				t.Fatal(err)
			}
			if len(m.Layers) != 2 || m.Layers[1].MediaType != "application/vnd.in-toto+json" || m.Layers[1].Annotations["in-toto.io/predicate-type"] != "https://example.com/b" {
				t.Errorf("layers %+v", m.Layers)
			}
			config := docs[m.Config.Digest]
			if tt.artifact {
				if m.ArtifactType != attestationArtifact || m.Subject == nil || m.Subject.Digest != about.Digest || m.Subject.Platform != nil || string(config) != "{}" {
					t.Errorf("manifest %+v, config %s", m, config)
				}
			} else if m.ArtifactType != "" || m.Subject != nil || !strings.Contains(string(config), m.Layers[1].Digest.String()) {
				t.Errorf("manifest %+v, config %s", m, config)
			}
			s, err := attest.ParseStatement(docs[m.Layers[1].Digest])
			if err != nil {
				t.Fatal(err)
			}
			sums := map[string]string{"sha256": about.Digest.Encoded()}
			want := []attest.Subject{
				{Name: "pkg:docker/app@1?platform=linux%2Farm64", Digest: sums},
				{Name: "pkg:docker/localhost%3A5000/app@2?platform=linux%2Farm64", Digest: sums},
			}
			if len(tt.list[1].Subjects) > 0 {
				want = append([]attest.Subject{other.Subject}, want...)
			}
			if diff := cmp.Diff(want, s.Subject); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAttestationFails(t *testing.T) {
	bad := saying("a", false)
	bad.Predicate = func(context.Context, []snapshot.Blob) ([]byte, error) { return nil, os.ErrDeadlineExceeded }
	if _, err := assembleAttested(t, "image", nil, bad); err != os.ErrDeadlineExceeded {
		t.Errorf("got %v", err)
	}
	bad.Predicate = func(context.Context, []snapshot.Blob) ([]byte, error) { return []byte("{"), nil }
	if _, err := assembleAttested(t, "image", nil, bad); err == nil || !strings.Contains(err.Error(), "is not JSON") {
		t.Errorf("got %v", err)
	}
}

func tree(t *testing.T, files ...string) fsutil.FS {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		p := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(name string) string { return name }

func TestAttestationsAsFiles(t *testing.T) {
	with, err := attach(t.Context(), tree(t, "a", "m.d/x", "m/x", "z"), []Attestation{saying("zz", false), saying("m", false), saying("hidden", true)}, same)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	err = with.Walk(t.Context(), "", func(p string, _ fs.DirEntry, err error) error {
		paths = append(paths, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "m", "m/x", "m.d", "m.d/x", "m.json", "z", "zz.json"}; !slices.Equal(paths, want) {
		t.Errorf("got %q", paths)
	}
	read := func(p string) string {
		rc, err := with.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		b, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := read("m/x"); got != "m/x" {
		t.Errorf("got %q", got)
	}
	s, err := attest.ParseStatement([]byte(read("m.json")))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, sub := range s.Subject {
		names = append(names, sub.Name)
	}
	if !slices.Equal(names, []string{"a", "m/x", "m.d/x", "z"}) || len(s.Subject[0].Digest["sha256"]) != 64 {
		t.Errorf("subjects %v", s.Subject)
	}
}

func TestAttestationsHaveNamesOfTheirOwn(t *testing.T) {
	with, err := attach(t.Context(), tree(t, "a.json"), []Attestation{saying("a", false)}, same)
	if err != nil {
		t.Fatal(err)
	}
	err = with.Walk(t.Context(), "", func(string, fs.DirEntry, error) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "attestation-prefix") {
		t.Errorf("got %v", err)
	}
	if _, err := attach(t.Context(), emptyFS{}, []Attestation{saying("a", false), saying("a", false)}, same); err == nil {
		t.Error("two attestations are in one file")
	}
	if got := withPlatform("sbom.spdx.json", "linux/arm64"); got != "sbom.spdx.linux_arm64.json" {
		t.Errorf("got %s", got)
	}
}
