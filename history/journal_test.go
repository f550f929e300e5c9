package history

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/snapshot"
	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// state is a state directory with its database open.
type state struct {
	t     *testing.T
	root  string
	store *snapshot.Store
	*Journal
}

func newState(t *testing.T, cfg Config) *state {
	t.Helper()
	s := &state{t: t, root: t.TempDir()}
	s.open(cfg)
	t.Cleanup(s.close)
	return s
}

func (s *state) open(cfg Config) {
	s.t.Helper()
	var err error
	s.store, err = snapshot.Open(s.t.Context(), snapshot.Config{Root: s.root, Snapshotter: "native"})
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.Root, cfg.DB = filepath.Join(s.root, "history"), s.store
	if cfg.Report == nil {
		cfg.Report = func(err error) { s.t.Errorf("reported: %v", err) }
	}
	if s.Journal, err = Open(cfg); err != nil {
		s.t.Fatal(err)
	}
}

func (s *state) close() {
	s.Journal.Close()
	if err := s.store.Close(); err != nil {
		s.t.Error(err)
	}
}

// reopen is a restart of the daemon.
func (s *state) reopen(cfg Config) {
	s.t.Helper()
	s.close()
	s.open(cfg)
}

// build makes a build that shows so many bytes of output.
func (s *state) build(ref string, output int) {
	s.Start(Request{Ref: ref, Attrs: map[string]string{"target": "app"}}).Finish(Outcome{Log: shows(output)})
}

func shows(output int) iter.Seq[*controlapi.StatusResponse] {
	at := timestamppb.Now()
	return slices.Values([]*controlapi.StatusResponse{
		{Vertexes: []*controlapi.Vertex{{Digest: "sha256:a", Name: "a", Started: at}}},
		{Logs: []*controlapi.VertexLog{{Vertex: "sha256:a", Msg: bytes.Repeat([]byte("x"), output), Timestamp: at}}},
		{Vertexes: []*controlapi.Vertex{
			{Digest: "sha256:a", Name: "a", Started: at, Completed: at},
			{Digest: "sha256:b", Name: "b", Started: at, Completed: at, Cached: true},
			{Digest: "sha256:c", Name: "c"},
		}, Warnings: []*controlapi.VertexWarning{{Vertex: "sha256:a", Short: []byte("w")}}},
	})
}

// list returns what a client sees that asks once.
func (s *state) list(req *controlapi.BuildHistoryRequest) []*controlapi.BuildHistoryEvent {
	s.t.Helper()
	req.EarlyExit = true
	var out []*controlapi.BuildHistoryEvent
	if err := s.Listen(s.t.Context(), req, func(ev *controlapi.BuildHistoryEvent) error {
		out = append(out, ev)
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *state) refs() []string {
	s.t.Helper()
	var out []string
	for _, ev := range s.list(&controlapi.BuildHistoryRequest{}) {
		out = append(out, ev.Record.Ref)
	}
	return out
}

func (s *state) read(d *controlapi.Descriptor) []byte {
	s.t.Helper()
	ra, err := s.ReaderAt(s.t.Context(), digest.Digest(d.Digest))
	if err != nil {
		s.t.Fatal(err)
	}
	defer ra.Close()
	data, err := io.ReadAll(content.NewReader(ra))
	if err != nil {
		s.t.Fatal(err)
	}
	if int64(len(data)) != d.Size || digest.FromBytes(data).String() != d.Digest {
		s.t.Fatalf("blob %s is %d bytes of something else", d.Digest, len(data))
	}
	return data
}

func (s *state) files() int {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.root, "history"))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(entries)
}

