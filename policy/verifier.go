package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"google.golang.org/protobuf/proto"
)

// maxQuestions is how often the client is asked about one source.
const maxQuestions = 10

// A Verifier is a program in the client that decides about sources.
type Verifier struct {
	// Check asks the client.
	Check func(context.Context, *policysession.CheckPolicyRequest) (*policysession.CheckPolicyResponse, error)
	// Resolve finds out what the client wants to know about a source.
	Resolve func(context.Context, *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error)
	// Platform is that of sources that have none of their own.
	Platform *pb.Platform
	// Caps are the capabilities of the daemon.
	Caps map[string]bool
}

// decide asks until the client has decided and returns what it made of the source.
func (v *Verifier) decide(ctx context.Context, op *pb.SourceOp, platform *pb.Platform) (*pb.SourceOp, error) {
	if platform == nil {
		platform = v.Platform
	}
	known := &gwpb.ResolveSourceMetaResponse{Source: canonicalOp(op)}
	for range maxQuestions {
		resp, err := v.Check(ctx, &policysession.CheckPolicyRequest{Platform: platform, Source: known, Caps: v.Caps})
		if err != nil {
			return nil, fmt.Errorf("source %q: the client's policy: %w", Shown(op.Identifier), err)
		}
		switch r := resp.GetResult().(type) {
		case *policysession.CheckPolicyResponse_Decision:
			switch r.Decision.GetAction() {
			case spb.PolicyAction_ALLOW:
				return op, nil
			case spb.PolicyAction_DENY:
				return nil, denied(op, r.Decision.GetDenyMessages())
			case spb.PolicyAction_CONVERT:
				if r.Decision.GetUpdate().GetIdentifier() == "" {
					return nil, fmt.Errorf("source %q: the client's policy converts it without saying to what: %w", Shown(op.Identifier), errdefs.ErrInvalidArgument)
				}
				op = r.Decision.Update
				known = &gwpb.ResolveSourceMetaResponse{Source: canonicalOp(op)}
			default:
				return nil, fmt.Errorf("source %q: the client's policy answered with the unknown action %d: %w", Shown(op.Identifier), r.Decision.GetAction(), errdefs.ErrInvalidArgument)
			}
		case *policysession.CheckPolicyResponse_Request:
			if known, err = v.resolve(ctx, op, platform, r.Request); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("source %q: the client's policy gave no answer: %w", Shown(op.Identifier), errdefs.ErrInvalidArgument)
		}
	}
	return nil, fmt.Errorf("source %q: too many policy requests: the client's policy did not decide after %d: %w", Shown(op.Identifier), maxQuestions, errdefs.ErrFailedPrecondition)
}

// canonicalOp is op with its identifier as rules see it.
func canonicalOp(op *pb.SourceOp) *pb.SourceOp {
	out := proto.CloneOf(op)
	out.Identifier = canonical(op.Identifier)
	return out
}

// resolve answers a question of the client about the source it decides about.
func (v *Verifier) resolve(ctx context.Context, op *pb.SourceOp, platform *pb.Platform, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	if id := req.GetSource().GetIdentifier(); id != "" && canonical(id) != canonical(op.Identifier) {
		return nil, fmt.Errorf("source %q: the client's policy asks about another source, %q: %w", Shown(op.Identifier), Shown(id), errdefs.ErrInvalidArgument)
	}
	req = proto.CloneOf(req)
	req.Source, req.SourcePolicies = op, nil
	if req.Platform == nil {
		req.Platform = platform
	}
	resp, err := v.Resolve(ctx, req)
	if err != nil {
		return nil, err
	}
	resp.Source = canonicalOp(op)
	return resp, nil
}

// denied is the error for a source that the client refuses, with its reasons as a payload.
func denied(op *pb.SourceOp, messages []*policysession.DenyMessage) error {
	text := fmt.Sprintf("source %q not allowed by policy", Shown(canonical(op.Identifier)))
	var why []string
	for _, m := range messages {
		why = append(why, m.GetMessage())
	}
	if why = slices.DeleteFunc(why, func(s string) bool { return s == "" }); len(why) > 0 {
		text += ": " + strings.Join(why, "; ")
	}
	return policysession.WrapDenyMessages(errdefs.ErrPermissionDenied.WithMessage(text), messages)
}
