package dockerfile

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// A gitRef is a git repository and what of it is wanted, as written in ADD, in a build
// context or in a named context.
type gitRef struct {
	remote     string // what git is given
	scheme     string
	host       string
	path       string
	ref        string
	subdir     string
	checksum   string
	mtime      string
	keepDir    *bool
	submodules *bool
	byCommit   bool
	ambiguous  bool // "github.com/..." may also be a path in the context
}

var (
	urlScheme = regexp.MustCompile(`^([a-zA-Z0-9]+)://`)
	scpStyle  = regexp.MustCompile(`^([a-zA-Z0-9-_]+)@([a-zA-Z0-9-.]+):(.*?)(?:\?(.*?))?(?:#(.*))?$`)
)

// parseGitRef reads a git reference. It is nil, without an error, for what is not one.
func parseGitRef(s string) (*gitRef, error) {
	if strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") {
		return nil, nil
	}
	g := &gitRef{}
	var query url.Values
	var fragment string
	if strings.HasPrefix(s, "github.com/") {
		g.ambiguous = true
		s = "https://" + s
	}
	if m := urlScheme.FindStringSubmatch(s); m != nil {
		u, err := url.Parse(s)
		if err != nil {
			return nil, nil
		}
		g.scheme = strings.ToLower(m[1])
		switch g.scheme {
		case "http", "https":
			if !strings.HasSuffix(u.Path, ".git") && !g.ambiguous {
				return nil, nil // an ordinary download
			}
		case "git", "ssh":
		default:
			return nil, nil
		}
		query, fragment = u.Query(), u.Fragment
		u.Fragment, u.RawFragment, u.RawQuery = "", "", ""
		g.remote, g.host, g.path = u.String(), u.Host, u.Path
	} else if !strings.Contains(s, "@") {
		return nil, nil
	} else if m := scpStyle.FindStringSubmatch(s); m != nil {
		var err error
		if query, err = url.ParseQuery(m[4]); err != nil {
			return nil, nil
		}
		g.scheme, g.host, g.path, fragment = "ssh", m[2], m[3], m[5]
		g.remote = m[1] + "@" + m[2] + ":" + m[3]
	} else {
		return nil, nil
	}
	var dir string
	g.ref, dir, _ = strings.Cut(fragment, ":")
	g.subdir = strings.TrimPrefix(path.Join("/", dir), "/")
	if err := g.query(query); err != nil {
		return nil, fmt.Errorf("git reference %s: %w", s, err)
	}
	return g, nil
}

func (g *gitRef) query(q url.Values) error {
	var tag, branch string
	for k, vs := range q {
		if len(vs) > 1 {
			return fmt.Errorf("query %q has multiple values", k)
		}
		v := vs[0]
		on := true
		switch k {
		case "submodules", "keep-git-dir", "fetch-by-commit":
			if v != "" {
				var err error
				if on, err = strconv.ParseBool(v); err != nil {
					return fmt.Errorf("invalid %s value: %q", k, v)
				}
			}
		default:
			if v == "" {
				return fmt.Errorf("query %q has no value", k)
			}
		}
		switch k {
		case "submodules":
			g.submodules = &on
		case "keep-git-dir":
			g.keepDir = &on
		case "fetch-by-commit":
			g.byCommit = on
		case "ref":
			if g.ref != "" && g.ref != v {
				return fmt.Errorf("ref conflicts: %q and %q", g.ref, v)
			}
			g.ref = v
		case "tag":
			tag = "refs/tags/" + strings.TrimPrefix(v, "refs/tags/")
		case "branch":
			branch = "refs/heads/" + strings.TrimPrefix(v, "refs/heads/")
		case "subdir":
			if g.subdir != "" && g.subdir != v {
				return fmt.Errorf("subdir conflicts: %q and %q", g.subdir, v)
			}
			g.subdir = v
		case "checksum", "commit":
			g.checksum = v
		case "mtime":
			if v != "checkout" && v != "commit" {
				return fmt.Errorf(`invalid mtime value: %q (must be "checkout" or "commit")`, v)
			}
			g.mtime = v
		default:
			return fmt.Errorf("unexpected query %q", k)
		}
	}
	if tag != "" && branch != "" {
		return errors.New("branch conflicts with tag")
	}
	if named := tag + branch; named != "" {
		if g.ref != "" && g.ref != named {
			return fmt.Errorf("ref conflicts: %q and %q", g.ref, named)
		}
		g.ref = named
	}
	return nil
}

// isHTTP reports whether a source is a URL to download.
func isHTTP(src string) bool {
	if !strings.HasPrefix(src, "http://") && !strings.HasPrefix(src, "https://") {
		return false
	}
	g, err := parseGitRef(src)
	return g == nil && err == nil
}

// isGit reports whether a source can be nothing but a git repository.
func isGit(src string) bool {
	g, err := parseGitRef(src)
	return err != nil || g != nil && !g.ambiguous
}
