package history

import (
	"iter"
	"maps"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/trace"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// An Entry is a build from its start until it is settled. Methods on a nil Entry do
// nothing: that is a build which is not remembered.
type Entry struct {
	j       *Journal
	hidden  bool // only its spans are wanted
	parent  trace.SpanContext
	outcome Outcome       // once finished
	done    chan struct{} // closed when it is settled

	finished bool                           // under the Journal's mu, as what follows
	record   *controlapi.BuildHistoryRecord // not changed after Finish, but by the Journal's goroutine
	blobs    map[digest.Digest][]byte       // that the record refers to
	before   []func(*Entry)
}

// A Request is what a build was asked to do.
type Request struct {
	Ref       string
	Frontend  string
	Attrs     map[string]string
	Exporters []*controlapi.Exporter
	Parent    trace.SpanContext // of the client's span, if it has one
}

// An Outcome is how a build ended.
type Outcome struct {
	Response map[string]string
	Error    *spb.Status // with its details; nil if it succeeded
	// Log is all that the build showed. It is read once, later, by another goroutine.
	Log iter.Seq[*controlapi.StatusResponse]
}

// Start makes the build known as running.
func (j *Journal) Start(r Request) *Entry {
	if len(r.Ref) > maxRef || r.Ref == "" || j.cfg.Off && j.cfg.Spans == nil {
		return nil
	}
	e := &Entry{
		j: j, hidden: j.cfg.Off, parent: r.Parent, done: make(chan struct{}),
		record: &controlapi.BuildHistoryRecord{
			Ref: r.Ref, Frontend: r.Frontend, FrontendAttrs: maps.Clone(r.Attrs), CreatedAt: timestamppb.Now(),
		},
		blobs: map[digest.Digest][]byte{},
	}
	for _, x := range r.Exporters {
		e.record.Exporters = append(e.record.Exporters, x.CloneVT())
	}
	if e.hidden {
		return e
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.active[r.Ref] = e
	j.tell(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_STARTED, Record: e.record.CloneVT()})
	return e
}

// Result adds what an exporter made: an image, and the documents it consists of.
func (e *Entry) Result(exporter int, d ocispec.Descriptor, documents map[digest.Digest][]byte) {
	if e == nil {
		return
	}
	e.j.mu.Lock()
	defer e.j.mu.Unlock()
	info := e.result("")
	if info.Results == nil {
		info.Results = map[int64]*controlapi.Descriptor{}
	}
	info.Results[int64(exporter)] = descriptor(d)
	if info.ResultDeprecated == nil {
		info.ResultDeprecated = descriptor(d)
	}
	maps.Copy(e.blobs, documents)
}

// Attest adds an attestation of the result, or if platform is not empty, of its part for
// that platform. d needs its media type and annotations only.
func (e *Entry) Attest(platform string, d ocispec.Descriptor, blob []byte) {
	if e == nil {
		return
	}
	d.Digest, d.Size = digest.FromBytes(blob), int64(len(blob))
	e.j.mu.Lock()
	defer e.j.mu.Unlock()
	info := e.result(platform)
	info.Attestations = append(info.Attestations, descriptor(d))
	e.blobs[d.Digest] = blob
}

// Before has fn called when the build has finished and before its record is written: for
// what is worth remembering but nobody should wait for.
func (e *Entry) Before(fn func(*Entry)) {
	if e == nil {
		return
	}
	e.j.mu.Lock()
	defer e.j.mu.Unlock()
	e.before = append(e.before, fn)
}

// result is the part of the record about a platform, or about the whole. j.mu is held.
func (e *Entry) result(platform string) *controlapi.BuildResultInfo {
	r := e.record
	if r.Result == nil {
		r.Result = &controlapi.BuildResultInfo{}
	}
	if platform == "" {
		return r.Result
	}
	if r.Results == nil {
		r.Results = map[string]*controlapi.BuildResultInfo{}
	}
	if r.Results[platform] == nil {
		r.Results[platform] = &controlapi.BuildResultInfo{}
	}
	return r.Results[platform]
}

// Finish says how the build ended. It returns at once, unless very many builds finish at
// the same time.
func (e *Entry) Finish(o Outcome) {
	if e == nil {
		return
	}
	e.j.mu.Lock()
	if e.finished {
		e.j.mu.Unlock()
		return
	}
	e.finished = true
	e.outcome = o
	e.record.CompletedAt = timestamppb.New(time.Now())
	e.j.mu.Unlock()
	e.j.finished <- e
}

func descriptor(d ocispec.Descriptor) *controlapi.Descriptor {
	return &controlapi.Descriptor{
		MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: maps.Clone(d.Annotations),
	}
}
