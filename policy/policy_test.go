package policy_test

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/policy"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	alpine  = "docker-image://docker.io/library/alpine:latest"
	busybox = "docker-image://docker.io/library/busybox:latest"
	debian  = "docker-image://docker.io/library/debian:latest"
)

func allow(id string) *spb.Rule { return &spb.Rule{Selector: &spb.Selector{Identifier: id}} }

func deny(id string) *spb.Rule {
	return &spb.Rule{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: id}}
}

func convert(from, to string, attrs ...string) *spb.Rule {
	r := &spb.Rule{Action: spb.PolicyAction_CONVERT, Selector: &spb.Selector{Identifier: from}, Updates: &spb.Update{Identifier: to}}
	for i := 0; i < len(attrs); i += 2 {
		if r.Updates.Attrs == nil {
			r.Updates.Attrs = map[string]string{}
		}
		r.Updates.Attrs[attrs[i]] = attrs[i+1]
	}
	return r
}

func matching(r *spb.Rule, kind spb.MatchType, c ...*spb.AttrConstraint) *spb.Rule {
	r.Selector.MatchType, r.Selector.Constraints = kind, c
	return r
}

func rules(r ...*spb.Rule) []*spb.Policy { return []*spb.Policy{{Version: 1, Rules: r}} }

func constraint(key, value string, c spb.AttrMatch) *spb.AttrConstraint {
	return &spb.AttrConstraint{Key: key, Value: value, Condition: c}
}

