package history

import (
	"crypto/rand"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// maxSpans bounds the spans of one build.
const maxSpans = 10_000

// spans are what a finished build spent its time on: one span for the build and one for
// each time a step was worked on. They are made of its log, when it is over: a build
// pays nothing for them.
func (j *Journal) spans(e *Entry, seen *summary) tracetest.SpanStubs {
	rec := e.record
	scope := instrumentation.Scope{Name: "github.com/dbuild/dbuild/history"}
	root := tracetest.SpanStub{
		Name: "build", SpanContext: newSpan(e.parent.TraceID()), Parent: e.parent, SpanKind: trace.SpanKindServer,
		StartTime: rec.CreatedAt.AsTime(), EndTime: rec.CompletedAt.AsTime(),
		Resource: j.cfg.Resource, InstrumentationScope: scope,
		Attributes: []attribute.KeyValue{
			attribute.String("ref", rec.Ref),
			attribute.Int("steps", int(rec.NumTotalSteps)),
			attribute.Int("steps.cached", int(rec.NumCachedSteps)),
		},
	}
	if rec.Frontend != "" {
		root.Attributes = append(root.Attributes, attribute.String("frontend", rec.Frontend))
	}
	if t := rec.FrontendAttrs["target"]; t != "" {
		root.Attributes = append(root.Attributes, attribute.String("target", t))
	}
	if st := e.outcome.Error; st != nil {
		root.Status.Code, root.Status.Description = codes.Error, st.Message
	}
	out := tracetest.SpanStubs{root}
	for _, d := range seen.order {
		st := seen.steps[d]
		for _, run := range st.runs {
			if len(out) == maxSpans {
				break
			}
			s := tracetest.SpanStub{
				Name: st.last.Name, SpanContext: newSpan(root.SpanContext.TraceID()), Parent: root.SpanContext,
				SpanKind: trace.SpanKindInternal, StartTime: run.started, EndTime: run.completed,
				Resource: j.cfg.Resource, InstrumentationScope: scope,
				Attributes: []attribute.KeyValue{attribute.String("vertex", d), attribute.Bool("cached", st.last.Cached)},
			}
			if run.err != "" {
				s.Status.Code, s.Status.Description = codes.Error, run.err
			}
			out = append(out, s)
		}
	}
	out[0].ChildSpanCount = len(out) - 1
	return out
}

// newSpan is a new sampled span of a trace, or of a new trace if that is zero.
func newSpan(id trace.TraceID) trace.SpanContext {
	var span trace.SpanID
	_, _ = rand.Read(span[:]) // never fails
	if !id.IsValid() {
		_, _ = rand.Read(id[:])
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.FlagsSampled})
}
