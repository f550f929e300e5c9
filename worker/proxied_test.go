package worker

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/worker/runc"
	"github.com/moby/buildkit/solver/pb"
)

func TestRequestsAreJudgedAsSources(t *testing.T) {
	denied := errors.New("denied")
	judge := JudgeRequests(func(_ context.Context, op *pb.SourceOp) (*pb.SourceOp, error) {
		switch op.Identifier {
		case "https://x/denied":
			return nil, denied
		case "https://x/moved":
			return &pb.SourceOp{Identifier: "https://y/z"}, nil
		case "https://x/checked":
			return &pb.SourceOp{Identifier: op.Identifier, Attrs: map[string]string{pb.AttrHTTPChecksum: "sha256:0"}}, nil
		case "https://x/elsewhere":
			return &pb.SourceOp{Identifier: "docker-image://y"}, nil
		}
		return op, nil
	})
	for _, c := range []struct{ method, url, want, err string }{
		{"POST", "https://me:secret@x/kept", "https://me:secret@x/kept", ""},
		{"GET", "https://me:secret@x/moved", "https://y/z", ""},
		{"POST", "https://x/moved", "", "only GET requests can be converted, this is a POST"},
		{"GET", "https://me@x/denied", "", "denied"},
		{"GET", "https://x/checked", "", "no attributes"},
		{"GET", "https://x/elsewhere", "", "not an http or https address"},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := judge(t.Context(), c.method, u)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s %s: %v, want %q", c.method, c.url, err, c.err)
		}
		if err == nil && got.String() != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.url, got, c.want)
		}
	}
}

// TestUncleanIsFailure has a process end with a status that is fine, in a file system that is not.
func TestUncleanIsFailure(t *testing.T) {
	o := &execOp{op: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}, ValidExitCodes: []int32{3}}}}
	exit := &runc.ExitError{Code: 3}
	if err := o.judge(t.Context(), exit); err != nil {
		t.Errorf("status 3: %v", err)
	}
	if err := o.judge(t.Context(), &runc.UncleanError{Err: exit, Why: errors.New("why")}); err == nil {
		t.Error("what is left in the file system is no failure")
	}
}
