// Package oci exports an image as a tar file to the client: an OCI image layout, or with
// a manifest.json beside it, what docker load takes.
package oci

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dbuild/dbuild/exporter"
)

// A Kind is the type of an exporter, as clients write it.
type Kind string

// Kinds of tar files.
const (
	OCI    Kind = "oci"
	Docker Kind = "docker"
)

// An Exporter sends an image to a client.
type Exporter struct {
	to    exporter.Client
	kind  Kind
	opts  exporter.ImageOptions
	names string
	tar   bool
}

var _ exporter.Exporter = (*Exporter)(nil)

// New returns an exporter for one request, or says what is wrong with attrs.
func New(to exporter.Client, kind Kind, attrs map[string]string) (*Exporter, error) {
	if kind != OCI && kind != Docker {
		return nil, fmt.Errorf("there is no exporter %q", kind)
	}
	a := exporter.NewAttrs(string(kind), attrs)
	e := &Exporter{
		to:    to,
		kind:  kind,
		opts:  exporter.ImageOptionsFrom(a),
		names: a.String("name"),
		tar:   a.Bool("tar", true),
	}
	// What the client does with the file; and what it says to all exporters of images.
	a.Ignore("dest", "context", "load", "push", "store", "unpack")
	return e, a.Done()
}

// Name is what the display calls the step.
func (e *Exporter) Name() string { return "exporting to " + string(e.kind) + " image format" }

// Export sends the image. Its layers are read once and not stored.
func (e *Exporter) Export(ctx context.Context, src exporter.Source, a exporter.Access) (map[string]string, error) {
	if e.kind == Docker && (src.Multi() || e.opts.Attested(src)) {
		return nil, errors.New("docker exporter does not currently support exporting manifest lists")
	}
	if e.kind == Docker && e.opts.Attach == exporter.AttachReferrers && len(src.Attestations) > 0 {
		return nil, errors.New("docker exporter: an archive for docker load has no room for attestations that refer to the image")
	}
	names, err := src.Names(e.names)
	if err != nil {
		return nil, err
	}
	want := e.opts
	want.Names = names
	src, release, err := exporter.Squash(ctx, src, a, want)
	if err != nil {
		return nil, err
	}
	defer release()
	img, err := exporter.Assemble(ctx, src, a, want)
	if err != nil {
		return nil, err
	}
	resp, err := img.Response()
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		resp[exporter.RespName] = strings.Join(names, ",")
	}
	if !e.tar {
		if img.Referrers && len(img.Attestations) > 0 {
			return nil, errors.New("oci exporter: attestations that refer to the image need a tar file; a directory (tar=false) names nothing but the image")
		}
		if err := e.sendContent(ctx, a, img); err != nil {
			return nil, fmt.Errorf("send image to the client: %w", err)
		}
		a.Report(img)
		return resp, nil
	}
	if err := e.sendArchive(ctx, a, img, names, resp); err != nil {
		return nil, fmt.Errorf("send image to the client: %w", err)
	}
	a.Report(img)
	return resp, nil
}
