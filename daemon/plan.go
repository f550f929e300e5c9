package daemon

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
)

// A client that wants to know what a build would do asks for planRequest and is answered
// with a trace under the same name, encoded in base64 (docs/explain.md).
const planRequest = "dbuild.plan"

// isPlan takes the wish for a plan from the options of a request.
func isPlan(attrs map[string]string) bool {
	if attrs["requestid"] != planRequest {
		return false
	}
	delete(attrs, "requestid")
	return true
}

// errPlanRuns says why a frontend cannot answer within a plan.
func errPlanRuns(what string) error {
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("a plan runs nothing, but %s: build it instead", what))
}

// plan tells what would become of the steps of res.
func (b *build) plan(ctx context.Context, r *request, res *frontend.Result) (map[string]string, error) {
	if err := b.imports.await(ctx); err != nil {
		return nil, err
	}
	var edges []solver.Edge
	for _, out := range results(res) {
		if r, ok := out.(*ref); ok && r != nil && !r.empty {
			edges = append(edges, r.edge)
		}
	}
	fates, err := b.job.Plan(ctx, func(v *solver.Vertex) bool { return !worker.Pulls(v.Op) }, edges...)
	if err != nil {
		return nil, b.locate(err)
	}
	t := b.takeTrace(r, func(v *solver.Vertex) (solver.Fate, bool) {
		f, ok := fates[v]
		return f, ok
	})
	doc, err := t.finish()
	if err != nil {
		return nil, err
	}
	return map[string]string{planRequest: base64.StdEncoding.EncodeToString(doc)}, nil
}

// mayAsk says whether a plan may ask this frontend: one of an image is run.
func (b *build) mayAsk(name string, opts map[string]string) error {
	if !b.planning || name != gatewayFrontend || opts["source"] == dockerfileFrontend {
		return nil
	}
	return errPlanRuns("the frontend " + strings.TrimSpace(opts["source"]) + " is an image that has to be run")
}
