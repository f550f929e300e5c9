package history

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestFilters(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	records := []*controlapi.BuildHistoryRecord{
		{Ref: "aa1", CreatedAt: ago(10 * time.Hour), CompletedAt: ago(10*time.Hour - time.Minute)},
		{Ref: "aa2", CreatedAt: ago(5 * time.Hour), CompletedAt: ago(4 * time.Hour), FrontendAttrs: map[string]string{"vcs:source": "r1"}, Error: &spb.Status{Code: int32(codes.Unknown)}},
		{Ref: "bb1", CreatedAt: ago(2 * time.Hour), CompletedAt: ago(time.Hour), FrontendAttrs: map[string]string{"context": "https://example.com/r2.git#main:dir"}, Error: &spb.Status{Code: int32(codes.Canceled)}},
		{Ref: "bb2", CreatedAt: ago(time.Minute), FrontendAttrs: map[string]string{"context": "git@example.com:r3.git"}},
	}
	for _, c := range []struct {
		filters []string
		want    string
	}{
		{nil, "aa1 aa2 bb1 bb2"},
		{[]string{"ref==aa1"}, "aa1"},
		{[]string{"ref~=^aa"}, "aa1 aa2"},
		{[]string{"ref~=/^(aa|bb1)/"}, "aa1 aa2 bb1"},
		{[]string{"ref"}, "aa1 aa2 bb1 bb2"},
		{[]string{"ref~=^aa", "ref==bb2"}, "aa1 aa2 bb2"},
		{[]string{"ref~=^aa,status!=error"}, "aa1"},
		{[]string{"status==running"}, "bb2"},
		{[]string{"status==completed"}, "aa1"},
		{[]string{"status==canceled"}, "bb1"},
		{[]string{"repository==r1"}, "aa2"},
		{[]string{"repository==https://example.com/r2.git"}, "bb1"},
		{[]string{"repository==git@example.com:r3.git"}, "bb2"},
		{[]string{"repository!=r1"}, "aa1 bb1 bb2"},
		{[]string{"startedAt>3h"}, "bb1 bb2"},
		{[]string{"startedAt<=5h"}, "aa1 aa2"},
		{[]string{"startedAt<5h"}, "aa1"},
		{[]string{"startedAt<" + now.Add(-3*time.Hour).Format(time.RFC3339)}, "aa1 aa2"},
		{[]string{"completedAt>3h"}, "bb1"},
		{[]string{"completedAt<30m"}, "aa1 aa2 bb1"},
		{[]string{"duration>5m"}, "aa2 bb1"},
		{[]string{"duration<=1m"}, "aa1"},
		{[]string{"duration>=1h,startedAt>3h"}, "bb1"},
	} {
		match, err := parseFilters(c.filters)
		if err != nil {
			t.Errorf("%q: %v", c.filters, err)
			continue
		}
		var got []string
		for _, r := range records {
			if match(r) {
				got = append(got, r.Ref)
			}
		}
		if !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%q: %v, want %s", c.filters, got, c.want)
		}
	}
	for _, bad := range []string{"ref+x", "duration>soon", "startedAt<yesterday", "ref==\"", "ref~=/(/", "statuss==error", "refs"} {
		if _, err := parseFilters([]string{bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
