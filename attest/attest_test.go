package attest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParse(t *testing.T) {
	max := Provenance{Max: true, Version: V1, Filename: "provenance.json"}
	for name, tt := range map[string]struct {
		opts map[string]string
		want Options
		err  string
	}{
		"nothing": {opts: map[string]string{"target": "x"}},
		"bare":    {opts: map[string]string{"attest:provenance": "", "attest:sbom": ""}, want: Options{&max, &SBOM{Args: map[string]string{}}}},
		"buildx":  {opts: map[string]string{"attest:provenance": "mode=min,inline-only=true"}, want: Options{Provenance: &Provenance{Version: V1, Filename: "provenance.json", InlineOnly: true}}},
		"all": {
			opts: map[string]string{"attest:provenance": "mode=full,version=v0.2,builder-id=https://b,filename=p.json,reproducible=1,complete-materials=true,capture-usage=false"},
			want: Options{Provenance: &Provenance{Max: true, Version: V02, BuilderID: "https://b", Filename: "p.json", Reproducible: true, CompleteMaterials: true}},
		},
		"build arg": {opts: map[string]string{"build-arg:BUILDKIT_ATTEST_PROVENANCE": ""}, want: Options{Provenance: &max}},
		"generator": {
			opts: map[string]string{"attest:sbom": `"generator=img:1","A=hello,world",B=x`},
			want: Options{SBOM: &SBOM{Generator: "img:1", Args: map[string]string{"A": "hello,world", "B": "x"}}},
		},
		"disabled":     {opts: map[string]string{"attest:provenance": "disabled=true", "attest:sbom": "disabled=1"}},
		"not disabled": {opts: map[string]string{"attest:provenance": "disabled=false"}, want: Options{Provenance: &max}},

		"kind":      {opts: map[string]string{"attest:x": ""}, err: "attestation x: there is no such attestation"},
		"mode":      {opts: map[string]string{"attest:provenance": "mode=medium"}, err: "mode=medium is neither"},
		"version":   {opts: map[string]string{"attest:provenance": "version=2"}, err: "version=2 is neither"},
		"parameter": {opts: map[string]string{"attest:provenance": "mod=min"}, err: "unknown parameter mod"},
		"no value":  {opts: map[string]string{"attest:provenance": "mode"}, err: `"mode" is not key=value`},
		"csv":       {opts: map[string]string{"attest:provenance": `"mode`}, err: "is not a comma list"},
		"bool":      {opts: map[string]string{"attest:provenance": "inline-only=maybe"}, err: "inline-only=maybe is neither true nor false"},
		"path":      {opts: map[string]string{"attest:provenance": "filename=../p"}, err: "is not the name of a file"},
		"disable":   {opts: map[string]string{"attest:sbom": "disabled=maybe"}, err: "disabled=maybe"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tt.opts)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                                "plain",
		"https://host/a@b":                     "https://host/a@b",
		"https://user:pass@host/x":             "https://xxxxx:xxxxx@host/x",
		"https://token@host/x":                 "https://xxxxx@host/x",
		"https://:pass@host/x":                 "https://:xxxxx@host/x",
		"https://u:p@ss@host/x":                "https://xxxxx:xxxxx@host/x",
		"ssh://git@host/x":                     "ssh://git@host/x",
		"ssh://git:pass@host/x":                "ssh://xxxxx:xxxxx@host/x",
		"git@host:repo":                        "git@host:repo",
		"docker-image://host/a@sha256:1":       "docker-image://host/a@sha256:1",
		"a https://u:p@h b http://u:p@h?x=@y":  "a https://xxxxx:xxxxx@h b http://xxxxx:xxxxx@h?x=@y",
		`{"a":"https://u:p\u0026q@h","b":"x"}`: `{"a":"https://xxxxx:xxxxx@h","b":"x"}`,
		`{"a":"https://h","b":"x@y"}`:          `{"a":"https://h","b":"x@y"}`,
		`"https://h\nx@y"`:                     `"https://h\nx@y"`,
		"https://@host":                        "https://@host",
		"://":                                  "://",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestImageURL(t *testing.T) {
	const dgst = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	p := &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	for _, tt := range []struct {
		ref  string
		p    *ocispec.Platform
		want string
	}{
		{"alpine", nil, "pkg:docker/alpine@latest"},
		{"docker.io/library/alpine:3.20", p, "pkg:docker/alpine@3.20?platform=linux%2Famd64"},
		{"alpine" + dgst, p, "pkg:docker/alpine?digest=" + dgst[1:] + "&platform=linux%2Famd64"},
		{"user/x:1" + dgst, nil, "pkg:docker/user/x@1?digest=" + dgst[1:]},
		{"localhost:5000/a/b/c", p, "pkg:docker/localhost%3A5000/a/b/c@latest?platform=linux%2Famd64"},
	} {
		got, err := ImageURL(TypeDocker, tt.ref, tt.p)
		if err != nil || got != tt.want {
			t.Errorf("%s: got %s, %v; want %s", tt.ref, got, err, tt.want)
		}
	}
	if got, err := ImageURL(TypeDocker, "in:va:lid", nil); err == nil {
		t.Errorf("got %s", got)
	}
}

func TestParseStatement(t *testing.T) {
	b, err := NewStatement("https://example.com/p", nil, []Subject{{Name: "a", Digest: map[string]string{"sha256": "00"}}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseStatement(b)
	if err != nil {
		t.Fatal(err)
	}
	if string(s.Predicate) != "null" || s.PredicateType != "https://example.com/p" || len(s.Subject) != 1 {
		t.Errorf("got %+v", s)
	}
	if _, err := NewStatement("x", []byte("{"), nil); err == nil {
		t.Error("half an object was taken for a predicate")
	}
	for _, in := range []string{``, `[]`, `{"_type":"x"}`, `{"_type":"https://in-toto.io/Statement/v1"}`} {
		if _, err := ParseStatement([]byte(in)); err == nil {
			t.Errorf("%s was taken for a statement", in)
		}
	}
}

func TestAddLayers(t *testing.T) {
	in := `{"x":1.50,"files":[{"fileName":"/a","k":[1]},{"fileName":"/b","comment":"old"},{"fileName":"/c"},{}]}`
	b, err := AddLayers([]byte(in), func(f string) string {
		return map[string]string{"/a": "sha256:1", "/b": "sha256:2"}[f]
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"files":[{"comment":"layerID: sha256:1","fileName":"/a","k":[1]},{"comment":"layerID: sha256:2\nold","fileName":"/b"},{"fileName":"/c"},{}],"x":1.50}`
	if string(b) != want {
		t.Errorf("got %s", b)
	}
	for _, in := range []string{`{}`, `{"files":"no"}`} {
		if b, err := AddLayers([]byte(in), nil); err != nil || string(b) != in {
			t.Errorf("%s: got %s, %v", in, b, err)
		}
	}
	if _, err := AddLayers([]byte("["), nil); err == nil {
		t.Error("half a list was taken for a document")
	}
}
