package local

import (
	"context"
	"errors"
	"net/url"
	"unicode"

	"github.com/dbuild/dbuild/session"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// open starts a transfer with the client of session id: on a lane if the client has one,
// else by the method DiffCopy of moby.filesync.v1.FileSync. The stream ends with ctx.
func (s *Source) open(ctx context.Context, id string, c session.Caller, req Request) (Stream, error) {
	if conn := s.cfg.Sessions.Lane(ctx, id); conn != nil {
		return openLane(ctx, conn, req)
	}
	return diffCopy(ctx, c, req)
}

// diffCopy starts a transfer as every client knows it. The metadata says what to send.
func diffCopy(ctx context.Context, c session.Caller, req Request) (Stream, error) {
	if !c.Supports(bksession.MethodURL(filesync.FileSync_ServiceDesc.ServiceName, "DiffCopy")) {
		return nil, errors.New("the client does not offer its files")
	}
	md := metadata.MD{}
	setList(md, "dir-name", []string{req.Name})
	setList(md, "include-patterns", req.Include)
	setList(md, "exclude-patterns", req.Exclude)
	setList(md, "followpaths", req.FollowPaths)
	return filesync.NewFileSyncClient(c.Conn()).DiffCopy(
		metadata.NewOutgoingContext(ctx, md), grpc.ForceCodecV2(session.Codec{}))
}

// setList sets a header that may be repeated. If it has a value that headers cannot carry
// as it is, all are escaped, and a second header says so.
func setList(md metadata.MD, key string, values []string) {
	if len(values) == 0 {
		return
	}
	plain := true
	for _, v := range values {
		for _, r := range v {
			plain = plain && r >= ' ' && r < unicode.MaxASCII
		}
	}
	if plain {
		md[key] = values
		return
	}
	escaped := make([]string, len(values))
	for i, v := range values {
		escaped[i] = url.QueryEscape(v)
	}
	md[key] = escaped
	md[key+"-encoded"] = []string{"1"}
}
