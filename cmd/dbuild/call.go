package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"google.golang.org/grpc/codes"
)

// call asks the frontend something other than to build, and prints the answer. The file is
// where the Dockerfile is, for reports.
func (a *app) call(ctx context.Context, d *daemonConn, c buildflags.Call, file string, opt client.SolveOpt, p *progress) error {
	frontend, attrs := opt.Frontend, opt.FrontendAttrs
	attrs["requestid"] = c.Method
	attrs["frontend.caps"] = "moby.buildkit.frontend.subrequests"
	opt.Frontend, opt.Internal = "", true
	var meta map[string][]byte
	_, err := d.Build(ctx, opt, "dbuild", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		res, err := g.Solve(ctx, gateway.SolveRequest{Frontend: frontend, FrontendOpt: attrs})
		if err != nil {
			return nil, err
		}
		meta = res.Metadata
		return gateway.NewResult(), nil
	}, p.updates)
	p.wait()
	if err != nil {
		if codeOf(err) == codes.Unimplemented {
			return fmt.Errorf("--call: this daemon does not answer %s: %w", c.Method, err)
		}
		return err
	}
	answer, ok := meta["result.txt"]
	if c.Format == "json" || !ok {
		answer, ok = meta["result.json"]
	}
	if !ok {
		return errors.New("--call: the daemon gave no answer")
	}
	if c.Format == "sarif" || c.Format == "github" {
		var err error
		if answer, err = checkReport(c.Format, meta["result.json"], file); err != nil {
			return fmt.Errorf("--call=check,format=%s: %w", c.Format, err)
		}
	}
	if len(answer) > 0 && answer[len(answer)-1] != '\n' {
		answer = append(answer, '\n')
	}
	if _, err := a.stdout.Write(answer); err != nil {
		return err
	}
	if code, err := strconv.Atoi(string(meta["result.statuscode"])); err == nil && code != 0 {
		return statusError(code)
	}
	return nil
}
