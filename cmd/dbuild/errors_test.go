package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestReport(t *testing.T) {
	dockerfile := []byte("FROM scratch\nCOPY busybox /bin/sh\nRUN exit 3\n")
	at := func(err error) error {
		return errdefs.WithSource(err, &errdefs.Source{
			Info:   &pb.SourceInfo{Filename: "Dockerfile", Data: dockerfile},
			Ranges: []*pb.Range{{Start: &pb.Position{Line: 3}, End: &pb.Position{Line: 3}}},
		})
	}
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"plain", errors.New("no such directory: x"), "dbuild: no such directory: x\n"},
		{"transport", fmt.Errorf("failed to solve: %w", status.Error(codes.Unknown, "it broke")), "dbuild: it broke\n"},
		{"source", at(errors.New("process did not complete")), `Dockerfile:3
--------------------
   1 |     FROM scratch
   2 |     COPY busybox /bin/sh
   3 | >>> RUN exit 3
   4 |     
--------------------
dbuild: Dockerfile:3: process did not complete
`},
		{"source named already", at(errors.New("Dockerfile:3: bad")), `Dockerfile:3
--------------------
   1 |     FROM scratch
   2 |     COPY busybox /bin/sh
   3 | >>> RUN exit 3
   4 |     
--------------------
dbuild: Dockerfile:3: bad
`},
		{"disk full", status.Error(codes.ResourceExhausted, "no space left on device"), "dbuild: no space left on device\nhint: \"dbuild prune\" frees space that builds do not need\n"},
		{"own hint", status.Error(codes.Internal, "x\nhint: y"), "dbuild: x\nhint: y\n"},
		{"missing file", status.Error(codes.Unknown, `failed to compute cache key: failed to calculate checksum of ref input: "/x": not found (did you mean "/y"?)`), "dbuild: \"/x\": not found (did you mean \"/y\"?)\n"},
		{"missing file, explained", status.Error(codes.Unknown, `failed to compute cache key: failed to calculate checksum of ref input: "/x": not found: COPY: "x" is not in the build context; it is empty`), "dbuild: COPY: \"x\" is not in the build context; it is empty\n"},
		{"missing file, copying", status.Error(codes.Unknown, `lstat /x: no such file or directory: ADD: "x" is not in the build context`), "dbuild: ADD: \"x\" is not in the build context\n"},
		{"canceled", context.Canceled, "dbuild: canceled\n"},
		{"said already", statusError(1), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bytes.Buffer
			report(&b, tc.err, false)
			if b.String() != tc.want {
				t.Fatalf("got\n%s\nwant\n%s", b.String(), tc.want)
			}
		})
	}
}

func TestAMissingSecretThatIsNearlyLent(t *testing.T) {
	err := status.Error(codes.Unknown, "secret npm_tokn: not found; pass it with --secret id=npm_tokn,src=FILE")
	for want, lent := range map[string][]string{
		"\nhint: --secret lends \"npm_token\"; did you mean that?\n": {"aws", "npm_token"},
		"\nhint: --secret lends only aws\n":                          {"aws"},
	} {
		var b bytes.Buffer
		report(&b, nearSecret(err, lent), false)
		if !strings.HasSuffix(b.String(), want) {
			t.Errorf("got %q without %q", b.String(), want)
		}
	}
	if got := nearSecret(err, nil); got != err {
		t.Errorf("nothing is lent, but got %v", got)
	}
	if other := errors.New("x"); nearSecret(other, []string{"a"}) != other {
		t.Error("another error was changed")
	}
}

func TestConnectErrorIsOneSentence(t *testing.T) {
	err := &connectError{
		addr: address{"unix:///x", "DBUILD_HOST"},
		err:  status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial unix /x: connect: no such file or directory"`),
	}
	want := "no daemon answers at unix:///x (from DBUILD_HOST): no such file or directory"
	if err.Error() != want {
		t.Fatalf("got %q, want %q", err.Error(), want)
	}
	var b bytes.Buffer
	report(&b, err, false)
	if !strings.Contains(b.String(), "hint: ") {
		t.Fatalf("no hint: %s", b.String())
	}
}
