package dockerfile

import (
	"bytes"
	"context"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/llb"
)

// requestContext is the subrequest for the build context itself, all of it and without what
// is ignored. Metadata has the digest of the Dockerfile and, of a git repository, the commit.
const (
	requestContext      = "frontend.dbuild.context"
	keyDockerfileDigest = "dbuild.dockerfile.digest"
	keyRevision         = "dbuild.context.vcs.revision"
)

// contextTree answers requestContext.
func (l *loader) contextTree(ctx context.Context) (*frontend.Result, error) {
	out, err := l.mainContext(ctx, func() []string { return nil })
	if err != nil {
		return nil, err
	}
	ref, err := l.solve(ctx, out)
	if err != nil {
		return nil, err
	}
	text := l.data
	if d, err := instruction.DetectDialect(l.data); err == nil && d != instruction.Plain { // it may include others
		if _, err := l.parse(ctx); err != nil {
			return nil, err
		}
		text = bytes.Join(l.texts(), []byte{0})
	}
	res := &frontend.Result{Ref: ref, Metadata: map[string][]byte{
		keyDockerfileDigest: []byte(digest.FromBytes(text)),
	}}
	if l.origin == nil || l.origin.git == nil {
		return res, nil
	}
	revision, err := l.revision(ctx, l.origin.git)
	res.Metadata[keyRevision] = []byte(revision)
	return res, err
}

// revision is the commit that a git reference means in this build.
func (l *loader) revision(ctx context.Context, g *gitRef) (string, error) {
	def, err := marshal(ctx, l.opts.gitSource(g, llb.Meta{}), l.platform)
	if err != nil {
		return "", err
	}
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return "", err
		}
		src := op.GetSource()
		if src == nil {
			continue
		}
		meta, err := l.bridge.ResolveSource(ctx, &gwpb.ResolveSourceMetaRequest{Source: src})
		if err != nil {
			return "", err
		}
		if c := meta.GetGit().GetCommitChecksum(); c != "" {
			return c, nil
		}
		return meta.GetGit().GetChecksum(), nil
	}
	return "", nil
}
