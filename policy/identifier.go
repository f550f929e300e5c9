package policy

import (
	"net/url"
	"path"
	"strings"

	"github.com/distribution/reference"
)

// canonical is the identifier of a source in the form that rules see.
func canonical(identifier string) string {
	scheme, rest, ok := strings.Cut(identifier, "://")
	if !ok {
		return identifier
	}
	switch scheme {
	case "docker-image":
		named, err := reference.ParseNormalizedNamed(rest)
		if err != nil {
			return identifier
		}
		return scheme + "://" + reference.TagNameOnly(named).String()
	case "git":
		repo, fragment, ok := strings.Cut(rest, "#")
		if !ok {
			return identifier
		}
		ref, dir, ok := strings.Cut(fragment, ":")
		if dir = strings.TrimPrefix(path.Join("/", dir), "/"); ok && dir != "" {
			ref += ":" + dir
		}
		if ref == "" {
			return scheme + "://" + repo
		}
		return scheme + "://" + repo + "#" + ref
	}
	return identifier
}

// Shown is the identifier of a source without user and password, for people.
func Shown(identifier string) string {
	u, err := url.Parse(identifier)
	if err != nil || u.User == nil {
		return identifier
	}
	u.User = nil
	return u.String()
}
