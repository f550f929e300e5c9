package dockerfile

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"google.golang.org/grpc/status"

	"github.com/dbuild/dbuild/frontend"
)

// gatewayFrontend is the frontend that runs images.
const gatewayFrontend = "gateway.v0"

// optSyntax is the build arg by which a user chooses the frontend.
const optSyntax = "build-arg:BUILDKIT_SYNTAX"

// Builtin reports whether a syntax is that of this package, so that nothing needs to be
// pulled: "dockerfile.v0" and the stable releases of docker/dockerfile.
func Builtin(ref string) bool {
	if ref == "dockerfile.v0" {
		return true
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(ref, "docker.io/"), "@")
	name, tag, _ := strings.Cut(name, ":")
	return name == "docker/dockerfile" && !strings.Contains(tag, "labs")
}

// A syntax is another frontend that is asked for.
type syntax struct {
	source  string         // its image
	cmdline string         // the whole of the request for it
	at      []parser.Range // the directive in the Dockerfile; nil: the user asked for it
}

// syntax finds out whether another frontend is asked for.
func (l *loader) syntax() (syntax, bool) {
	if _, ok := l.opts.raw["cmdline"]; ok {
		return syntax{}, false // whoever came here obeyed the directive
	}
	if v, ok := l.opts.raw[optSyntax]; ok {
		source, _, _ := strings.Cut(strings.TrimSpace(v), " ")
		return syntax{source: source, cmdline: v}, !Builtin(source)
	}
	source, cmdline, at, ok := parser.DetectSyntax(l.data)
	if len(at) > 0 && at[0].Start.Line == 0 { // JSON, of which the parser counts from 0
		at[0].Start.Line, at[0].End.Line = 1, 1
	}
	return syntax{source, cmdline, at}, ok && !Builtin(source)
}

// forward lets the frontend that is asked for answer the request.
func (l *loader) forward(ctx context.Context, req *frontend.Request, s syntax) (*frontend.Result, error) {
	opts := maps.Clone(req.Opts)
	if opts == nil {
		opts = map[string]string{}
	}
	opts["source"], opts["cmdline"] = s.source, s.cmdline
	res, err := l.bridge.SolveFrontend(ctx, gatewayFrontend, &frontend.Request{Opts: opts, Inputs: req.Inputs})
	switch {
	case err == nil || located(err):
		return res, err
	case s.at == nil:
		return nil, fmt.Errorf("frontend of BUILDKIT_SYNTAX=%s: %w", s.cmdline, err)
	}
	return nil, parser.WithLocation(err, s.at)
}

// located reports whether err says where in a source it comes from, perhaps in a form that
// only clients decode.
func located(err error) bool {
	if len(errdefs.Sources(err)) > 0 {
		return true
	}
	st, _ := status.FromError(err)
	for _, d := range st.Proto().GetDetails() {
		if strings.HasSuffix(d.GetTypeUrl(), "errdefs.Source+json") {
			return true
		}
	}
	return false
}
