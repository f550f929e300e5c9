package gha

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dbuild/dbuild/exporter"
)

// options are what a request says of a cache service. The names, and what holds without, are
// BuildKit's.
type options struct {
	scope          string
	url, token     string
	v2             bool
	timeout        time.Duration // of a request, with the waiting that the service asks for
	repository, gh string        // to list all keys at once; gh is another token
}

// receiver is where version 2 of the protocol is spoken.
const receiver = "results-receiver.actions.githubusercontent.com"

func parse(a *exporter.Attrs) (options, error) {
	o := options{
		scope:      a.Default("scope", "buildkit"),
		token:      a.String("token"),
		repository: a.String("repository"),
		gh:         a.String("ghtoken"),
		timeout:    10 * time.Minute,
	}
	first, second, version := a.String("url"), a.String("url_v2"), a.String("version")
	n := 0
	if version != "" {
		var err error
		if n, err = strconv.Atoi(version); err != nil {
			return o, fmt.Errorf("version is 1 or 2, not %q", version)
		}
	}
	switch {
	case n != 1 && second != "":
		o.url, o.v2 = second, true
	case n == 0:
		o.url, o.v2 = first, strings.Contains(first, receiver)
	default:
		o.url, o.v2 = first, n > 1
	}
	if v := a.String("timeout"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			return o, fmt.Errorf("timeout=%s is no duration such as 10m", v)
		}
		o.timeout = d
	}
	switch {
	case o.token == "":
		return o, errors.New("there is no token (token, or ACTIONS_RUNTIME_TOKEN in the environment of the client, which a workflow has to pass on to its steps)")
	case o.url == "":
		return o, errors.New("there is no address of the service (url or url_v2, or ACTIONS_CACHE_URL or ACTIONS_RESULTS_URL in the environment of the client)")
	}
	return o, nil
}
