package daemon

import (
	"context"
	"sync"

	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/llb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
)

// A question is what was asked of a frontend, or of the builder itself by a client that
// makes its own graphs. It remembers what was made on the way to the answer: the answer's
// provenance tells of all of it.
type question struct {
	b       *build
	request *provenance.Request

	mu   sync.Mutex
	refs []*ref
}

// asked is the Bridge of whoever answers a question.
type asked struct {
	frontend.Bridge
	*question
}

// bridge is the build as those who answer q see it.
func (q *question) bridge() frontend.Bridge { return asked{q.b, q} }

// Solve implements frontend.Bridge.
func (a asked) Solve(ctx context.Context, def *pb.Definition) (frontend.Ref, error) {
	out, err := a.Bridge.Solve(ctx, def)
	if err != nil {
		return nil, err
	}
	r := out.(*ref)
	r.asked = a.question
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refs = append(a.refs, r)
	return r, nil
}

// WithPolicies implements frontend.Bridge.
func (a asked) WithPolicies(more []*spb.Policy) (frontend.Bridge, error) {
	b, err := a.Bridge.WithPolicies(more)
	if err != nil {
		return nil, err
	}
	return asked{b, a.question}, nil
}

// ask begins a question to the frontend with this name; "" is the builder itself.
func (b *build) ask(name string, opts map[string]string, inputs map[string]*pb.Definition) *question {
	if name == gatewayFrontend && opts["source"] == dockerfileFrontend {
		name = dockerfileFrontend // the builder's own, although asked for like another
	}
	b.noteMountSpace(opts)
	q := &question{b: b, request: &provenance.Request{Frontend: name, Args: opts, Compatibility: b.compatibility}}
	for k, def := range inputs {
		if from := b.d.askedFor(b, def); from != nil {
			if q.request.Inputs == nil {
				q.request.Inputs = map[string]*provenance.Request{}
			}
			q.request.Inputs[k] = from
		}
	}
	return q
}

// answered remembers whose answer the refs of res are, in case that they become the input
// of another question.
func (q *question) answered(res *frontend.Result) {
	q.b.mu.Lock()
	defer q.b.mu.Unlock()
	q.b.answer = q
	for _, out := range results(res) {
		if r, ok := out.(*ref); ok && r.graph.Root.Vertex != nil {
			from := q.request
			if r.asked != nil { // one frontend may have asked another
				from = r.asked.request
			}
			q.b.answers[edgeOf(r.graph)] = from
		}
	}
}

// An answerID names the output of a graph that an answer consists of.
type answerID struct {
	vertex digest.Digest
	output int
}

func edgeOf(g *llb.Graph) answerID { return answerID{g.Root.Vertex.Digest, g.Root.Output} }

// askedFor returns what question a definition is the answer of, in this build or another
// that is still open, or nil.
func (d *Daemon) askedFor(b *build, def *pb.Definition) *provenance.Request {
	n := len(def.GetDef())
	if n == 0 {
		return nil
	}
	last := &pb.Op{}
	if err := last.UnmarshalVT(def.Def[n-1]); err != nil || len(last.Inputs) != 1 || last.Inputs[0] == nil {
		return nil // whoever uses it will say what is wrong
	}
	id := answerID{digest.Digest(last.Inputs[0].Digest), int(last.Inputs[0].Index)}
	d.mu.Lock()
	builds := []*build{b}
	for _, other := range d.builds {
		builds = append(builds, other)
	}
	d.mu.Unlock()
	for _, from := range builds {
		from.mu.Lock()
		r := from.answers[id]
		from.mu.Unlock()
		if r != nil {
			return r
		}
	}
	return nil
}
