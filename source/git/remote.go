package git

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// A remote is a parsed repository address. Its string forms never hold a password.
type remote struct {
	scheme string // https, http, git, ssh, file
	user   string
	pass   string
	host   string // with port
	path   string
	scp    bool // was written user@host:path
}

var scpForm = regexp.MustCompile(`^(?:([A-Za-z0-9._-]+)@)([A-Za-z0-9._-]+):([^\x00-\x1f]+)$`)

var errRemote = errors.New("not the address of a git repository")

// parseRemote reads an address without its fragment.
func parseRemote(s string) (*remote, error) {
	if strings.ContainsAny(s, "\x00\r\n") || strings.HasPrefix(s, "-") {
		return nil, errRemote
	}
	if m := scpForm.FindStringSubmatch(s); m != nil && !strings.HasPrefix(m[2], "-") && !strings.HasPrefix(m[3], "//") {
		return &remote{scheme: "ssh", user: m[1], host: m[2], path: m[3], scp: true}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errRemote // the error of url.Parse repeats s, with credentials
	}
	r := &remote{scheme: strings.ToLower(u.Scheme), host: u.Host, path: u.Path}
	switch r.scheme {
	case "https", "http", "git", "ssh":
		if r.host == "" || strings.HasPrefix(r.host, "-") || strings.HasPrefix(u.User.Username(), "-") {
			return nil, errRemote
		}
	case "file":
		if r.host != "" {
			return nil, errRemote
		}
	default:
		return nil, fmt.Errorf("%w: unknown transport %.20q", errRemote, r.scheme)
	}
	if u.User != nil {
		r.user = u.User.Username()
		r.pass, _ = u.User.Password()
	}
	return r, nil
}

// String returns the address as git takes it, without credentials: a user is kept for
// ssh only, where it says who to be.
func (r *remote) String() string {
	if r.scp {
		return r.user + "@" + r.host + ":" + r.path
	}
	u := url.URL{Scheme: r.scheme, Host: r.host, Path: r.path}
	if r.scheme == "ssh" && r.user != "" {
		u.User = url.User(r.user)
	}
	return u.String()
}

// same reports whether two addresses mean one repository, by whatever transport.
func (r *remote) same(o *remote) bool {
	clean := func(p string) string { return strings.TrimSuffix(path.Join("/", p), ".git") }
	return strings.EqualFold(r.host, o.host) && clean(r.path) == clean(o.path)
}

// hostname is the host without its port.
func (r *remote) hostname() string {
	u := url.URL{Host: r.host}
	return u.Hostname()
}

var hexID = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)

var shortID = regexp.MustCompile(`^[0-9a-f]{7,63}$`)

// checkRef reports whether ref may be given to git as a name.
func checkRef(ref string) error {
	bad := strings.HasPrefix(ref, "-") || strings.HasPrefix(ref, "/") || strings.HasSuffix(ref, "/") || strings.HasSuffix(ref, ".") ||
		strings.Contains(ref, "..") || strings.Contains(ref, "//") || strings.Contains(ref, "@{") || len(ref) > 1024
	for _, c := range ref {
		bad = bad || c <= ' ' || c == 0x7f || strings.ContainsRune(`~^:?*[\`, c)
	}
	if bad {
		return fmt.Errorf("%.100q is not a ref of a git repository", ref)
	}
	return nil
}
