package exporter

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/snapshot"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func at(s int64) *time.Time {
	t := time.Unix(s, 0).UTC()
	return &t
}

// show writes a history as "created-by@seconds", with "-" before an empty layer.
func show(hs []ocispec.History) string {
	var out []string
	for _, h := range hs {
		s := h.CreatedBy
		if h.EmptyLayer {
			s = "-" + s
		}
		if h.Created == nil {
			s += "@nil"
		} else {
			s += fmt.Sprintf("@%d", h.Created.Unix())
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func layersAt(times ...int64) []snapshot.Blob {
	var out []snapshot.Blob
	for i, s := range times {
		out = append(out, snapshot.Blob{Description: fmt.Sprintf("l%d", i), DiffID: digest.FromString(fmt.Sprint(i)), Created: *at(s)})
	}
	return out
}

func TestHistoryMatchesLayers(t *testing.T) {
	e := func(by string) ocispec.History { return ocispec.History{CreatedBy: by, EmptyLayer: true} }
	h := func(by string, s int64) ocispec.History {
		out := ocispec.History{CreatedBy: by}
		if s != 0 {
			out.Created = at(s)
		}
		return out
	}
	tests := []struct {
		name    string
		history []ocispec.History
		layers  []snapshot.Blob
		want    string
	}{
		{"none", nil, nil, ""},
		{"none for two layers", nil, layersAt(10, 20), "l0@10 l1@20"},
		{"top ones are missing", []ocispec.History{h("base", 5), e("ENV")}, layersAt(10, 20), "base@5 -ENV@20 l1@20"},
		{"times from layers", []ocispec.History{h("a", 0), h("b", 0)}, layersAt(10, 20), "a@10 b@20"},
		{"too many", []ocispec.History{h("a", 1), h("b", 2)}, layersAt(10), "a@1 -b@2"},
		{"empty between", []ocispec.History{h("base", 5), e("ENV"), h("RUN", 0), e("CMD")}, layersAt(10, 20), "base@5 -ENV@20 RUN@20 -CMD@20"},
		{"only empty", []ocispec.History{e("ENV")}, nil, "-ENV@nil"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := show(alignHistory(tc.history, tc.layers)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestEpochSparesTheBase(t *testing.T) {
	base := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, History: []ocispec.History{{CreatedBy: "base", Created: at(500)}}}
	img := base
	img.Created = at(900)
	img.History = append(img.History[:1:1], ocispec.History{CreatedBy: "RUN", Created: at(900)}, ocispec.History{CreatedBy: "old", Created: at(50)})
	in := configInput{layers: layersAt(1, 2, 3), epoch: at(100)}
	var err error
	if in.base, err = json.Marshal(base); err != nil {
		t.Fatal(err)
	}
	if in.config, err = json.Marshal(img); err != nil {
		t.Fatal(err)
	}
	b, err := finishConfig(in)
	if err != nil {
		t.Fatal(err)
	}
	var got ocispec.Image
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if s := show(got.History); s != "base@500 RUN@100 old@50" {
		t.Error(s)
	}
	if got.Created.Unix() != 100 || len(got.RootFS.DiffIDs) != 3 {
		t.Errorf("%s", b)
	}
}

func TestParts(t *testing.T) {
	for name, tc := range map[string]struct {
		src  Source
		want string
	}{
		"config says": {Source{Metadata: map[string][]byte{KeyConfig: []byte(`{"os":"linux","architecture":"arm","variant":"v7"}`)}}, "linux/arm/v7"},
		"list says":   {Source{Metadata: map[string][]byte{KeyPlatforms: []byte(`{"Platforms":[{"ID":"linux/s390x","Platform":{"os":"linux","architecture":"s390x"}}]}`)}}, "linux/s390x"},
		"normalised":  {Source{Platforms: []Platform{{ID: "x", Platform: ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}}}, "x"},
		"half":        {Source{Metadata: map[string][]byte{KeyConfig: []byte(`{"os":"linux"}`)}}, ""},
		"broken":      {Source{Metadata: map[string][]byte{KeyConfig: []byte(`{`)}}, ""},
		"no platform": {Source{Platforms: []Platform{{ID: "x"}}}, ""},
	} {
		got, err := tc.src.Parts()
		if tc.want == "" {
			if err == nil {
				t.Errorf("%s: %v", name, got)
			}
			continue
		}
		if err != nil || len(got) != 1 || got[0].ID != tc.want {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

func TestLayerTypes(t *testing.T) {
	const foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	for _, tc := range []struct {
		in        string
		oci, keep bool
		want      string
	}{
		{"application/vnd.docker.image.rootfs.diff.tar.gzip", true, false, ocispec.MediaTypeImageLayerGzip},
		{ocispec.MediaTypeImageLayerGzip, false, false, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
		{ocispec.MediaTypeImageLayerZstd, true, false, ocispec.MediaTypeImageLayerZstd},
		{foreign, true, false, ocispec.MediaTypeImageLayerGzip},
		{foreign, false, true, foreign},
		{ocispec.MediaTypeImageLayerGzip, false, true, foreign},
		{"application/x-other", true, false, "application/x-other"},
	} {
		if got := layerType(tc.in, tc.oci, tc.keep); got != tc.want {
			t.Errorf("%+v: got %s", tc, got)
		}
	}
}
