package git

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// A Request names a tree in a repository.
type Request struct {
	Remote string
	Ref    string // branch, tag, full ref name or commit id; "" is the remote's HEAD
	Subdir string // the result is this directory; "" is all
	// Checksum is a commit id, or the beginning of one, that Ref must be; "" is any.
	Checksum       string
	KeepGitDir     bool // .git is part of the result
	SkipSubmodules bool
	CommitTime     bool // files get the time of the commit instead of that of the checkout
	FetchByCommit  bool // the commit is asked for by id, not by Ref

	// Bundle is where the history comes from instead of the remote, a bundle file known by
	// its digest; "" is the remote. BundleSession and BundleStore are the client's content
	// store that has it, if it is in one. Checksum must be a full commit id then.
	Bundle, BundleSession, BundleStore string
	// CheckoutBundle makes a bundle file of the commit and its history instead of a tree.
	CheckoutBundle bool
	// Keys, if not empty, must have signed the commit or tag; see package signature.
	Keys                                             string
	RejectExpired, RequireSignedTag, IgnoreSignedTag bool

	AuthTokenSecret, AuthHeaderSecret string // ids of secrets, tried with ".HOST" first
	SSH                               string // id of the agent to use; "" is none
	KnownHosts                        string // lines of known_hosts; "" accepts any host
}

// Parse makes a Request of a source operation: what follows git:// in its identifier, and
// its attributes. It refuses attributes that ask for what it cannot do.
func Parse(identifier string, attrs map[string]string) (Request, error) {
	name, fragment, _ := strings.Cut(identifier, "#")
	r := Request{Remote: name}
	r.Ref, r.Subdir, _ = strings.Cut(fragment, ":")
	if !strings.Contains(name, "://") && !scpForm.MatchString(name) {
		r.Remote = "https://" + name
	}
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		v := attrs[k]
		var err error
		switch k {
		case pb.AttrFullRemoteURL:
			err = r.setRemote(v)
		case pb.AttrKeepGitDir:
			r.KeepGitDir, err = boolean(v)
		case pb.AttrGitSkipSubmodules:
			r.SkipSubmodules, err = boolean(v)
		case pb.AttrGitFetchByCommit:
			r.FetchByCommit, err = boolean(v)
		case pb.AttrGitChecksum:
			r.Checksum = v
		case pb.AttrGitMTime:
			switch v {
			case "commit":
				r.CommitTime = true
			case "", "checkout":
			default:
				err = fmt.Errorf("want checkout or commit")
			}
		case pb.AttrAuthTokenSecret:
			r.AuthTokenSecret = v
		case pb.AttrAuthHeaderSecret:
			r.AuthHeaderSecret = v
		case pb.AttrMountSSHSock:
			r.SSH = v
		case pb.AttrKnownSSHHosts:
			r.KnownHosts = v
		case pb.AttrGitBundle:
			r.Bundle = v
		case pb.AttrOCILayoutSessionID:
			r.BundleSession = v
		case pb.AttrOCILayoutStoreID:
			r.BundleStore = v
		case pb.AttrGitCheckoutBundle:
			r.CheckoutBundle, err = boolean(v)
		case pb.AttrGitSignatureVerifyPubKey:
			r.Keys = v
		case pb.AttrGitSignatureVerifyRejectExpired:
			r.RejectExpired, err = boolean(v)
		case pb.AttrGitSignatureVerifyRequireSignedTag:
			r.RequireSignedTag, err = boolean(v)
		case pb.AttrGitSignatureVerifyIgnoreSignedTag:
			r.IgnoreSignedTag, err = boolean(v)
		case pb.AttrGitAdvice:
		default:
			if v != "" && strings.HasPrefix(k, "git.") {
				return r, fmt.Errorf("not implemented: the attribute %s of git sources", k)
			}
		}
		if err != nil {
			return r, fmt.Errorf("%s of a git source: %w", k, err)
		}
	}
	return r, r.check()
}

// setRemote takes the address with transport and user, which an identifier leaves out. It
// must be of the same repository, because policies look at the identifier.
func (r *Request) setRemote(full string) error {
	full, _, _ = strings.Cut(full, "#")
	id, err := parseRemote(r.Remote)
	if err != nil {
		return err
	}
	other, err := parseRemote(full)
	if err != nil {
		return err
	}
	if !id.same(other) {
		return fmt.Errorf("%s is not the repository %s", other, id)
	}
	r.Remote = full
	return nil
}

// boolean parses a flag; clients write "true" or "1".
func boolean(v string) (bool, error) {
	if v == "" {
		return false, nil
	}
	return strconv.ParseBool(v)
}

func (r *Request) check() error {
	if _, err := parseRemote(r.Remote); err != nil {
		return err
	}
	if err := checkRef(r.Ref); err != nil {
		return err
	}
	if r.Checksum != "" && !hexID.MatchString(r.Checksum) && !shortID.MatchString(r.Checksum) {
		return fmt.Errorf("invalid checksum %.100q: expected hex commit hash", r.Checksum)
	}
	switch {
	case r.Bundle != "" && !hexID.MatchString(r.Checksum):
		return fmt.Errorf("%s: a repository from a bundle needs the full id of its commit as checksum", r.Bundle)
	case r.CheckoutBundle && (r.KeepGitDir || r.Subdir != ""):
		return fmt.Errorf("a bundle has all of a commit: it cannot keep .git or be of a directory")
	case r.RequireSignedTag && r.IgnoreSignedTag:
		return fmt.Errorf("a signed tag cannot be both required and ignored")
	case r.Keys == "" && (r.RequireSignedTag || r.RejectExpired):
		return fmt.Errorf("a signature cannot be checked without keys")
	}
	if strings.ContainsAny(r.Subdir, "\x00\r\n") || slices.Contains(strings.Split(r.Subdir, "/"), "..") {
		return fmt.Errorf("%.100q is not a directory of the repository", r.Subdir)
	}
	if r.Subdir = strings.Trim(path.Clean("/"+r.Subdir), "/"); slices.Contains(strings.Split(strings.ToLower(r.Subdir), "/"), ".git") {
		return fmt.Errorf("%.100q is not a directory of the repository", r.Subdir)
	}
	return nil
}
