package worker

import (
	"context"
	"fmt"
	"io"
	"net/url"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker/runc/proxy"
	"github.com/moby/buildkit/solver/pb"
)

// A SourceJudge is a Client with a policy for sources.
type SourceJudge interface {
	Client
	// JudgeSource returns what becomes of a source, op or another, or why it may not be used.
	JudgeSource(ctx context.Context, op *pb.SourceOp) (*pb.SourceOp, error)
}

// A requestJudge is what runc.Proxy asks.
type requestJudge = func(ctx context.Context, method string, u *url.URL) (*url.URL, error)

// judgeFor judges requests as everybody wants who waits for d.
func judgeFor(d solver.Demand) requestJudge {
	return func(ctx context.Context, method string, u *url.URL) (*url.URL, error) {
		for j := range d.Jobs() {
			judge, ok := j.Value().(SourceJudge)
			if !ok {
				continue
			}
			var err error
			if u, err = JudgeRequests(judge.JudgeSource)(ctx, method, u); err != nil {
				return nil, err
			}
		}
		return u, nil
	}
}

// JudgeRequests has a policy for sources judge the requests of a process as the sources that
// they would be. Credentials are not shown to it.
func JudgeRequests(judge func(context.Context, *pb.SourceOp) (*pb.SourceOp, error)) requestJudge {
	return func(ctx context.Context, method string, u *url.URL) (*url.URL, error) {
		return judgeRequest(ctx, judge, method, u)
	}
}

func judgeRequest(ctx context.Context, judge func(context.Context, *pb.SourceOp) (*pb.SourceOp, error), method string, u *url.URL) (*url.URL, error) {
	shown := *u
	shown.User = nil
	op := &pb.SourceOp{Identifier: shown.String()}
	out, err := judge(ctx, op)
	if err != nil || out.Identifier == op.Identifier && len(out.Attrs) == 0 {
		return u, err
	}
	switch {
	case method != "GET":
		return nil, badConversion("only GET requests can be converted, this is a %s", method)
	case len(out.Attrs) > 0:
		return nil, badConversion("a request can be given another address, but no attributes")
	}
	to, err := url.Parse(out.Identifier)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, badConversion("what it is converted to is not an http or https address")
	}
	return to, nil
}

func badConversion(format string, args ...any) error {
	return cerrdefs.ErrInvalidArgument.WithMessage("source policy: " + fmt.Sprintf(format, args...))
}

// maxPrinted bounds how many requests are listed in the output of a process.
const maxPrinted = 500

// printFetches lists what a process asked for, in BuildKit's words.
func printFetches(w io.Writer, r *proxy.Record) {
	if r == nil {
		return
	}
	list, more := r.Fetches()
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(w, "proxy network requests:")
	for _, f := range list[:min(len(list), maxPrinted)] {
		switch {
		case f.Denied:
			fmt.Fprintf(w, "- %s %s -> %d, denied by the source policy\n", f.Method, f.URL, f.Status)
		case f.Reason == proxy.ReasonTunnel:
			fmt.Fprintf(w, "- %s %s: no TLS connection: the program does not trust the proxy, or does not speak TLS\n", f.Method, f.URL)
		default:
			fmt.Fprintf(w, "- %s %s -> %d\n", f.Method, f.URL, f.Status)
		}
	}
	if more += max(0, len(list)-maxPrinted); more > 0 {
		fmt.Fprintf(w, "- and %d more\n", more)
	}
}