func (s *state) flush() {
	s.t.Helper()
	if err := s.store.Flush(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func TestRecordIsWholeOnceABuildHasFinished(t *testing.T) {
	s := newState(t, Config{})
	e := s.Start(Request{Ref: "one", Frontend: "dockerfile.v0", Attrs: map[string]string{"a": "b"}, Exporters: []*controlapi.Exporter{{Type: "image"}}})
	if got := s.list(&controlapi.BuildHistoryRequest{Ref: "one"}); len(got) != 1 || got[0].Type != controlapi.BuildHistoryEventType_STARTED || got[0].Record.CompletedAt != nil {
		t.Fatalf("while it runs: %v", got)
	}
	manifest := []byte(`{"manifest":1}`)
	e.Result(1, ocispec.Descriptor{MediaType: "m", Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}, map[digest.Digest][]byte{digest.FromBytes(manifest): manifest})
	e.Before(func(e *Entry) {
		e.Attest("linux/amd64", ocispec.Descriptor{MediaType: "application/vnd.in-toto+json", Annotations: map[string]string{"k": "v"}}, []byte("prov"))
	})
	e.Finish(Outcome{
		Response: map[string]string{"r": "s"}, Log: shows(10),
		Error: &spb.Status{Code: 2, Message: "it broke", Details: []*anypb.Any{{TypeUrl: "t", Value: []byte("v")}}},
	})
	check := func(when string) {
		t.Helper()
		got := s.list(&controlapi.BuildHistoryRequest{Ref: "one"})
		if len(got) != 1 || got[0].Type != controlapi.BuildHistoryEventType_COMPLETE {
			t.Fatalf("%s: %v", when, got)
		}
		r := got[0].Record
		if r.Frontend != "dockerfile.v0" || r.FrontendAttrs["a"] != "b" || r.Exporters[0].Type != "image" || r.ExporterResponse["r"] != "s" || r.CompletedAt == nil || r.Generation != 1 {
			t.Errorf("%s: record %v", when, r)
		}
		if r.NumTotalSteps != 3 || r.NumCompletedSteps != 2 || r.NumCachedSteps != 1 || r.NumWarnings != 1 {
			t.Errorf("%s: %d steps, %d completed, %d cached, %d warnings", when, r.NumTotalSteps, r.NumCompletedSteps, r.NumCachedSteps, r.NumWarnings)
		}
		if r.Error.Message != "it broke" || len(r.Error.Details) != 0 || !bytes.Contains(s.read(r.ExternalError), []byte("it broke")) {
			t.Errorf("%s: error %v", when, r.Error)
		}
		if string(s.read(r.Result.Results[1])) != string(manifest) || r.Result.ResultDeprecated.Digest != r.Result.Results[1].Digest {
			t.Errorf("%s: result %v", when, r.Result)
		}
		if a := r.Results["linux/amd64"].Attestations; len(a) != 1 || string(s.read(a[0])) != "prov" || a[0].Annotations["k"] != "v" {
			t.Errorf("%s: attestations %v", when, a)
		}
		if n := bytes.Count(s.read(r.Trace), []byte("\n")); n != 3 { // the build, a and b
			t.Errorf("%s: %d spans", when, n)
		}
		var logs int
		if err := s.Status(t.Context(), "one", func(m *controlapi.StatusResponse) error { logs += len(m.Logs); return nil }); err != nil || logs != 1 {
			t.Errorf("%s: %d logs, %v", when, logs, err)
		}
	}
	check("at once")
	s.flush()
	check("from the database")
	s.reopen(Config{})
	check("after a restart")
}

func TestLargeBlobsAreFilesAndGoWithTheirRecord(t *testing.T) {
	s := newState(t, Config{})
	s.build("small", 10)
	s.build("large", 3*maxSmall)
	if err := s.Finalize(t.Context(), "large"); err != nil {
		t.Fatal(err)
	}
	if n := s.files(); n != 1 {
		t.Fatalf("%d files", n)
	}
	s.flush()
	s.reopen(Config{})
	rec, err := s.Record(t.Context(), "large")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.read(rec.Logs)); n < 3*maxSmall {
		t.Fatalf("log of %d bytes", n)
	}
	for _, ref := range []string{"small", "large"} {
		if err := s.Delete(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	if n, infos := s.files(), s.Infos(); n != 0 || len(infos) != 0 {
		t.Errorf("%d files, %v", n, infos)
	}
	s.reopen(Config{})
	if refs := s.refs(); len(refs) != 0 {
		t.Errorf("after a restart there is %v", refs)
	}
}

func TestBlobsSharedByRecordsStayWithTheLast(t *testing.T) {
	s := newState(t, Config{})
	big := bytes.Repeat([]byte("y"), 2*maxSmall)
	for _, ref := range []string{"one", "two"} {
		e := s.Start(Request{Ref: ref})
		e.Attest("", ocispec.Descriptor{}, big)
		e.Attest("", ocispec.Descriptor{}, []byte("little"))
		e.Finish(Outcome{})
	}
	if err := s.Delete(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if err := s.Finalize(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	s.flush()
	rec, err := s.Record(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range rec.Result.Attestations {
		s.read(a)
	}
}

func TestARecordThatLacksAFileIsDropped(t *testing.T) {
	s := newState(t, Config{})
	s.build("good", 10)
	s.build("bad", 3*maxSmall)
	if err := s.Finalize(t.Context(), "bad"); err != nil {
		t.Fatal(err)
	}
	s.close()
	entries, err := os.ReadDir(filepath.Join(s.root, "history"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	if err := os.Remove(filepath.Join(s.root, "history", entries[0].Name())); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.root, "history", "new-123"), []byte("left by a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	var reported []error
	s.open(Config{Report: func(err error) { reported = append(reported, err) }})
	if refs := s.refs(); !slices.Equal(refs, []string{"good"}) || len(reported) != 1 || s.files() != 0 {
		t.Errorf("%v, reported %v, %d files", refs, reported, s.files())
	}
}

func TestRetention(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name string
		cfg  Config
		want []string // of builds a to e, one a day, b pinned; looked at on the day of e
	}{
		{"age and number", Config{MaxAge: 2 * day, MaxEntries: 1}, []string{"b", "d", "e"}},
		{"many", Config{MaxAge: day / 2, MaxEntries: 3}, []string{"b", "c", "d", "e"}},
		{"age", Config{MaxAge: 3*day + day/2}, []string{"b", "c", "d", "e"}},
		{"number", Config{MaxEntries: 2}, []string{"b", "d", "e"}},
		{"neither", Config{}, []string{"a", "b", "c", "d", "e"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newState(t, c.cfg)
				for _, ref := range []string{"a", "b", "c", "d", "e"} {
					s.build(ref, 1)
					if err := s.Finalize(t.Context(), ref); err != nil {
						t.Fatal(err)
					}
					if ref == "b" {
						if err := s.Pin(t.Context(), ref, true); err != nil {
							t.Fatal(err)
						}
					}
					if ref != "e" {
						time.Sleep(day) // of the bubble
					}
				}
				synctest.Wait()
				if got := s.refs(); !slices.Equal(got, c.want) {
					t.Errorf("kept %v, want %v", got, c.want)
				}
			})
		})
	}
}

func TestHistoryThatIsOffKeepsNothingNew(t *testing.T) {
	s := newState(t, Config{})
	s.build("before", 1)
	s.reopen(Config{Off: true})
	s.build("after", 1)
	if refs := s.refs(); !slices.Equal(refs, []string{"before"}) {
		t.Errorf("%v", refs)
	}
	if err := s.Finalize(t.Context(), "after"); err != nil {
		t.Error(err)
	}
}

func TestSpansOfABuildThatIsNotRemembered(t *testing.T) {
	spans := make(chan sdktrace.ReadOnlySpan, 16)
	s := newState(t, Config{Off: true, Spans: func(sp sdktrace.ReadOnlySpan) { spans <- sp }})
	s.build("one", 1)
	root := <-spans
	if root.Name() != "build" || (<-spans).Parent().SpanID() != root.SpanContext().SpanID() {
		t.Errorf("%v", root)
	}
	if refs := s.refs(); len(refs) != 0 {
		t.Errorf("%v", refs)
	}
}

func TestPinAndDelete(t *testing.T) {
	s := newState(t, Config{})
	s.build("one", 1)
	if err := s.Pin(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
	s.flush()
	s.reopen(Config{})
	rec, err := s.Record(t.Context(), "one")
	if err != nil || !rec.Pinned || rec.Generation != 2 {
		t.Fatalf("%v, %v", rec, err)
	}
	s.read(rec.Logs)
	if err := s.Pin(t.Context(), "one", false); err != nil {
		t.Fatal(err)
	}
	if rec, _ := s.Record(t.Context(), "one"); rec.GetPinned() {
		t.Error("still pinned")
	}
	e := s.Start(Request{Ref: "two"})
	if err := s.Delete(t.Context(), "two"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of a running build: %v", err)
	}
	e.Finish(Outcome{})
	for _, ref := range []string{"one", "two"} {
		if err := s.Delete(t.Context(), ref); err != nil {
			t.Error(err)
		}
		if err := s.Delete(t.Context(), ref); !errdefs.IsNotFound(err) {
			t.Errorf("again: %v", err)
		}
		if err := s.Pin(t.Context(), ref, true); !errdefs.IsNotFound(err) {
			t.Errorf("pin: %v", err)
		}
	}
}

func TestARefUsedAgainReplacesItsRecord(t *testing.T) {
	s := newState(t, Config{})
	s.build("one", 1)
	s.build("one", 3*maxSmall)
	s.build("one", 2)
	if err := s.Finalize(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	s.flush()
	rec, err := s.Record(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	s.read(rec.Logs)
	if refs := s.refs(); !slices.Equal(refs, []string{"one"}) || s.files() != 0 {
		t.Errorf("%v, %d files", refs, s.files())
	}
}

func TestListenersSeeWhatHappens(t *testing.T) {
	s := newState(t, Config{})
	s.build("old", 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := make(chan *controlapi.BuildHistoryEvent)
	done := make(chan error, 1)
	go func() {
		done <- s.Listen(ctx, &controlapi.BuildHistoryRequest{}, func(ev *controlapi.BuildHistoryEvent) error {
			events <- ev
			return nil
		})
	}()
	expect := func(kind controlapi.BuildHistoryEventType, ref string) {
		t.Helper()
		if ev := <-events; ev.Type != kind || ev.Record.Ref != ref {
			t.Fatalf("%v, want %v of %s", ev, kind, ref)
		}
	}
	expect(controlapi.BuildHistoryEventType_COMPLETE, "old")
	s.build("new", 1)
	expect(controlapi.BuildHistoryEventType_STARTED, "new")
	expect(controlapi.BuildHistoryEventType_COMPLETE, "new")
	if err := s.Pin(t.Context(), "new", true); err != nil {
		t.Fatal(err)
	}
	expect(controlapi.BuildHistoryEventType_COMPLETE, "new")
	if err := s.Delete(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	expect(controlapi.BuildHistoryEventType_DELETED, "old")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestASlowListenerIsToldSo(t *testing.T) {
	s := newState(t, Config{})
	s.build("first", 1)
	stuck, resume := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.Listen(t.Context(), &controlapi.BuildHistoryRequest{}, func(*controlapi.BuildHistoryEvent) error {
			select {
			case stuck <- struct{}{}:
			case <-resume:
			}
			<-resume
			return nil
		})
	}()
	<-stuck
	for range maxEvents + 1 {
		s.Start(Request{Ref: "many"})
	}
	close(resume)
	if err := <-done; !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
}

func TestABusyDaemonDoesNotKeepAllForItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newState(t, Config{MaxAge: 1000 * time.Hour, MaxEntries: 2})
		for _, ref := range []string{"first", "second", "third", "fourth"} {
			s.build(ref, 1)
			synctest.Wait()
			time.Sleep(time.Second) // of the bubble
			if ref == "first" {
				s.mu.Lock()
				s.rows["first"].digests[0].size = maxBytes // as if it were
				s.mu.Unlock()
			}
		}
		if got := s.refs(); !slices.Equal(got, []string{"second", "third", "fourth"}) {
			t.Errorf("kept %v", got)
		}
	})
}
