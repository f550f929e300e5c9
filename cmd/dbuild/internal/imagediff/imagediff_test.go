package imagediff

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// file is an entry of a layer: 10 bytes, of root, from the beginning of time.
func file(name string, change ...func(*tar.Header)) *tar.Header {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: 10, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	for _, c := range change {
		c(h)
	}
	return h
}

// archive makes a layer; the content of each file is a letter.
func archive(t *testing.T, letter string, entries ...*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, h := range entries {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(bytes.Repeat([]byte(letter), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestEntries(t *testing.T) {
	same := func(*tar.Header) {}
	for name, tc := range map[string]struct {
		change func(*tar.Header)
		letter string
		want   string
	}{
		"nothing":   {change: same},
		"content":   {change: same, letter: "b", want: "content"},
		"size":      {change: func(h *tar.Header) { h.Size = 3 }, want: "content"},
		"mode":      {change: func(h *tar.Header) { h.Mode = 0o755 }, want: "mode"},
		"owner":     {change: func(h *tar.Header) { h.Uid = 5 }, want: "owner"},
		"group":     {change: func(h *tar.Header) { h.Gid = 5 }, want: "owner"},
		"time":      {change: func(h *tar.Header) { h.ModTime = time.Unix(1, 0) }, want: "time"},
		"type":      {change: func(h *tar.Header) { h.Typeflag, h.Size = tar.TypeDir, 0 }, want: "type"},
		"link":      {change: func(h *tar.Header) { h.Typeflag, h.Size, h.Linkname = tar.TypeSymlink, 0, "x" }, want: "type link"},
		"xattrs":    {change: func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"} }, want: "xattrs"},
		"two":       {change: func(h *tar.Header) { h.Mode, h.Uid = 0o600, 1 }, want: "mode owner"},
		"user name": {change: func(h *tar.Header) { h.Uname = "me" }}, // containers have ids
	} {
		t.Run(name, func(t *testing.T) {
			letter := "a"
			if tc.letter != "" {
				letter = tc.letter
			}
			// In another order, and with another spelling of the path.
			got, err := compareLayers(context.Background(),
				bytes.NewReader(archive(t, "a", file("d/f"))),
				bytes.NewReader(archive(t, letter, file("./d/f", tc.change))))
			if err != nil {
				t.Fatal(err)
			}
			var differs []string
			for _, p := range got {
				if p.Path != "/d/f" {
					t.Errorf("path %s", p.Path)
				}
				differs = append(differs, p.Differs...)
			}
			if s := strings.Join(differs, " "); s != tc.want {
				t.Errorf("%q differs, want %q", s, tc.want)
			}
		})
	}
	got, err := compareLayers(context.Background(),
		bytes.NewReader(archive(t, "a", file("b"), file("a"), file("z"))), bytes.NewReader(archive(t, "a", file("z"), file("c"), file("a"))))
	if err != nil || len(got) != 2 || got[0].Path != "/b" || got[0].Second != nil || got[1].Path != "/c" || got[1].First != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := compareLayers(context.Background(), strings.NewReader("x"), strings.NewReader("")); err == nil {
		t.Error("what is no archive has been compared")
	}
}

// write makes a layout of an image with layers, and with labels.
func write(t *testing.T, labels map[string]string, layers ...[]byte) string {
	t.Helper()
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, b []byte) ocispec.Descriptor {
		d := digest.FromBytes(b)
		if err := os.WriteFile(filepath.Join(blobs, d.Encoded()), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
	}
	document := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	config.Config.Labels = labels
	config.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}}
	config.History = append(config.History, ocispec.History{CreatedBy: "ENV A", EmptyLayer: true})
	for n, l := range layers {
		m.Layers = append(m.Layers, put(ocispec.MediaTypeImageLayer, l))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		config.History = append(config.History, ocispec.History{CreatedBy: "RUN " + string(rune('A'+n))})
	}
	m.Config = put(ocispec.MediaTypeImageConfig, document(config))
	inner := put(ocispec.MediaTypeImageIndex, document(ocispec.Index{Manifests: []ocispec.Descriptor{put(ocispec.MediaTypeImageManifest, document(m))}}))
	index := document(ocispec.Index{Manifests: []ocispec.Descriptor{inner}})
	if err := os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCompare(t *testing.T) {
	one, two := archive(t, "a", file("same")), archive(t, "a", file("f"))
	other := archive(t, "b", file("f"))
	label := map[string]string{"a": "1", "c": "same"}
	first := write(t, label, one, two)

	r, err := Compare(context.Background(), first, write(t, label, one, two))
	if err != nil || !r.Equal || r.Files() != 0 || len(r.Images) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	r, err = Compare(context.Background(), first, write(t, map[string]string{"a": "2", "c": "same"}, one, other, one))
	if err != nil || r.Equal || r.Files() != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	var text strings.Builder
	if err := r.Text(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"linux/amd64: sha256:", "\n  layer 2: RUN B\n    /f: content\n", "\n  layer 3: RUN C\n    only in the second build\n",
		"\n    config.Labels.a: \"1\", then \"2\"\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in\n%s", want, &text)
		}
	}
	for _, not := range []string{"layer 1", "rootfs", "Labels.c"} {
		if strings.Contains(text.String(), not) {
			t.Errorf("%q is in\n%s", not, &text)
		}
	}
	if _, err := Compare(context.Background(), first, t.TempDir()); err == nil {
		t.Error("an empty directory has been compared")
	}
}

func TestValues(t *testing.T) {
	parse := func(s string) (v any) {
		if err := json.Unmarshal([]byte(s), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for name, tc := range map[string]struct{ a, b, want string }{
		"same":    {`{"a":[1,{"b":null}]}`, `{"a":[1,{"b":null}]}`, ""},
		"deep":    {`{"a":{"b":1,"c":2}}`, `{"a":{"b":1,"c":3}}`, "a.c"},
		"list":    {`{"a":[1,2,3]}`, `{"a":[1,4,3]}`, "a[1]"},
		"length":  {`{"a":[1]}`, `{"a":[1,2]}`, "a"},
		"missing": {`{"a":1}`, `{"b":1}`, "a b"},
		"kind":    {`{"a":{}}`, `{"a":[]}`, "a"},
	} {
		var got []string
		for _, f := range compareValues(nil, "", parse(tc.a), parse(tc.b)) {
			got = append(got, f.Field)
		}
		if want := strings.Fields(tc.want); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// A name in a layer must not do anything to a terminal.
func TestShown(t *testing.T) {
	p := Path{Path: "/a\x1b[2J", Differs: []string{"link"}, First: &Entry{Link: "a\nb"}, Second: &Entry{Link: "c"}}
	r := &Report{Images: []Image{{Platform: "p", Digests: [2]string{"x", "y"}, Layers: []Layer{{Digests: [2]string{"x", "y"}, CreatedBy: "RUN \r", Paths: []Path{p}}}}}}
	var text strings.Builder
	if err := r.Text(&text); err != nil {
		t.Fatal(err)
	}
	want := "p: x and y differ\n  layer 1: \"RUN \\r\"\n    \"/a\\x1b[2J\": link (\"a\\nb\", then c)\n"
	if text.String() != want {
		t.Errorf("got %q, want %q", text.String(), want)
	}
}
