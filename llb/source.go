package llb

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is the source with this identifier and these attributes, for kinds that have
// no constructor of their own.
func Source(identifier string, attrs map[string]string, platform *ocispec.Platform, m Meta) Output {
	n := &node{meta: m, platform: platform}
	n.hasPlatform = strings.HasPrefix(identifier, "docker-image://") || strings.HasPrefix(identifier, "oci-layout://")
	n.op = func(func(Output) int64) *pb.Op {
		return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: identifier, Attrs: attrs}}}
	}
	return Output{node: n}
}

// attrs collects the attributes of a source and the capabilities they need.
type attrs struct {
	m    map[string]string
	caps []apicaps.CapID
}

func (a *attrs) set(key, value string, caps ...apicaps.CapID) {
	if value == "" {
		return
	}
	if a.m == nil {
		a.m = map[string]string{}
	}
	a.m[key] = value
	a.caps = append(a.caps, caps...)
}

func (a *attrs) flag(key string, on bool, caps ...apicaps.CapID) {
	if on {
		a.set(key, "true", caps...)
	}
}

func (a *attrs) list(key string, values []string, caps ...apicaps.CapID) {
	if len(values) > 0 {
		dt, _ := json.Marshal(values) // strings always marshal
		a.set(key, string(dt), caps...)
	}
}

func (a *attrs) limit(key string, n *int, caps ...apicaps.CapID) {
	if n != nil {
		a.set(key, strconv.Itoa(*n), caps...)
	}
}

func (a *attrs) source(identifier string, platform *ocispec.Platform, m Meta, base apicaps.CapID) Output {
	o := Source(identifier, a.m, platform, m)
	o.node.caps = append(a.caps, base)
	return o
}

// ImageOptions say how an image is found.
type ImageOptions struct {
	Platform *ocispec.Platform // nil: the one given to Marshal
	// ResolveMode is "pull" (always ask the registry), "local" (prefer what is here)
	// or "" for the daemon's choice.
	ResolveMode string
	RecordType  string // "internal" hides it from usage records
	LayerLimit  *int   // only so many layers
	Checksum    digest.Digest
}

// Image is an image in a registry. ref may be short ("alpine").
func Image(ref string, o ImageOptions, m Meta) Output {
	named, err := reference.ParseNormalizedNamed(ref)
	if err == nil {
		ref = reference.TagNameOnly(named).String()
	}
	var a attrs
	switch o.ResolveMode {
	case "", pb.AttrImageResolveModeDefault:
	case pb.AttrImageResolveModeForcePull:
		a.set(pb.AttrImageResolveMode, o.ResolveMode, pb.CapSourceImageResolveMode)
	default:
		a.set(pb.AttrImageResolveMode, o.ResolveMode)
	}
	a.set(pb.AttrImageRecordType, o.RecordType)
	a.limit(pb.AttrImageLayerLimit, o.LayerLimit, pb.CapSourceImageLayerLimit)
	a.set(pb.AttrImageChecksum, o.Checksum.String(), pb.CapSourceImageChecksum)
	out := a.source("docker-image://"+ref, o.Platform, m, pb.CapSourceImage)
	if err != nil {
		out.node.err = fmt.Errorf("image %q: %w", ref, err)
	}
	return out
}

// OCILayoutOptions say whose content store an image is in.
type OCILayoutOptions struct {
	Platform           *ocispec.Platform
	SessionID, StoreID string
	LayerLimit         *int
}

// OCILayout is an image in a content store that a client lends. ref has a digest.
func OCILayout(ref string, o OCILayoutOptions, m Meta) Output {
	var a attrs
	a.set(pb.AttrOCILayoutSessionID, o.SessionID)
	a.set(pb.AttrOCILayoutStoreID, o.StoreID)
	a.limit(pb.AttrOCILayoutLayerLimit, o.LayerLimit)
	return a.source("oci-layout://"+ref, o.Platform, m, pb.CapSourceOCILayout)
}

// LocalOptions say which files of a client's directory are sent and how.
type LocalOptions struct {
	SessionID string // whose directory
	// Unique tells directories of unnamed clients apart; it is used if SessionID is empty.
	Unique                                        string
	IncludePatterns, ExcludePatterns, FollowPaths []string
	SharedKeyHint                                 string // directories with one hint share what was sent
	Differ                                        string // "none", "metadata" or "" for the daemon's choice
	DifferRequired                                bool
	// MetadataOnly sends names without contents, except for the patterns in MetadataExceptions.
	MetadataOnly       bool
	MetadataExceptions []string
}

// Local is a directory that a client lends under name.
func Local(name string, o LocalOptions, m Meta) Output {
	var a attrs
	if o.SessionID != "" {
		a.set(pb.AttrLocalSessionID, o.SessionID, pb.CapSourceLocalSessionID)
	} else {
		a.m = map[string]string{pb.AttrLocalUniqueID: o.Unique}
		a.caps = append(a.caps, pb.CapSourceLocalUnique)
	}
	a.list(pb.AttrIncludePatterns, o.IncludePatterns, pb.CapSourceLocalIncludePatterns)
	a.list(pb.AttrFollowPaths, o.FollowPaths, pb.CapSourceLocalFollowPaths)
	a.list(pb.AttrExcludePatterns, o.ExcludePatterns, pb.CapSourceLocalExcludePatterns)
	a.set(pb.AttrSharedKeyHint, o.SharedKeyHint, pb.CapSourceLocalSharedKeyHint)
	if o.DifferRequired {
		a.set(pb.AttrLocalDiffer, o.Differ, pb.CapSourceLocalDiffer)
	} else {
		a.set(pb.AttrLocalDiffer, o.Differ)
	}
	if o.MetadataOnly {
		a.flag(pb.AttrMetadataTransfer, true, pb.CapSourceMetadataTransfer)
		a.list(pb.AttrMetadataTransferExclude, o.MetadataExceptions)
	}
	return a.source("local://"+name, nil, m, pb.CapSourceLocal)
}

