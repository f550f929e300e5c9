package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Load gives the engine an archive, as docker load does, and returns what the engine says.
// With a platform the engine checks that it has all of that image afterwards.
func (e *Engine) Load(ctx context.Context, archive io.Reader, platform *ocispec.Platform) (said string, err error) {
	opts := []client.ImageLoadOption{client.ImageLoadWithQuiet(true)}
	if platform != nil {
		opts = append(opts, client.ImageLoadWithPlatforms(*platform))
	}
	resp, err := e.c.ImageLoad(ctx, archive, opts...)
	if err != nil {
		return "", e.explain(err)
	}
	defer resp.Close()
	var text strings.Builder
	for dec := json.NewDecoder(resp); ; {
		var m jsonstream.Message
		err := dec.Decode(&m)
		switch {
		case err == io.EOF:
			return text.String(), nil
		case err != nil:
			return "", e.explain(fmt.Errorf("the answer to an image: %w", err))
		case m.Error != nil:
			return "", e.explain(m.Error)
		case strings.HasPrefix(m.Stream, "Error "): // the image is there, but nothing can run it
			return "", e.explain(errors.New(strings.TrimSpace(m.Stream)))
		}
		if m.Stream != "" {
			text.WriteString(strings.TrimSuffix(m.Stream, "\n") + "\n")
		}
	}
}

// Tag gives names to an image that the engine has, all of it, under one of ids, and returns
// that id.
func (e *Engine) Tag(ctx context.Context, ids, names []string) (id string, ok bool) {
	for _, id := range ids {
		if !e.has(ctx, id) {
			continue
		}
		for _, name := range names {
			if _, err := e.c.ImageTag(ctx, client.ImageTagOptions{Source: id, Target: name}); err != nil {
				return "", false
			}
		}
		return id, true
	}
	return "", false
}

// has tells whether there is an image, and nothing of it is missing.
func (e *Engine) has(ctx context.Context, id string) bool {
	img, err := e.c.ImageInspect(ctx, id, client.ImageInspectWithManifests(!versions.LessThan(e.c.ClientVersion(), platformAPI)))
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(img.Manifests, func(m image.ManifestSummary) bool { return m.ID == id && !m.Available })
}
