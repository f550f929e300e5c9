package llb

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A remote is the address of a git repository, taken apart.
type remote struct {
	url, host, path string
	ssh             bool
}

var (
	scheme   = regexp.MustCompile(`^[a-zA-Z0-9]+://`)
	scpStyle = regexp.MustCompile(`^([a-zA-Z0-9._-]+)@([a-zA-Z0-9.-]+):(.+)$`)
)

// parseRemote reads the forms that git itself takes (git-clone(1), "Git URLs").
// Fragment and query are dropped: they are ours, not git's.
func parseRemote(s string) (remote, error) {
	if !scheme.MatchString(s) {
		if m := scpStyle.FindStringSubmatch(s); m != nil {
			p, _, _ := strings.Cut(m[3], "#")
			p, _, _ = strings.Cut(p, "?")
			return remote{url: m[1] + "@" + m[2] + ":" + p, host: m[2], path: p, ssh: true}, nil
		}
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) { // the caller names the URL
			err = ue.Err
		}
		return remote{}, err
	}
	if !slices.Contains([]string{"http", "https", "ssh", "git"}, u.Scheme) {
		return remote{}, fmt.Errorf("%s is not a protocol of git", u.Scheme)
	}
	u.Fragment, u.RawFragment, u.RawQuery = "", "", ""
	return remote{url: u.String(), host: u.Host, path: u.Path, ssh: u.Scheme == "ssh"}, nil
}