// HTTPOptions say what a download must be and what file it becomes.
type HTTPOptions struct {
	Checksum                   digest.Digest
	Filename                   string // "" : from the URL or the answer's headers
	Perm                       uint32 // permission bits; 0 means 0o600
	UID, GID                   int
	AuthHeaderSecret           string // the secret that holds the Authorization header
	Accept, UserAgent          string
	SignaturePubKey, Signature string // armored OpenPGP
}

// HTTP is a file from a URL.
func HTTP(url string, o HTTPOptions, m Meta) Output {
	var a attrs
	a.set(pb.AttrHTTPChecksum, o.Checksum.String(), pb.CapSourceHTTPChecksum)
	a.set(pb.AttrHTTPFilename, o.Filename)
	if perm := o.Perm & 0o777; perm != 0 {
		a.set(pb.AttrHTTPPerm, "0"+strconv.FormatUint(uint64(perm), 8), pb.CapSourceHTTPPerm)
	}
	if o.UID != 0 {
		a.set(pb.AttrHTTPUID, strconv.Itoa(o.UID), pb.CapSourceHTTPUIDGID)
	}
	if o.GID != 0 {
		a.set(pb.AttrHTTPGID, strconv.Itoa(o.GID), pb.CapSourceHTTPUIDGID)
	}
	a.set(pb.AttrHTTPAuthHeaderSecret, o.AuthHeaderSecret, pb.CapSourceHTTPAuth)
	a.set(pb.AttrHTTPHeaderPrefix+"accept", o.Accept, pb.CapSourceHTTPHeader)
	a.set(pb.AttrHTTPHeaderPrefix+"user-agent", o.UserAgent, pb.CapSourceHTTPHeader)
	a.set(pb.AttrHTTPSignatureVerifyPubKey, o.SignaturePubKey, pb.CapSourceHTTPSignatureVerify)
	a.set(pb.AttrHTTPSignatureVerify, o.Signature, pb.CapSourceHTTPSignatureVerify)
	return a.source(url, nil, m, pb.CapSourceHTTP)
}

// GitOptions say what of a repository is checked out. The secrets' names default to
// GIT_AUTH_TOKEN and GIT_AUTH_HEADER, and the ssh agent's to "default".
type GitOptions struct {
	Ref             string // branch, tag, commit; "" is the remote's HEAD
	SubDir          string
	KeepGitDir      bool
	Checksum        string // the commit that Ref must be, or a prefix of it
	AuthTokenSecret string
	AuthHeaderKey   string
	KnownSSHHosts   string
	SSHAgent        string
	SkipSubmodules  bool
	MTime           string // "commit", "checkout" or "" for the daemon's choice
	FetchByCommit   bool
	Advice          bool // show what git advises
}

// Git is a checkout of a repository. remote is a URL, "user@host:path", or a URL whose
// "https://" was left out.
func Git(remote string, o GitOptions, m Meta) Output {
	r, err := parseRemote(remote)
	var a attrs
	a.flag(pb.AttrKeepGitDir, o.KeepGitDir, pb.CapSourceGitKeepDir)
	a.set(pb.AttrFullRemoteURL, r.url, pb.CapSourceGitFullURL)
	token, header := []apicaps.CapID(nil), []apicaps.CapID(nil)
	if o.AuthTokenSecret != "" {
		token = append(token, pb.CapSourceGitHTTPAuth)
	} else {
		o.AuthTokenSecret = "GIT_AUTH_TOKEN"
	}
	if o.AuthHeaderKey != "" {
		header = append(header, pb.CapSourceGitHTTPAuth)
	} else {
		o.AuthHeaderKey = "GIT_AUTH_HEADER"
	}
	a.set(pb.AttrAuthTokenSecret, o.AuthTokenSecret, token...)
	a.set(pb.AttrAuthHeaderSecret, o.AuthHeaderKey, header...)
	if r.ssh {
		a.set(pb.AttrKnownSSHHosts, o.KnownSSHHosts, pb.CapSourceGitKnownSSHHosts)
		if o.SSHAgent == "" {
			o.SSHAgent = "default"
		}
		a.set(pb.AttrMountSSHSock, o.SSHAgent, pb.CapSourceGitMountSSHSock)
	}
	a.set(pb.AttrGitChecksum, o.Checksum, pb.CapSourceGitChecksum)
	a.flag(pb.AttrGitSkipSubmodules, o.SkipSubmodules, pb.CapSourceGitSkipSubmodules)
	a.set(pb.AttrGitMTime, o.MTime, pb.CapSourceGitMTime)
	a.flag(pb.AttrGitFetchByCommit, o.FetchByCommit, pb.CapSourceGitFetchByCommit)
	a.flag(pb.AttrGitAdvice, o.Advice)

	// The identifier leaves out the protocol, so that one repository has one name.
	id := r.host + path.Join("/", r.path)
	if o.Ref != "" || o.SubDir != "" {
		id += "#" + o.Ref
		if sub := strings.TrimPrefix(path.Join("/", o.SubDir), "/"); sub != "" {
			id += ":" + sub
		}
	}
	out := a.source("git://"+id, nil, m, pb.CapSourceGit)
	if err != nil {
		out.node.err = fmt.Errorf("git repository %q: %w", remote, err)
	}
	return out
}
