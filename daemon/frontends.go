package daemon

import (
	"context"
	"fmt"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile"
	"github.com/dbuild/dbuild/frontend/gateway"
	"github.com/dbuild/dbuild/session"
	"google.golang.org/grpc"
)

// wireFrontends makes the frontends that the config allows.
func (d *Daemon) wireFrontends() error {
	d.frontends = map[string]frontend.Frontend{}
	if !d.cfg.Frontends.NoDockerfile {
		d.frontends[dockerfileFrontend] = dockerfile.New()
	}
	if d.cfg.Frontends.NoGateway {
		return nil
	}
	images, err := gateway.NewImages(gateway.ImagesConfig{
		Find: func(ctx context.Context, b frontend.Bridge, req *frontend.Request, name string) (*gateway.Image, error) {
			def, config, err := dockerfile.FrontendImage(ctx, b, req, name)
			return &gateway.Image{Definition: def, Config: config}, err
		},
		Builtin: func(name string) string {
			if dockerfile.Builtin(name) {
				return dockerfileFrontend
			}
			return ""
		},
		Allowed: d.cfg.Frontends.GatewayRepositories,
		Workers: d.workers,
		Server: []grpc.ServerOption{
			grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.ForceServerCodecV2(session.Codec{}),
			grpc.ChainUnaryInterceptor(d.unaryErrors), grpc.ChainStreamInterceptor(d.streamErrors), grpc.WaitForHandlers(true),
		},
	})
	if err != nil {
		return fmt.Errorf("frontend %s: %w", gatewayFrontend, err)
	}
	d.frontends[gatewayFrontend] = images
	return nil
}
