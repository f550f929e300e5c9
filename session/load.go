package session

import (
	"context"
	"encoding/json"
	"fmt"

	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A LoadQuestion is asked before an image is sent to a client that hands it to an engine:
// which of its layers does the engine have?
type LoadQuestion struct {
	Exporter int      // position among the exporters of the request
	Names    []string // that the image gets
	Platform ocispec.Platform
	Layers   []LoadLayer // lowest first
}

// A LoadLayer is a layer of such an image.
type LoadLayer struct {
	Digest digest.Digest // of the blob
	DiffID digest.Digest
	Size   int64 // of the blob, in bytes
}

// A LoadAnswer says what not to send.
type LoadAnswer struct {
	Have int    // so many of the lowest layers
	Line string `json:",omitempty"` // for the progress display
}

const loadService = "dbuild.session.v1.Load"

// LoadMethod is the method of the session by which a client is asked. Other clients do not
// have it, and other daemons do not ask: then the whole image is sent. Question and answer
// are JSON.
var LoadMethod = bksession.MethodURL(loadService, "Missing")

// AskLoad asks a client that has LoadMethod.
func AskLoad(ctx context.Context, c bksession.Caller, q LoadQuestion) (LoadAnswer, error) {
	var a LoadAnswer
	b, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	var reply wrapperspb.BytesValue
	if err := c.Conn().Invoke(c.Context(ctx), LoadMethod, wrapperspb.Bytes(b), &reply); err != nil {
		return a, err
	}
	if err := json.Unmarshal(reply.Value, &a); err != nil {
		return a, fmt.Errorf("the client's answer: %w", err)
	}
	if a.Have < 0 || a.Have > len(q.Layers) {
		return a, fmt.Errorf("the client's answer: it has %d of %d layers", a.Have, len(q.Layers))
	}
	return a, nil
}

// LoadAnswerer answers for an engine.
type LoadAnswerer func(context.Context, LoadQuestion) (LoadAnswer, error)

var _ bksession.Attachable = LoadAnswerer(nil)

// Register implements bksession.Attachable.
func (f LoadAnswerer) Register(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: loadService,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Missing", Handler: f.handle}},
	}, f)
}

// handle is a handler of gRPC.
func (f LoadAnswerer) handle(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	var req wrapperspb.BytesValue
	if err := decode(&req); err != nil {
		return nil, err
	}
	answer := func(ctx context.Context, _ any) (any, error) {
		var q LoadQuestion
		if err := json.Unmarshal(req.Value, &q); err != nil {
			return nil, err
		}
		a, err := f(ctx, q)
		if err != nil {
			return nil, err
		}
		b, err := json.Marshal(a)
		return wrapperspb.Bytes(b), err
	}
	if intercept == nil {
		return answer(ctx, &req)
	}
	return intercept(ctx, &req, &grpc.UnaryServerInfo{Server: f, FullMethod: LoadMethod}, answer)
}
