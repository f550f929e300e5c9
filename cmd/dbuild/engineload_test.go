package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/engine/enginetest"
	"github.com/dbuild/dbuild/exporter"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	"github.com/dbuild/dbuild/exporter/oci"
	steplog "github.com/dbuild/dbuild/internal/progress"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A loading is a build whose result, made of layers, goes to an engine.
type loading struct {
	t      *testing.T
	store  *snapshot.Store
	stderr bytes.Buffer
	asks   bool                     // the daemon is one that asks
	layers map[string]*snapshot.Ref // by file
}

func newLoading(t *testing.T, e *enginetest.Engine) *loading {
	t.Helper()
	t.Setenv("DOCKER_HOST", e.Host)
	s, _ := xt.Store(t, xt.Client(nil))
	return &loading{t: t, store: s, asks: true, layers: map[string]*snapshot.Ref{}}
}

var loadExports = []buildflags.Export{{Type: "docker", Sink: buildflags.Docker}}

// load exports an image of the files, a layer each, and returns what progress said.
func (l *loading) load(name, label string, files ...string) (lines []string, err error) {
	l.t.Helper()
	a := &app{stderr: &l.stderr}
	o, err := a.openOutputs(l.t.Context(), loadExports, &configfile.ConfigFile{})
	if err != nil {
		return nil, err
	}
	defer o.discard()
	services := []bksession.Attachable{filesync.NewFSSyncTarget(filesync.WithFSSync(0, o.entries[0].Output))}
	if l.asks {
		services = append(services, answerLoads(o.engines))
	}
	m, g, id := rt.Session(l.t, services...)
	x, err := oci.New(exporter.Client{Sessions: m}, oci.Docker, map[string]string{"name": name})
	if err != nil {
		l.t.Fatal(err)
	}
	conf, err := json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Config: ocispec.ImageConfig{Labels: map[string]string{"l": label}}})
	if err != nil {
		l.t.Fatal(err)
	}
	src := exporter.Source{Metadata: map[string][]byte{exporter.KeyConfig: conf}}
	var layers []*snapshot.Ref
	for _, f := range files {
		if l.layers[f] == nil {
			l.layers[f] = xt.Ref(l.t, l.store, nil, f, strings.Repeat(f, 100))
		}
		layers = append(layers, l.layers[f])
	}
	src.Ref = l.store.Merge(layers...)
	l.t.Cleanup(src.Ref.Release)
	log := steplog.NewLog()
	done := log.Start()
	_, err = x.Export(l.t.Context(), src, exporter.Access{Group: g, SessionIDs: []string{id}, Log: log})
	done(err)
	if err == nil {
		err = o.commit(context.Background())
	} else if oerr := o.err(); oerr != nil {
		err = oerr
	}
	return trackedLines(l.t, log), err
}

// trackedLines returns the names of the parts of a step, in order.
func trackedLines(t *testing.T, log *steplog.Log) []string {
	t.Helper()
	s := steplog.NewStream()
	s.Attach(log, steplog.Vertex{Digest: "x", Name: "x"})
	s.Close()
	var lines []string
	for r := s.Reader(); ; {
		events, err := r.Next(t.Context(), 0)
		if err != nil {
			return lines
		}
		for _, e := range events {
			if e.Status != nil && !slices.Contains(lines, e.Status.ID) {
				lines = append(lines, e.Status.ID)
			}
		}
	}
}

// blobs counts the files of an archive below blobs/.
func blobs(l enginetest.Load) int {
	n := 0
	for _, f := range l.Files {
		if strings.HasPrefix(f, "blobs/") {
			n++
		}
	}
	return n
}

const documents = 2 // of an image: manifest and config

