package worker

import (
	"context"
	"strings"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/worker/fileop"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
)

// copyTree writes a synced directory into a draft, linking its files.
func copyTree(ctx context.Context, draft *snapshot.Draft, r *TreeRef) error {
	all := &pb.FileAction{Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{
		Src: "/", Dest: "/", Mode: -1, Timestamp: -1, DirCopyContents: true, CreateDestPath: true,
	}}}
	return fileop.Run(ctx, fileop.NewDest(draft.Upper(), nil), all, fileop.Options{Source: r.tree, Link: draft.Links(nil).May})
}

// ignoredBy returns the pattern that kept a path out of the directory, or "".
func (r *TreeRef) ignoredBy(name string) string {
	name = strings.TrimPrefix(name, "/")
	last := ""
	for _, p := range r.excludes {
		m, err := patternmatcher.New([]string{strings.TrimPrefix(p, "!")})
		if err != nil {
			continue
		}
		if ok, err := m.MatchesOrParentMatches(name); err != nil || !ok {
			continue
		}
		last = p
		if strings.HasPrefix(p, "!") {
			last = ""
		}
	}
	return last
}
