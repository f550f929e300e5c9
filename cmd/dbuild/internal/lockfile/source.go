package lockfile

import (
	"maps"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
)

const (
	imageScheme = "docker-image://"
	gitScheme   = "git://"
	// sessionHost serves what the client itself sends.
	sessionHost = "http://buildkit-session/"

	// hiddenUser stands in a lock for the user and password of a URL; keptUser is where a
	// conversion puts them back.
	hiddenUser = "://*@"
	keptUser   = "://${1}@"
)

var (
	commit  = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	urlUser = regexp.MustCompile(`^([a-z+]+)://[^/?#@]*@`)
)

// locks reports whether a lock is about sources of the kind. What the client sends, and what
// cannot be called otherwise than by its digest, needs no pin.
func locks(identifier string) bool {
	for _, scheme := range []string{imageScheme, gitScheme, "http://", "https://"} {
		if strings.HasPrefix(identifier, scheme) {
			return !strings.HasPrefix(identifier, sessionHost)
		}
	}
	return false
}

// nameOf is what a lock calls a source: its identifier without user and password.
func nameOf(identifier string) string {
	return urlUser.ReplaceAllString(identifier, "${1}"+hiddenUser)
}

// isPinned reports whether a source can be one thing only.
func isPinned(op *pb.SourceOp) bool {
	switch id := op.Identifier; {
	case strings.HasPrefix(id, imageScheme):
		return strings.Contains(id, "@sha256:") || strings.Contains(id, "@sha512:")
	case strings.HasPrefix(id, gitScheme):
		_, fragment, _ := strings.Cut(id, "#")
		ref, _, _ := strings.Cut(fragment, ":")
		return commit.MatchString(ref) || commit.MatchString(op.Attrs[pb.AttrGitChecksum])
	default:
		return op.Attrs[pb.AttrHTTPChecksum] != ""
	}
}

// pinOf is what a source is pinned to after the daemon has found out what it is now.
func pinOf(src *gwpb.ResolveSourceMetaResponse) (pin, error) {
	op := src.GetSource()
	switch id := nameOf(op.Identifier); {
	case src.GetImage().GetDigest() != "" && strings.HasPrefix(id, imageScheme):
		return pin{identifier: id + "@" + src.Image.Digest}, nil
	case src.GetGit().GetChecksum() != "" && strings.HasPrefix(id, gitScheme):
		sum := src.Git.CommitChecksum
		if sum == "" {
			sum = src.Git.Checksum
		}
		to := strings.Replace(id, hiddenUser, keptUser, 1)
		if op.Attrs[pb.AttrGitSignatureVerifyPubKey] != "" {
			// The signature may be the tag's: it must still be found by its name.
			return pin{identifier: to, attrs: map[string]string{pb.AttrGitChecksum: sum}}, nil
		}
		repo, fragment, _ := strings.Cut(to, "#")
		_, dir, ok := strings.Cut(fragment, ":")
		if ok {
			sum += ":" + dir
		}
		return pin{identifier: repo + "#" + sum}, nil
	case src.GetHTTP().GetChecksum() != "":
		to := strings.Replace(id, hiddenUser, keptUser, 1)
		return pin{identifier: to, attrs: map[string]string{pb.AttrHTTPChecksum: src.HTTP.Checksum}}, nil
	}
	return pin{}, errNoPin
}

// apply returns the source that a pin makes of op.
func (p pin) apply(op *pb.SourceOp) *pb.SourceOp {
	to := p.identifier
	if user := urlUser.FindString(op.Identifier); user != "" {
		_, user, _ = strings.Cut(user, "://")
		to = strings.Replace(to, keptUser, "://"+user, 1)
	}
	out := &pb.SourceOp{Identifier: to, Attrs: maps.Clone(op.Attrs)}
	if len(p.attrs) > 0 && out.Attrs == nil {
		out.Attrs = map[string]string{}
	}
	maps.Copy(out.Attrs, p.attrs)
	return out
}

// String is the digest, checksum or commit.
func (p pin) String() string {
	for _, v := range p.attrs {
		return v
	}
	if strings.HasPrefix(p.identifier, imageScheme) {
		_, d, _ := strings.Cut(p.identifier, "@")
		return d
	}
	_, fragment, _ := strings.Cut(p.identifier, "#")
	ref, _, _ := strings.Cut(fragment, ":")
	return ref
}

// Shown is a source as people write it.
func Shown(identifier string) string {
	name, ok := strings.CutPrefix(nameOf(identifier), imageScheme)
	if !ok {
		return strings.Replace(name, hiddenUser, "://", 1)
	}
	if ref, err := reference.ParseNormalizedNamed(name); err == nil {
		return reference.FamiliarString(ref)
	}
	return name
}

// spellings are the ways to name a source in a pattern.
func spellings(identifier string) []string {
	out := []string{identifier, Shown(identifier)}
	if name, ok := strings.CutPrefix(identifier, imageScheme); ok {
		out = append(out, name)
		if ref, err := reference.ParseNormalizedNamed(name); err == nil {
			out = append(out, ref.Name(), reference.FamiliarName(ref))
		}
	}
	if rest, ok := strings.CutPrefix(identifier, gitScheme); ok { // as its URL may begin
		repo, _, _ := strings.Cut(rest, "#")
		for _, s := range []string{rest, repo} {
			out = append(out, s, "https://"+s, "http://"+s, "ssh://"+s)
		}
	}
	return out
}

// compile makes a pattern in which only * is special.
func compile(pattern string) (*regexp.Regexp, error) {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.Compile("^" + strings.Join(parts, ".*") + "$")
}