// An engine with a graph driver says itself which layer it lacks.
func TestLoadSendsWhatTheEngineLacks(t *testing.T) {
	e := enginetest.New(t)
	l := newLoading(t, e)
	for _, step := range []struct {
		name, label string
		files       []string
		sent        []int // layers in each archive that comes
		says        string
	}{
		{"app:1", "", []string{"a", "b"}, []int{0, 2}, "2 of 2 missing"},
		{"app:1", "", []string{"a", "b"}, nil, "asking docker"},
		{"app:2", "", []string{"a", "b"}, nil, "asking docker"},
		{"app:3", "relabelled", []string{"a", "b"}, []int{0}, "asking docker"},
		{"app:4", "", []string{"a", "b", "c"}, []int{0, 1}, "1 of 3 missing"},
		{"app:5", "", []string{"a", "c"}, []int{0, 1}, "1 of 2 missing"},
		{"app:6", "", []string{"b", "a"}, []int{0, 2}, "2 of 2 missing"}, // known, but not in this order
	} {
		before := len(e.Loads())
		lines, err := l.load(step.name, step.label, step.files...)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		var sent []int
		for _, a := range e.Loads()[before:] {
			sent = append(sent, blobs(a)-documents)
		}
		if !slices.Equal(sent, step.sent) {
			t.Errorf("%s: archives with %v layers, want %v", step.name, sent, step.sent)
		}
		if !slices.ContainsFunc(lines, func(s string) bool { return strings.Contains(s, step.says) }) {
			t.Errorf("%s: no %q in %q", step.name, step.says, lines)
		}
		if e.Names()[step.name] == "" {
			t.Errorf("%s is not there", step.name)
		}
	}
	if s := l.stderr.String(); !strings.Contains(s, "Loaded image: app:4") || !strings.Contains(s, "docker has the image: sha256:") {
		t.Errorf("said %q", s)
	}
}

