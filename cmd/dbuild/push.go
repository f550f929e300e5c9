package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/cli/cli/config"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/spf13/cobra"
)

// pushCommand returns "dbuild push", which pushes what has been built.
func (a *app) pushCommand() *cobra.Command {
	var tags []string
	var insecure bool
	var mode string
	c := &cobra.Command{
		Use:   "push IMAGE | BUILD",
		Short: "Push an image that was built, or repeat the push of a build where that failed",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDaemon(cmd, func(d *daemonConn) error {
				images, err := pushedBy(cmd.Context(), d, args[0])
				if err != nil {
					return err
				}
				for _, image := range images {
					attrs := map[string]string{"from": image, "name": strings.Join(tags, ",")}
					if insecure {
						attrs["registry.insecure"] = "true"
					}
					resp, err := a.deal(cmd.Context(), d, mode, client.ExportEntry{Type: "push", Attrs: attrs})
					if err != nil {
						return err
					}
					for name := range strings.SplitSeq(resp["image.name"], ",") {
						fmt.Fprintln(a.stdout, name+"@"+resp["containerimage.digest"])
					}
				}
				return nil
			})
		},
	}
	c.Flags().StringArrayVarP(&tags, "tag", "t", nil, "name to push to, instead of the image's own")
	c.Flags().BoolVar(&insecure, "insecure", false, "accept any certificate of the registry, or none")
	c.Flags().StringVar(&mode, "progress", "", strings.Join(progressModes, ", "))
	fixed(c, "progress", progressModes...)
	return c
}

// pushedBy returns the names of images that a build was to push, or what itself, if that is
// no build.
func pushedBy(ctx context.Context, d *daemonConn, what string) ([]string, error) {
	if strings.ContainsAny(what, "/:@.") {
		return []string{what}, nil
	}
	all, err := records(ctx, d, &controlapi.BuildHistoryRequest{Limit: 1, Filter: []string{"ref==" + what}})
	if err != nil || len(all) == 0 {
		return []string{what}, nil //nolint:nilerr // a daemon without a history has images all the same
	}
	var images []string
	for _, e := range all[0].Exporters {
		if e.Type == "image" && e.Attrs["name"] != "" {
			name, _, _ := strings.Cut(e.Attrs["name"], ",")
			images = append(images, name)
		}
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("build %s gave no image a name, so there is nothing to push", what)
	}
	return images, nil
}

// deal has the daemon do something with images and registries that is no build. It lends
// our credentials.
func (a *app) deal(ctx context.Context, d *daemonConn, mode string, what client.ExportEntry) (map[string]string, error) {
	if !d.ours() {
		return nil, errors.New("this daemon is not dbuild's, which this needs")
	}
	conf := config.LoadDefaultConfigFile(a.stderr)
	opt := client.SolveOpt{
		Internal: true,
		Exports:  []client.ExportEntry{what},
		Session: []session.Attachable{authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
			AuthConfigProvider: authprovider.LoadAuthConfig(conf),
		})},
	}
	p, err := a.startProgress(mode, false)
	if err != nil {
		return nil, err
	}
	resp, err := d.Build(ctx, opt, "dbuild", func(context.Context, gateway.Client) (*gateway.Result, error) {
		return gateway.NewResult(), nil
	}, p.updates)
	p.wait()
	if err != nil {
		p.printTail(a.stderr)
		return nil, err
	}
	return resp.ExporterResponse, nil
}
