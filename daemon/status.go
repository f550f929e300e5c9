package daemon

import (
	"strings"
	"time"

	"github.com/dbuild/dbuild/internal/progress"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxLogMessage bounds the output carried by one status message, in bytes, so that it
// stays well under gRPC's limit.
const maxLogMessage = 1 << 20

// statusResponses packs events into as few messages as may be sent.
func statusResponses(events []progress.Event) []*controlapi.StatusResponse {
	var out []*controlapi.StatusResponse
	cur := &controlapi.StatusResponse{}
	size := 0
	for _, e := range events {
		if size > maxLogMessage {
			out, cur, size = append(out, cur), &controlapi.StatusResponse{}, 0
		}
		vertex := e.Digest.String()
		switch {
		case e.Vertex != nil:
			cur.Vertexes = append(cur.Vertexes, vertexStatus(e.Vertex))
		case e.Status != nil:
			s := e.Status
			doing, _, some := strings.Cut(s.ID, " ") // "transferring context:"
			if !some {
				doing = ""
			}
			cur.Statuses = append(cur.Statuses, &controlapi.VertexStatus{
				ID: valid(s.ID), Name: valid(doing), Vertex: vertex, Current: s.Current, Total: s.Total,
				Timestamp: timestamppb.New(s.Timestamp), Started: stamp(s.Started), Completed: stamp(s.Completed),
			})
		case e.Output != nil:
			o := e.Output
			cur.Logs = append(cur.Logs, &controlapi.VertexLog{
				Vertex: vertex, Stream: int64(o.Stream), Msg: o.Data, Timestamp: timestamppb.New(o.Timestamp),
			})
			size += len(o.Data)
		case e.Warning != nil:
			cur.Warnings = append(cur.Warnings, warningStatus(vertex, e.Warning))
		}
	}
	return append(out, cur)
}

func vertexStatus(v *progress.VertexState) *controlapi.Vertex {
	out := &controlapi.Vertex{
		Digest: v.Digest.String(), Name: valid(v.Name), Cached: v.Cached, Error: valid(v.Error),
		Started: stamp(v.Started), Completed: stamp(v.Completed),
	}
	for _, in := range v.Inputs {
		out.Inputs = append(out.Inputs, in.String())
	}
	if g := v.Group; g != nil {
		out.ProgressGroup = &pb.ProgressGroup{Id: g.ID, Name: g.Name, Weak: g.Weak}
	}
	return out
}

func warningStatus(vertex string, w *progress.Warning) *controlapi.VertexWarning {
	out := &controlapi.VertexWarning{Vertex: vertex, Level: int64(w.Level), Short: w.Short, Detail: w.Detail, Url: w.URL}
	out.Info, _ = w.Source.(*pb.SourceInfo)
	out.Ranges, _ = w.Ranges.([]*pb.Range)
	return out
}

// valid is s as a message may contain it: names of files may be any bytes.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}
