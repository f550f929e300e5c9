package oci_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dbuild/dbuild/exporter"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	"github.com/dbuild/dbuild/exporter/oci"
	"github.com/dbuild/dbuild/internal/progress"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	"github.com/dbuild/dbuild/source/image"
	"github.com/moby/buildkit/session/filesync"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A scripted engine answers questions in order, and refuses the archive that follows each.
type scripted struct {
	t       *testing.T
	answers []session.LoadAnswer
	refuse  error

	mu        sync.Mutex // guards all below
	questions []session.LoadQuestion
	archives  [][]string // names of files
	file      *xt.File
}

func (s *scripted) answer(_ context.Context, q session.LoadQuestion) (session.LoadAnswer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.questions = append(s.questions, q)
	if len(s.answers) < len(s.questions) {
		return session.LoadAnswer{}, errors.New("nobody was to ask")
	}
	return s.answers[len(s.questions)-1], nil
}

func (s *scripted) open(md map[string]string) (io.WriteCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file = &xt.File{}
	w, err := s.file.Open(md)
	return archiveWriter{w, s}, err
}

type archiveWriter struct {
	io.Writer
	s *scripted
}

func (w archiveWriter) Close() error {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.archives = append(w.s.archives, names(w.s.t, w.s.file.Bytes()))
	if w.s.refuse != nil && len(w.s.archives) < len(w.s.answers)+1 {
		return w.s.refuse
	}
	return nil
}

func TestLoadWithoutWhatIsThere(t *testing.T) {
	s, _ := xt.Store(t, xt.Client(nil))
	a, b, c := xt.Ref(t, s, nil, "a", "a"), xt.Ref(t, s, nil, "b", "b"), xt.Ref(t, s, nil, "c", "c")
	ref := s.Merge(a, b, c)
	defer ref.Release()
	more := status.Error(codes.Aborted, "more")
	have := func(n ...int) (out []session.LoadAnswer) {
		for _, n := range n {
			out = append(out, session.LoadAnswer{Have: n, Line: "sending"})
		}
		return out
	}
	for _, tc := range []struct {
		name    string
		answers []session.LoadAnswer
		refuse  error
		layers  []int // in each archive
		asked   int
		fails   string
	}{
		{"all", have(3), nil, []int{0}, 1, ""},
		{"some", have(2), nil, []int{1}, 1, ""},
		{"none", have(0), nil, []int{3}, 1, ""},
		{"more is wanted", have(3, 1), more, []int{0, 2, 3}, 2, ""},
		{"a whole one is refused", have(0), more, []int{3}, 1, "more"},
		{"another failure", have(2), errors.New("no"), []int{1}, 1, "no"},
		{"nonsense", have(4), nil, []int{3}, 1, ""},
		{"no answer", nil, nil, []int{3}, 1, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := &scripted{t: t, answers: tc.answers, refuse: tc.refuse}
			m, g, id := rt.Session(t, filesync.NewFSSyncTarget(filesync.WithFSSync(3, client.open)), session.LoadAnswerer(client.answer))
			x, err := oci.New(exporter.Client{Sessions: m, Index: 3}, oci.Docker, map[string]string{"name": "app:1"})
			if err != nil {
				t.Fatal(err)
			}
			_, err = x.Export(t.Context(), exporter.Source{Ref: ref}, exporter.Access{Group: g, SessionIDs: []string{id}, Log: progress.NewLog()})
			if (err == nil) != (tc.fails == "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("got %v", err)
			}
			blobs, err := ref.Blobs(t.Context(), snapshot.Access{}, snapshot.Compression{})
			if err != nil {
				t.Fatal(err)
			}
			var layers []int
			for _, names := range client.archives {
				n := 0
				for _, l := range blobs {
					if slices.Contains(names, "blobs/sha256/"+l.Digest.Encoded()) {
						n++
					}
				}
				layers = append(layers, n)
			}
			if !slices.Equal(layers, tc.layers) || len(client.questions) != tc.asked {
				t.Errorf("archives with %v layers, %d questions; want %v, %d", layers, len(client.questions), tc.layers, tc.asked)
			}
			q := client.questions[0]
			if q.Exporter != 3 || !slices.Equal(q.Names, []string{"docker.io/library/app:1"}) || q.Platform.OS != "linux" || len(q.Layers) != 3 ||
				q.Layers[0].Digest != blobs[0].Digest || q.Layers[0].DiffID != blobs[0].DiffID || q.Layers[0].Size != blobs[0].Size {
				t.Errorf("asked %+v", q)
			}
		})
	}
}

// A blob that is left out because the engine has it at the bottom may be needed above.
func TestLoadKeepsABlobThatComesAgain(t *testing.T) {
	addr, _ := rt.Start(t)
	twice, between := rt.Files(t, "a", "x"), rt.Files(t, "b", "y")
	rt.PutImage(t, addr, "base", "v1", amd64, twice, between, twice)
	c := xt.Client(nil)
	s, _ := xt.Store(t, c)
	images := image.New(image.Config{Registry: c, Store: s})
	r, err := images.Resolve(t.Context(), nil, addr+"/base:v1", &amd64, image.ModePull)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := images.Ref(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer ref.Release()
	client := &scripted{t: t, answers: []session.LoadAnswer{{Have: 2}}}
	m, g, id := rt.Session(t, filesync.NewFSSyncTarget(filesync.WithFSSync(0, client.open)), session.LoadAnswerer(client.answer))
	x, err := oci.New(exporter.Client{Sessions: m}, oci.Docker, nil)
	if err != nil {
		t.Fatal(err)
	}
	src := exporter.Source{Ref: ref, Metadata: map[string][]byte{exporter.KeyConfig: r.Config}}
	if _, err := x.Export(t.Context(), src, exporter.Access{Group: g, SessionIDs: []string{id}, Log: progress.NewLog()}); err != nil {
		t.Fatal(err)
	}
	q := client.questions[0]
	if len(q.Layers) != 3 || q.Layers[0].Digest != q.Layers[2].Digest {
		t.Fatalf("asked %+v", q)
	}
	has := func(i int) bool {
		return slices.Contains(client.archives[0], "blobs/sha256/"+q.Layers[i].Digest.Encoded())
	}
	if !has(0) || has(1) {
		t.Errorf("the archive has %v", client.archives[0])
	}
}