// One with containerd's store is looked at; if it has other blobs than its images suggest,
// it gets the whole image.
func TestLoadIntoContainerdStore(t *testing.T) {
	e := enginetest.New(t)
	e.Containerd = true
	l := newLoading(t, e)
	load := func(name string, files ...string) (sent []int, line string) {
		t.Helper()
		before := len(e.Loads())
		lines, err := l.load(name, "", files...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, a := range e.Loads()[before:] {
			sent = append(sent, blobs(a)-documents)
			if sparse := blobs(a)-documents < len(files); sparse != (a.Platform != "") {
				t.Errorf("%s: %d of %d layers, to be checked for platform %q", name, blobs(a)-documents, len(files), a.Platform)
			}
		}
		return sent, lines[len(lines)-1]
	}
	if sent, line := load("app:1", "a", "b"); !slices.Equal(sent, []int{2}) || line != "sending the whole image to docker" {
		t.Errorf("new: %v %q", sent, line)
	}
	if sent, line := load("app:2", "a", "b", "c"); !slices.Equal(sent, []int{1}) || !strings.Contains(line, "1 of 3 missing") {
		t.Errorf("one more layer: %v %q", sent, line)
	}
	if sent, line := load("app:2", "a", "b", "c"); sent != nil {
		t.Errorf("again: %v %q", sent, line)
	}
	forget(e, e.Loads()[0])
	if sent, line := load("app:3", "a", "b", "d"); !slices.Equal(sent, []int{1, 3}) || line != "sending the whole image to docker" {
		t.Errorf("its blobs are gone: %v %q", sent, line)
	}
	forget(e, e.Loads()[1])
	if sent, _ := load("app:5", "a", "b", "c"); sent == nil {
		t.Error("an image of which a layer is gone is taken for granted")
	}
	e.API = "1.47"
	if sent, line := load("app:4", "a", "b", "e"); !slices.Equal(sent, []int{3}) || line != "sending the whole image to docker" {
		t.Errorf("an engine that cannot check: %v %q", sent, line)
	}
}

// forget makes the engine lose what came in an archive.
func forget(e *enginetest.Engine, l enginetest.Load) {
	for _, f := range l.Files {
		if hex, ok := strings.CutPrefix(f, "blobs/sha256/"); ok {
			e.Forget(digest.NewDigestFromEncoded(digest.SHA256, hex))
		}
	}
}

// A daemon that does not ask sends everything.
func TestLoadFromAnotherDaemon(t *testing.T) {
	e := enginetest.New(t)
	l := newLoading(t, e)
	l.asks = false
	for _, name := range []string{"app:1", "app:2"} {
		if _, err := l.load(name, name, "a", "b"); err != nil {
			t.Fatal(err)
		}
	}
	if got := e.Loads(); len(got) != 2 || blobs(got[0])-documents != 2 || blobs(got[1])-documents != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestLoadFails(t *testing.T) {
	e := enginetest.New(t)
	l := newLoading(t, e)
	e.Fail = "the engine is in a bad mood"
	_, err := l.load("app:1", "", "a")
	if err == nil || err.Error() != "docker: the engine is in a bad mood" {
		t.Errorf("got %v", err)
	}
	if got := e.Loads(); len(got) != 2 || blobs(got[1])-documents != 1 {
		t.Errorf("the whole image was not tried: %+v", got)
	}
	e.Fail = "write /var/lib/docker/tmp/x: no space left on device"
	if _, err := l.load("app:1", "", "a"); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "docker has no room for the image") {
		t.Errorf("a full disk: %v", err)
	}
}

func TestNoEngine(t *testing.T) {
	dir := t.TempDir()
	nobody, err := net.Listen("unix", filepath.Join(dir, "nobody"))
	if err != nil {
		t.Fatal(err)
	}
	nobody.(*net.UnixListener).SetUnlinkOnClose(false)
	nobody.Close()
	t.Setenv("PATH", dir)
	for host, want := range map[string]string{
		"unix://" + dir + "/none":   "no docker engine answers at unix://" + dir + "/none",
		"unix://" + dir + "/nobody": "no docker engine answers at unix://" + dir + "/nobody",
		"nonsense":                  "docker: unable to parse docker host",
		"":                          "none of the commands docker, podman, nerdctl",
	} {
		t.Setenv("DOCKER_HOST", host)
		_, err := (&app{}).openOutputs(context.Background(), loadExports, &configfile.ConfigFile{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("DOCKER_HOST=%s: %v", host, err)
		}
	}
	t.Setenv("DOCKER_HOST", "")
	_, err = (&app{}).openOutputs(context.Background(), loadExports, &configfile.ConfigFile{CurrentContext: "away"})
	if err == nil || !strings.Contains(err.Error(), "docker context away") {
		t.Errorf("an unknown context: %v", err)
	}
}

// Podman's service is used where there is no docker, or where podman is meant.
func TestPodmanService(t *testing.T) {
	docker, podman := enginetest.New(t), enginetest.New(t)
	t.Setenv("PATH", t.TempDir())
	t.Setenv("CONTAINER_HOST", podman.Host)
	for _, tc := range []struct {
		docker, engine string
		want           *enginetest.Engine
		name           string
	}{
		{"", "", podman, "podman"},
		{"", "podman", podman, "podman"},
		{docker.Host, "podman", podman, "podman"},
		{docker.Host, "", docker, "docker"},
	} {
		t.Setenv("DOCKER_HOST", tc.docker)
		e := loadExports[0]
		e.Engine = tc.engine
		l, err := (&app{}).newLoad(t.Context(), e, &configfile.ConfigFile{})
		if err != nil {
			t.Fatalf("%+v: %v", tc, err)
		}
		if got := l.(*engineLoad).engine; got.Host() != tc.want.Host || got.Name() != tc.name {
			t.Errorf("%s, --load=%s: %s at %s", tc.docker, tc.engine, got.Name(), got.Host())
		}
		l.kill()
	}
	t.Setenv("CONTAINER_HOST", "unix:///nowhere/s")
	e := loadExports[0]
	e.Engine = "podman"
	if _, err := (&app{}).newLoad(t.Context(), e, &configfile.ConfigFile{}); err == nil || err.Error() != "--load=podman: there is no such command" {
		t.Errorf("no podman: %v", err)
	}
}

// A docker context that is in use names the engine, unless DOCKER_HOST does.
func TestDockerContext(t *testing.T) {
	here, there := enginetest.New(t), enginetest.New(t)
	writeContext(t, "there", there.Host)
	for _, tc := range []struct {
		host, variable, config, option string
		want                           *enginetest.Engine
	}{
		{config: "there", want: there},
		{variable: "there", want: there},
		{option: "there", host: here.Host, want: there},
		{host: here.Host, config: "there", variable: "there", want: here},
		{host: here.Host, config: "default", want: here},
	} {
		t.Setenv("DOCKER_HOST", tc.host)
		t.Setenv("DOCKER_CONTEXT", tc.variable)
		e := loadExports[0]
		e.Attrs = map[string]string{"context": tc.option}
		l, err := (&app{}).newLoad(t.Context(), e, &configfile.ConfigFile{CurrentContext: tc.config})
		if err != nil {
			t.Fatalf("%+v: %v", tc, err)
		}
		if host := l.(*engineLoad).engine.Host(); host != tc.want.Host {
			t.Errorf("%+v: %s", tc, host)
		}
		l.kill()
	}
}

// writeContext makes a docker context in a configuration directory of the test's.
func writeContext(t *testing.T, name, host string) {
	t.Helper()
	dir := t.TempDir()
	config.SetDir(dir)
	t.Cleanup(func() { config.SetDir("") })
	meta := filepath.Join(dir, "contexts", "meta", digest.FromString(name).Encoded())
	if err := os.MkdirAll(meta, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"Name": name, "Endpoints": map[string]any{"docker": map[string]any{"Host": host}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(meta, "meta.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}
