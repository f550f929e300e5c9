package dockerfile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"strconv"
	"testing"
	"time"

	"github.com/dbuild/dbuild/frontend"
)

// archive is a tar with a file of each time.
func archive(t *testing.T, times ...time.Time) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i, m := range times {
		if err := w.WriteHeader(&tar.Header{Name: strconv.Itoa(i), Size: 1, Mode: 0o644, ModTime: m}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte{'x'}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestEpochOfSources(t *testing.T) {
	older, newer := time.Unix(1000, 0), time.Unix(2000, 0)
	unknown := time.Time{}
	const url, repo = "https://x.test/src.tar", "https://x.test/r.git"
	stage := "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD " + url + " /\nFROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL t=$SOURCE_DATE_EPOCH\n"
	label := "ARG SOURCE_DATE_EPOCH\nFROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL t=$SOURCE_DATE_EPOCH\n"
	for _, c := range []struct {
		name, text string
		opts       map[string]string
		file       []byte // what is at the URL
		time       time.Time
		want       string
	}{
		{"number", stage, map[string]string{"build-arg:SOURCE_DATE_EPOCH": "7"}, nil, unknown, "7"},
		{"local context", label, map[string]string{"build-arg:SOURCE_DATE_EPOCH": "context"}, nil, unknown, ""},
		{"stage, as the server says", stage, nil, archive(t, newer), older, "1000"},
		{"stage, newest file", stage, nil, archive(t, older, newer, older), unknown, "2000"},
		{"stage, newest file of a compressed archive", stage, nil, zipped(t, archive(t, newer, older)), unknown, "2000"},
		{"stage, no archive", stage, nil, []byte("text"), unknown, ""},
		{"named context", label, map[string]string{"build-arg:SOURCE_DATE_EPOCH": "mine", "context:mine": url}, archive(t, newer), older, "1000"},
		{"git", label, map[string]string{"build-arg:SOURCE_DATE_EPOCH": "mine", "context:mine": repo}, nil, older, "1000"},
		{"local named context", label, map[string]string{"build-arg:SOURCE_DATE_EPOCH": "mine", "context:mine": "local:mine"}, nil, unknown, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bridge := newFakeBridge(t)
			bridge.times = map[string]time.Time{url: time.Unix(0, 0), "git://x.test/r.git": c.time}
			if !c.time.IsZero() {
				bridge.times[url] = c.time
			}
			bridge.files["Dockerfile"] = []byte(c.text)
			if c.file != nil {
				bridge.files[url+"/context"] = c.file
			}
			built, err := Convert(t.Context(), bridge, &frontend.Request{Opts: c.opts})
			if err != nil {
				t.Fatal(err)
			}
			if got := built[0].Image.Config.Labels["t"]; got != c.want {
				t.Errorf("the label is %q, want %q", got, c.want)
			}
			if got := built[0].Epoch; (got == nil) != (c.want == "") || got != nil && strconv.FormatInt(got.Unix(), 10) != c.want {
				t.Errorf("epoch %v, want %q", got, c.want)
			}
		})
	}
}
