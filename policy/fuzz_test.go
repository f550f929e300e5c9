package policy_test

import (
	"context"
	"testing"

	"github.com/dbuild/dbuild/policy"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"google.golang.org/protobuf/proto"
)

// Whatever rules a client sends, whatever its policy program answers and whatever the source
// is, there is a decision.
func FuzzPolicy(f *testing.F) {
	add := func(op *pb.SourceOp, p *spb.Policy, r *policysession.CheckPolicyResponse) {
		var seed [3][]byte
		for i, m := range []proto.Message{op, p, r} {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			seed[i] = b
		}
		f.Add(seed[0], seed[1], seed[2])
	}
	git := &pb.SourceOp{Identifier: "git://h/r#x:../y", Attrs: map[string]string{"git.bundle": "oci-layout+blob://x@y"}}
	add(&pb.SourceOp{Identifier: alpine}, rules(convert("*", "docker-image://x/${1}"), deny("*"))[0], to(busybox))
	add(git, rules(matching(convert("(.*)", "$1$1"), spb.MatchType_REGEX))[0], question(alpine))
	add(git, &spb.Policy{}, decision(&policysession.DecisionResponse{Action: spb.PolicyAction_DENY, DenyMessages: []*policysession.DenyMessage{{}}}))
	add(&pb.SourceOp{}, &spb.Policy{}, &policysession.CheckPolicyResponse{})
	f.Fuzz(func(t *testing.T, op, rules, answer []byte) {
		src, pol, resp := &pb.SourceOp{}, &spb.Policy{}, &policysession.CheckPolicyResponse{}
		if proto.Unmarshal(op, src) != nil || proto.Unmarshal(rules, pol) != nil || proto.Unmarshal(answer, resp) != nil {
			return
		}
		p, err := policy.New([]*spb.Policy{pol}, &policy.Verifier{
			Check: func(context.Context, *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error) {
				return resp, nil
			},
			Resolve: func(context.Context, *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
				return &gwpb.ResolveSourceMetaResponse{}, nil
			},
		})
		if err != nil {
			return
		}
		if got, err := p.Source(t.Context(), src, nil); err == nil && got == nil {
			t.Fatal("no decision")
		}
	})
}