func TestRules(t *testing.T) {
	const denied, failed = "denied", "failed"
	exact, regex, wild := spb.MatchType_EXACT, spb.MatchType_REGEX, spb.MatchType_WILDCARD
	for name, tc := range map[string]struct {
		policies []*spb.Policy
		source   string
		attrs    map[string]string
		want     string // the identifier, denied or failed
		wantAttr map[string]string
	}{
		"no rule":                       {policies: rules(deny(busybox)), source: alpine, want: alpine},
		"the last rule wins":            {policies: rules(allow(alpine), deny(alpine), allow(alpine)), source: alpine, want: alpine},
		"one list is enough to deny":    {policies: append(rules(deny(alpine)), rules(allow(alpine))...), source: alpine, want: denied},
		"deny everything":               {policies: rules(deny("*")), source: "https://x/y", want: denied},
		"a star is any text":            {policies: rules(deny("docker-image://docker.io/*:latest")), source: alpine, want: denied},
		"a star only":                   {policies: rules(deny("docker-image://docker.io/library/[a]lpine:latest")), source: alpine, want: alpine},
		"exact":                         {policies: rules(matching(deny("docker-image://docker.io/*"), exact)), source: alpine, want: alpine},
		"regex":                         {policies: rules(matching(deny(`^docker-image://.*alpine`), regex)), source: alpine, want: denied},
		"short names are written out":   {policies: rules(deny(alpine)), source: "docker-image://alpine", want: denied},
		"git paths are cleaned":         {policies: rules(matching(deny("git://h/r.git#main:a/b"), exact)), source: "git://h/r.git#main:../a//b", want: denied},
		"convert":                       {policies: rules(convert(alpine, busybox)), source: alpine, want: busybox},
		"convert comes before deny":     {policies: rules(deny("*"), allow(busybox+"*"), convert(alpine, busybox)), source: alpine, want: busybox},
		"what is made is judged":        {policies: rules(deny(busybox), convert(alpine, busybox)), source: alpine, want: denied},
		"convert again":                 {policies: rules(convert(alpine, busybox), convert(busybox, debian)), source: alpine, want: debian},
		"convert across lists":          {policies: append(rules(convert(busybox, debian)), rules(convert(alpine, busybox))...), source: alpine, want: debian},
		"convert in circles":            {policies: rules(convert(alpine, busybox), convert(busybox, alpine)), source: alpine, want: failed},
		"all matches are replaced":      {policies: rules(matching(convert(`[ai](n|b)`, "$1${1}$$"), regex)), source: alpine, want: "docker-image://docker.io/lbb$rary/alpnn$e:latest"},
		"convert to itself":             {policies: rules(convert(alpine, alpine)), source: alpine, want: alpine},
		"convert with a star":           {policies: rules(matching(convert("docker-image://docker.io/library/*:*", "docker-image://mirror/${1}:v${2}"), wild)), source: alpine, want: "docker-image://mirror/alpine:vlatest"},
		"convert with a regex":          {policies: rules(matching(convert(`docker-image://docker\.io/(.*)`, "docker-image://mirror.io/$1"), regex)), source: alpine, want: "docker-image://mirror.io/library/alpine:latest"},
		"convert attributes":            {policies: rules(convert("https://x/*", "", "http.checksum", "c")), source: "https://x/y", attrs: map[string]string{"http.uid": "1"}, want: "https://x/y", wantAttr: map[string]string{"http.uid": "1", "http.checksum": "c"}},
		"constraint":                    {policies: rules(matching(deny("*"), wild, constraint("k", "v", spb.AttrMatch_EQUAL))), source: alpine, attrs: map[string]string{"k": "v"}, want: denied},
		"other value":                   {policies: rules(matching(deny("*"), wild, constraint("k", "v", spb.AttrMatch_EQUAL))), source: alpine, attrs: map[string]string{"k": "w"}, want: alpine},
		"no value":                      {policies: rules(matching(deny("*"), wild, constraint("k", "", spb.AttrMatch_EQUAL))), source: alpine, want: alpine},
		"not equal":                     {policies: rules(matching(deny("*"), wild, constraint("k", "v", spb.AttrMatch_NOTEQUAL))), source: alpine, attrs: map[string]string{"k": "w"}, want: denied},
		"equal after all":               {policies: rules(matching(deny("*"), wild, constraint("k", "v", spb.AttrMatch_NOTEQUAL))), source: alpine, attrs: map[string]string{"k": "v"}, want: alpine},
		"value matches":                 {policies: rules(matching(deny("*"), wild, constraint("k", `\d$`, spb.AttrMatch_MATCHES))), source: alpine, attrs: map[string]string{"k": "b1"}, want: denied},
		"value does not match":          {policies: rules(matching(deny("*"), wild, constraint("k", `^\d+$`, spb.AttrMatch_MATCHES))), source: alpine, attrs: map[string]string{"k": "b1"}, want: alpine},
		"one constraint of two":         {policies: rules(matching(deny("*"), wild, constraint("k", "v", 0), constraint("l", "w", 0))), source: alpine, attrs: map[string]string{"k": "v"}, want: alpine},
		"the bundle of a repository":    {policies: rules(deny("docker-image+blob://*")), source: "git://h/r", attrs: map[string]string{"git.bundle": "docker-image+blob://r/b@sha256:1"}, want: denied},
		"the store of a bundle":         {policies: rules(matching(deny("*"), wild, constraint("oci.store", "a/b", 0))), source: "git://h/r", attrs: map[string]string{"git.bundle": "oci-layout+blob://a/b@sha256:1"}, want: denied},
		"another bundle":                {policies: rules(convert("docker-image+blob://r/*", "docker-image+blob://s/$1")), source: "git://h/r", attrs: map[string]string{"git.bundle": "docker-image+blob://r/b@x"}, want: "git://h/r", wantAttr: map[string]string{"git.bundle": "docker-image+blob://s/b@x"}},
		"a bundle of what is no repo":   {policies: rules(deny("docker-image+blob://*")), source: alpine, attrs: map[string]string{"git.bundle": "docker-image+blob://r/b@sha256:1"}, want: alpine},
		"no policy":                     {source: alpine, want: alpine},
		"passwords are nobody's affair": {policies: rules(deny("*")), source: "https://me:hunter2@x/y", want: denied},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.New(tc.policies, nil)
			if err != nil {
				t.Fatal(err)
			}
			op := &pb.SourceOp{Identifier: tc.source, Attrs: tc.attrs}
			before := op.CloneVT()
			got, err := p.Source(t.Context(), op, nil)
			if op.Identifier != before.Identifier || !maps.Equal(op.Attrs, before.Attrs) {
				t.Errorf("the op was changed: %v", op)
			}
			switch tc.want {
			case denied:
				if !errors.Is(err, policy.ErrDenied) || !errdefs.IsPermissionDenied(err) || strings.Contains(err.Error(), "hunter2") {
					t.Fatalf("got %v, %v", got, err)
				}
			case failed:
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "too many") {
					t.Fatalf("got %v, %v", got, err)
				}
			default:
				if err != nil || got.Identifier != tc.want || tc.wantAttr != nil && !maps.Equal(got.Attrs, tc.wantAttr) {
					t.Fatalf("got %v, %v", got, err)
				}
			}
		})
	}
}

