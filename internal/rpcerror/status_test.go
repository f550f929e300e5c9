package rpcerror_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/rpcerror"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type exited int

func (e exited) Error() string { return fmt.Sprint("exit code: ", int(e)) }
func (e exited) ExitCode() int { return int(e) }

func TestStatus(t *testing.T) {
	source := errdefs.WithSource(exited(7), &errdefs.Source{Info: &pb.SourceInfo{Filename: "Dockerfile"}})
	program := exec.Command("false").Run()
	if errors.As(program, new(*exec.ExitError)) == false {
		t.Fatal(program)
	}
	for name, tt := range map[string]struct {
		err     error
		code    codes.Code
		msg     string
		details []string
	}{
		"plain":               {errors.New("odd"), codes.Unknown, "odd", nil},
		"kind":                {fmt.Errorf("x: %w", cerrdefs.ErrNotFound.WithMessage("y")), codes.NotFound, "x: y", nil},
		"inner first":         {source, codes.Unknown, "exit code: 7", []string{"ExitMessage+json", "Source+json"}},
		"a program of ours":   {program, codes.Unknown, "exit status 1", nil},
		"came over gRPC":      {fmt.Errorf("step: %w", rpcerror.Status(source)), codes.Unknown, "step: exit code: 7", []string{"ExitMessage+json", "Source+json"}},
		"not a text":          {errors.New("a\xffb"), codes.Unknown, "a\uFFFDb", nil},
		"unsupported request": {errdefs.NewUnsupportedSubrequestError("x"), codes.Unimplemented, "unsupported request x", []string{"Subrequest+json"}},
	} {
		st := status.Convert(rpcerror.Status(tt.err))
		if st.Code() != tt.code || st.Message() != tt.msg || len(st.Proto().Details) != len(tt.details) {
			t.Errorf("%s: got %v", name, st.Proto())
			continue
		}
		for i, want := range tt.details {
			if got := st.Proto().Details[i].TypeUrl; !strings.HasSuffix(got, want) {
				t.Errorf("%s: detail %d is %s", name, i, got)
			}
		}
	}
	if rpcerror.Status(nil) != nil {
		t.Error("nothing is an error")
	}
}
