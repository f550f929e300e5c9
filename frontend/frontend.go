// Package frontend defines how a build language becomes LLB: a Frontend is asked to
// solve a Request and may ask the daemon, through a Bridge, for what it needs.
package frontend

import (
	"context"
	"fmt"
	"io"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// A Frontend turns a request into refs and metadata.
type Frontend interface {
	Solve(context.Context, Bridge, *Request) (*Result, error)
}

// A Request is what a client asks of a frontend. Opts are the keys of BuildKit's
// FrontendOpt ("filename", "target", "build-arg:X", "context:NAME" ...); Inputs are
// definitions handed over by another frontend.
type Request struct {
	Opts   map[string]string
	Inputs map[string]*pb.Definition
	// Session is the id of the client's session. Bridge.SolveFrontend fills it in.
	Session string
}

// A Result is one Ref, or one per platform in Refs (keyed by platform id), and the
// metadata that exporters read, such as "containerimage.config" (a JSON image config;
// with "/<platform id>" appended when Refs is set) and "refs.platforms".
type Result struct {
	Ref      Ref
	Refs     map[string]Ref
	Metadata map[string][]byte
	// Attestations are about the parts of the result, by platform id, also if there is
	// only one.
	Attestations map[string][]Attestation
}

// A Ref is a result seen through the bridge. It is lazy: nothing is built until it is
// read, evaluated or exported. A nil Ref is an empty filesystem (scratch).
type Ref interface {
	// Definition is the LLB that makes the ref.
	Definition() *pb.Definition
	// Evaluate builds it.
	Evaluate(context.Context) error
	// ReadFile returns length bytes of a file from offset, or all of it if length is
	// zero. A missing file is an fs.ErrNotExist.
	ReadFile(ctx context.Context, path string, offset, length int64) ([]byte, error)
	// ReadDir lists a directory; includePattern, if set, filters names like path.Match.
	ReadDir(ctx context.Context, path, includePattern string) ([]*fstypes.Stat, error)
	StatFile(ctx context.Context, path string) (*fstypes.Stat, error)
}

// A CacheEntry is a cache as clients name it: "registry" with "ref", and so on.
type CacheEntry struct {
	Type  string
	Attrs map[string]string
}

// A Bridge is all that a frontend may ask of the daemon.
type Bridge interface {
	// Solve validates a definition and returns its lazy result.
	Solve(context.Context, *pb.Definition) (Ref, error)
	// ImportCache lets the build look for results in these caches, too.
	ImportCache(...CacheEntry)
	// SolveFrontend solves a request by the frontend of that name.
	SolveFrontend(ctx context.Context, name string, req *Request) (*Result, error)
	// ResolveImage returns the config of an image. It is shown as a vertex named opt.LogName.
	ResolveImage(ctx context.Context, ref string, opt ResolveOpt) (*ImageMeta, error)
	// ResolveSource says what a source is, after policies, and what it means: the digest and
	// config of an image, the commit of a git ref, the digest of a download. For the build it
	// means the same from then on. The request's SourcePolicies do not count; see WithPolicies.
	ResolveSource(context.Context, *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error)
	// WithPolicies returns the Bridge for questions that are subject to more policies than
	// those of the build. An invalid policy is an error.
	WithPolicies([]*spb.Policy) (Bridge, error)
	// Warn attaches a warning to the vertex it names.
	Warn(context.Context, Warning)
	// Log is where a frontend says what is no warning. It is shown as a step of that name,
	// if anything is written to it.
	Log(name string) io.WriteCloser
	// Platforms are those the daemon's workers run, the native one first.
	Platforms() []ocispec.Platform
	// NewContainer checks what is asked for against what the build may do and prepares a
	// container. It lives until it is released or the build ends.
	NewContainer(context.Context, ContainerRequest) (Container, error)
}

// ResolveOpt says how to resolve an image reference. Mode is "default", "pull" or
// "local". OCILayout, if set, names the client's content store (session id and store
// id) to resolve from instead of a registry.
type ResolveOpt struct {
	Platform  *ocispec.Platform
	Mode      string
	LogName   string
	OCILayout *OCILayout
}

// An OCILayout names a content store that a client lends to its build.
type OCILayout struct{ SessionID, StoreID string }

// ImageMeta is what resolving an image yields: Ref is the reference with its digest
// (of the index, if there is one), Config the raw JSON image config.
type ImageMeta struct {
	Ref    string
	Digest digest.Digest
	Config []byte
}

// A NotImageError says that a source policy has made something else of an image.
type NotImageError struct{ Ref, Source string }

func (e *NotImageError) Error() string {
	return fmt.Sprintf("image %s: the source policy makes %s of it, which is no image", e.Ref, e.Source)
}

// An InputError says that what was asked of a frontend is wrong: the source, or an option.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }
func (e *InputError) Unwrap() error { return e.Err }

// A Warning is about some lines of the source, and is shown at the vertex Vertex.
type Warning struct {
	Vertex digest.Digest
	Level  int
	Short  string
	Detail []string
	URL    string
	Source *pb.SourceInfo
	Ranges []*pb.Range
}