func TestInvalidPolicies(t *testing.T) {
	for want, r := range map[string]*spb.Rule{
		"is empty":                                nil,
		"invalid nil selector in policy":          {Action: spb.PolicyAction_CONVERT},
		"unknown type of action":                  {Action: 9000, Selector: &spb.Selector{}},
		"missing destination for convert rule":    {Action: spb.PolicyAction_CONVERT, Selector: &spb.Selector{}},
		"unknown type of match":                   matching(deny("x"), 7),
		"error parsing regexp":                    matching(deny("("), spb.MatchType_REGEX),
		"k: error parsing regexp":                 matching(deny("x"), 0, constraint("k", "(", spb.AttrMatch_MATCHES)),
		"constraint of k: unknown type of condit": matching(deny("x"), 0, constraint("k", "v", -1)),
		"constraint of : unknown type":            matching(deny("x"), 0, &spb.AttrConstraint{Condition: 9}),
	} {
		if _, err := policy.New(rules(r), nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if p, err := policy.New([]*spb.Policy{nil, {}}, nil); p != nil || err != nil {
		t.Errorf("no rules: got %v, %v", p, err)
	}
}

// asked is a client that gives these answers, one after the other, and what it was asked.
type asked struct {
	answers []*policysession.CheckPolicyResponse
	sources []*gwpb.ResolveSourceMetaResponse
}

func (a *asked) verifier() *policy.Verifier {
	return &policy.Verifier{
		Platform: &pb.Platform{OS: "linux", Architecture: "amd64"},
		Check: func(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
			if req.Platform.GetOS() != "linux" {
				return nil, errors.New("no platform")
			}
			a.sources = append(a.sources, req.Source)
			return a.answers[min(len(a.sources), len(a.answers))-1], nil
		},
		Resolve: func(_ context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
			return &gwpb.ResolveSourceMetaResponse{Image: &gwpb.ResolveSourceImageResponse{Digest: "d of " + req.Source.Identifier}}, nil
		},
	}
}

func decision(d *policysession.DecisionResponse) *policysession.CheckPolicyResponse {
	return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Decision{Decision: d}}
}

func question(id string) *policysession.CheckPolicyResponse {
	return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Request{Request: &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: id}}}}
}

func to(id string) *policysession.CheckPolicyResponse {
	return decision(&policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT, Update: &pb.SourceOp{Identifier: id}})
}

func TestClientDecides(t *testing.T) {
	yes := decision(&policysession.DecisionResponse{})
	no := decision(&policysession.DecisionResponse{Action: spb.PolicyAction_DENY, DenyMessages: []*policysession.DenyMessage{{Message: "because"}, nil}})
	for name, tc := range map[string]struct {
		answers []*policysession.CheckPolicyResponse
		rules   []*spb.Policy
		want    string // the identifier
		err     string
		asked   int
	}{
		"allowed":            {answers: []*policysession.CheckPolicyResponse{yes}, want: alpine, asked: 1},
		"denied":             {answers: []*policysession.CheckPolicyResponse{no}, err: "not allowed by policy: because", asked: 1},
		"wants to know":      {answers: []*policysession.CheckPolicyResponse{question(alpine), yes}, want: alpine, asked: 2},
		"another source":     {answers: []*policysession.CheckPolicyResponse{question(busybox), yes}, err: "asks about another source", asked: 1},
		"converts":           {answers: []*policysession.CheckPolicyResponse{to(busybox), yes}, want: busybox, asked: 2},
		"converts for ever":  {answers: []*policysession.CheckPolicyResponse{to(alpine)}, err: "too many policy requests", asked: 10},
		"converts to naught": {answers: []*policysession.CheckPolicyResponse{to("")}, err: "without saying to what", asked: 1},
		"says nothing":       {answers: []*policysession.CheckPolicyResponse{{}}, err: "no answer", asked: 1},
		"unknown action":     {answers: []*policysession.CheckPolicyResponse{decision(&policysession.DecisionResponse{Action: 9})}, err: "unknown action", asked: 1},
		"no decision":        {answers: []*policysession.CheckPolicyResponse{decision(nil)}, want: alpine, asked: 1},
		"rules come first":   {answers: []*policysession.CheckPolicyResponse{yes}, rules: rules(deny(alpine)), err: "denied by policy"},
		"rules come last":    {answers: []*policysession.CheckPolicyResponse{to(busybox), yes}, rules: rules(deny(busybox)), err: "denied by policy", asked: 2},
		"rules convert back": {answers: []*policysession.CheckPolicyResponse{to(busybox), yes}, rules: rules(convert(busybox, debian)), err: "in different ways", asked: 2},
	} {
		t.Run(name, func(t *testing.T) {
			a := &asked{answers: tc.answers}
			p, err := policy.New(tc.rules, a.verifier())
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.Source(t.Context(), &pb.SourceOp{Identifier: alpine}, nil)
			if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) || tc.err == "" && (err != nil || got.Identifier != tc.want) {
				t.Errorf("got %v, %v", got, err)
			}
			if len(a.sources) != tc.asked {
				t.Errorf("asked %d times, want %d", len(a.sources), tc.asked)
			}
			if name == "wants to know" && (a.sources[0].Image != nil || a.sources[1].Image.Digest != "d of "+alpine || a.sources[1].Source.Identifier != alpine) {
				t.Errorf("was told %v", a.sources)
			}
			if name == "denied" && len(policysession.DenyMessages(err)) != 2 {
				t.Errorf("the reasons are lost: %v", err)
			}
		})
	}
}

