package history

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/tonistiigi/go-csvvalue"
	"google.golang.org/grpc/codes"
)

type predicate func(*controlapi.BuildHistoryRecord) bool

// parseFilters makes one predicate of what a client asks for. A record is admitted if any
// of the filters does, and by a filter if all its comma-separated conditions hold:
//
//	ref, status, repository                  ==, !=, ~= as in containerd's filters
//	startedAt, completedAt                   <, <=, >, >= a time (RFC 3339) or an age
//	duration                                 <, <=, >, >= a duration
//
// Times are compared in whole seconds. A build that runs has no completion and no duration.
func parseFilters(list []string) (predicate, error) {
	if len(list) == 0 {
		return func(*controlapi.BuildHistoryRecord) bool { return true }, nil
	}
	var any []predicate
	for _, f := range list {
		p, err := parseFilter(f)
		if err != nil {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("history filter %q: %v", f, err))
		}
		any = append(any, p)
	}
	return func(r *controlapi.BuildHistoryRecord) bool {
		for _, p := range any {
			if p(r) {
				return true
			}
		}
		return false
	}, nil
}

func parseFilter(s string) (predicate, error) {
	fields, err := csvvalue.Fields(s, nil)
	if err != nil {
		return nil, err
	}
	var all []predicate
	var rest []string
	for _, f := range fields {
		p, err := parseComparison(f)
		if err != nil {
			return nil, err
		}
		if p == nil {
			rest = append(rest, f)
			continue
		}
		all = append(all, p)
	}
	if len(rest) > 0 {
		f, err := filters.Parse(strings.Join(rest, ","))
		if err != nil {
			return nil, err
		}
		for _, condition := range rest {
			if err := checkCondition(condition); err != nil {
				return nil, err
			}
		}
		all = append(all, func(r *controlapi.BuildHistoryRecord) bool { return f.Match(adapt(r)) })
	}
	return func(r *controlapi.BuildHistoryRecord) bool {
		for _, p := range all {
			if !p(r) {
				return false
			}
		}
		return true
	}, nil
}

// parseComparison reads a condition on a time or a duration. It returns nil for others.
func parseComparison(s string) (predicate, error) {
	i := strings.IndexAny(s, "<>")
	if i < 0 {
		return nil, nil
	}
	key, op, value := s[:i], s[i:i+1], s[i+1:]
	if rest, ok := strings.CutPrefix(value, "="); ok {
		op, value = op+"=", rest
	}
	var get func(*controlapi.BuildHistoryRecord) (int64, bool)
	var want int64
	switch key {
	case "startedAt", "completedAt":
		at, err := parseTime(value)
		if err != nil {
			return nil, err
		}
		want = at.Unix()
		get = func(r *controlapi.BuildHistoryRecord) (int64, bool) {
			if key == "startedAt" {
				return r.CreatedAt.AsTime().Unix(), r.CreatedAt != nil
			}
			return r.CompletedAt.AsTime().Unix(), r.CompletedAt != nil
		}
	case "duration":
		d, err := time.ParseDuration(value)
		if err != nil {
			return nil, fmt.Errorf("%q is not a duration such as 90s or 5m", value)
		}
		want = int64(d)
		get = func(r *controlapi.BuildHistoryRecord) (int64, bool) {
			return int64(r.CompletedAt.AsTime().Sub(r.CreatedAt.AsTime())), r.CompletedAt != nil
		}
	default:
		return nil, nil
	}
	return func(r *controlapi.BuildHistoryRecord) bool {
		have, ok := get(r)
		c := cmp.Compare(have, want)
		switch op {
		case "<":
			return ok && c < 0
		case "<=":
			return ok && c <= 0
		case ">":
			return ok && c > 0
		}
		return ok && c >= 0
	}, nil
}

// parseTime reads a time, or how long ago it was.
func parseTime(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither a time such as 2006-01-02T15:04:05Z nor an age such as 24h", s)
	}
	return t, nil
}

// checkCondition finds what containerd's filters take for a condition that nothing meets: a
// name that no record has, and an expression that is none.
func checkCondition(s string) error {
	key, value, op := s, "", ""
	if i := strings.IndexAny(s, "=!~"); i >= 0 && i+2 <= len(s) {
		key, op, value = s[:i], s[i:i+2], s[i+2:]
	}
	if key = strings.TrimSpace(key); !slices.Contains(keys, key) {
		return fmt.Errorf("there is no %q; there are %s with ==, != and ~=, and startedAt, completedAt, duration with <, <=, > and >=", key, strings.Join(keys, ", "))
	}
	if op != "~=" {
		return nil
	}
	if n := len(value); n >= 2 && value[0] == value[n-1] && strings.ContainsRune(`"/|`, rune(value[0])) {
		value = value[1 : n-1]
	}
	if _, err := regexp.Compile(value); err != nil {
		return fmt.Errorf("%q is not a regular expression: %w", value, err)
	}
	return nil
}

// keys are what containerd's conditions can be about.
var keys = []string{"ref", "status", "repository"}

func adapt(r *controlapi.BuildHistoryRecord) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) != 1 {
			return "", false
		}
		switch path[0] {
		case "ref":
			return r.Ref, r.Ref != ""
		case "status":
			return status(r), true
		case "repository":
			repo := repository(r.FrontendAttrs)
			return repo, repo != ""
		}
		return "", false
	})
}

func status(r *controlapi.BuildHistoryRecord) string {
	switch {
	case r.CompletedAt == nil:
		return "running"
	case r.Error == nil:
		return "completed"
	case codes.Code(r.Error.Code) == codes.Canceled || strings.Contains(r.Error.Message, "context canceled"):
		return "canceled"
	}
	return "error"
}

// repository is where the sources of a build come from: what the client says, or its
// context if that is a git repository.
func repository(attrs map[string]string) string {
	if s := attrs["vcs:source"]; s != "" {
		return s
	}
	remote, _, _ := strings.Cut(attrs["context"], "#")
	remote, _, _ = strings.Cut(remote, "?")
	u, err := url.Parse(remote)
	switch {
	case err != nil || u.Scheme == "":
		// user@host:path, which is no URL
		if user, rest, ok := strings.Cut(remote, "@"); ok && strings.Contains(rest, ":") && !strings.ContainsAny(user, "/:") {
			return remote
		}
		return ""
	case u.Scheme == "git", u.Scheme == "ssh":
		return remote
	case (u.Scheme == "http" || u.Scheme == "https") && strings.HasSuffix(u.Path, ".git"):
		return remote
	}
	return ""
}
