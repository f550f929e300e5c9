package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/rpcerror"
	"github.com/dbuild/dbuild/llb"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/apicaps"
	capspb "github.com/moby/buildkit/util/apicaps/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// An Environment is what a builder tells a frontend in its environment.
type Environment struct {
	Opts    map[string]string
	Session string
	// Platforms are those of the builder's workers, the native one first.
	Platforms []ocispec.Platform
}

// ParseEnvironment reads the variables of a process.
func ParseEnvironment(environ []string) Environment {
	e := Environment{Opts: map[string]string{}}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		switch {
		case strings.HasPrefix(name, "BUILDKIT_FRONTEND_OPT_"):
			k, opt, _ := strings.Cut(value, "=")
			e.Opts[k] = opt
		case name == "BUILDKIT_SESSION_ID":
			e.Session = value
		case name == "BUILDKIT_WORKERS":
			var workers []struct{ Platforms []ocispec.Platform }
			if json.Unmarshal([]byte(value), &workers) != nil {
				continue // then the platforms are those of this process
			}
			for _, w := range workers {
				e.Platforms = append(e.Platforms, w.Platforms...)
			}
		}
	}
	return e
}

// Run solves the builder's request by f and returns the result to the builder. The error is
// about the connection: an error of f is the builder's to report.
func Run(ctx context.Context, cc grpc.ClientConnInterface, env Environment, f frontend.Frontend, log io.Writer) error {
	b := &bridge{c: gwpb.NewLLBBridgeClient(cc), env: env, log: log, caches: &caches{}}
	if err := b.ping(ctx); err != nil {
		return fmt.Errorf("ask the builder what it can do: %w", err)
	}
	if err := b.supports(gwpb.CapReturnResult); err != nil {
		return err
	}
	res, err := b.solve(ctx, f)
	req := &gwpb.ReturnRequest{}
	if err == nil {
		req.Result, err = b.wire(res)
	}
	if err != nil {
		st, _ := status.FromError(rpcerror.Status(err))
		req.Error = st.Proto()
	}
	_, err = b.c.Return(ctx, req)
	return err
}

func (b *bridge) ping(ctx context.Context) error {
	resp, err := b.c.Ping(ctx, &gwpb.PingRequest{})
	if err != nil {
		return err
	}
	caps := resp.GetFrontendAPICaps()
	if caps == nil { // a builder from before there were capabilities
		for _, id := range []apicaps.CapID{gwpb.CapSolveBase, gwpb.CapSolveInlineReturn, gwpb.CapResolveImage, gwpb.CapReadFile} {
			caps = append(caps, &capspb.APICap{ID: string(id), Enabled: true})
		}
	}
	b.caps = gwpb.Caps.CapSet(caps)
	for _, c := range resp.GetLLBCaps() {
		b.limits = b.limits || c.GetID() == string(llb.CapRunLimits) && c.GetEnabled()
	}
	return nil
}

func (b *bridge) supports(id apicaps.CapID) error { return b.caps.Supports(id) }

func (b *bridge) solve(ctx context.Context, f frontend.Frontend) (*frontend.Result, error) {
	req := &frontend.Request{Opts: b.env.Opts, Session: b.env.Session}
	if b.supports(gwpb.CapFrontendInputs) == nil {
		in, err := b.c.Inputs(ctx, &gwpb.InputsRequest{})
		if err != nil {
			return nil, err
		}
		req.Inputs = in.GetDefinitions()
	}
	return f.Solve(ctx, b, req)
}