// A graph is rewritten from its sources on; names and places stay where they were.
func TestGraph(t *testing.T) {
	ctx := t.Context()
	platform := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	file := &pb.SourceInfo{Filename: "f"}
	at := func(line int32) []*llb.SourceLocation {
		return []*llb.SourceLocation{{File: file, Ranges: []*pb.Range{{Start: &pb.Position{Line: line}}}}}
	}
	img := llb.Image("alpine", llb.ImageOptions{}, llb.Meta{Name: "FROM", Locations: at(1)})
	same := llb.Image("busybox", llb.ImageOptions{}, llb.Meta{Name: "COPY"})
	out := llb.File(img, []llb.FileAction{llb.Copy{From: same, Src: "/a", Dest: "/b", Mode: llb.KeepMode}}, llb.Meta{Name: "copy", Locations: at(2)})
	def, err := llb.Marshal(ctx, out, platform)
	if err != nil {
		t.Fatal(err)
	}
	g, err := llb.Load(def, llb.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(rules(convert(alpine, busybox)), nil)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := p.Graph(ctx, g, def)
	if err != nil {
		t.Fatal(err)
	}
	got, err := llb.Load(changed, llb.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Vertices) != 2 { // the sources have become one
		t.Fatalf("got %d operations", len(got.Vertices))
	}
	src, cp := got.Vertices[0], got.Root.Vertex
	if src.Op.GetSource().Identifier != busybox || src.Op.Platform.GetArchitecture() != "amd64" || src.Locations[0].Ranges[0].Start.Line != 1 {
		t.Errorf("source: %v at %v", src.Op, src.Locations)
	}
	if cp.Inputs[0].Vertex != src || cp.Inputs[1].Vertex != src || cp.Meta.Description["llb.customname"] != "copy" || cp.Locations[0].Ranges[0].Start.Line != 2 {
		t.Errorf("copy: %v, %v", cp.Op, cp.Meta)
	}
	if same, err := p.Graph(ctx, got, changed); err != nil || same != changed {
		t.Errorf("nothing to change: %v", err)
	}
	p, err = policy.New(rules(deny(busybox)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Graph(ctx, g, def); !errors.Is(err, policy.ErrDenied) {
		t.Errorf("got %v", err)
	}
}

// A destination may repeat what was matched, and there may be many matches; what a source is
// called stays short, and nothing long is made on the way.
func TestLongConversions(t *testing.T) {
	for name, tc := range map[string]struct {
		match, to, source string
		want              string
	}{
		"one match repeated":     {".+", strings.Repeat("$0", 1<<20), alpine, "too often"},
		"a long match repeated":  {".+", strings.Repeat("$0", 1<<10), "https://" + strings.Repeat("x", 1<<20), "too often"},
		"many matches":           {".", "${0}" + strings.Repeat("y", 100), alpine, "bytes"},
		"many matches of naught": {"", strings.Repeat("y", 4000), alpine, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.New(rules(matching(convert(tc.match, tc.to), spb.MatchType_REGEX)), nil)
			if err != nil {
				t.Fatal(err)
			}
			op := &pb.SourceOp{Identifier: tc.source}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = p.Source(t.Context(), op, nil)
			runtime.ReadMemStats(&after)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want an error about %q", err, tc.want)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
				t.Errorf("took %d bytes of memory", used)
			}
		})
	}
}
