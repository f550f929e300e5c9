package oci

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxSends is how often an archive is sent at most: with no layers, to learn which ones the
// engine lacks; with those; and, if the engine wants no part of an image, whole.
const maxSends = 3

// sendArchive sends the image as a tar file. A client that hands it to an engine is asked
// which layers to leave out; one that answers the archive with codes.Aborted wants another.
func (e *Exporter) sendArchive(ctx context.Context, a exporter.Access, img *exporter.Image, names []string, resp map[string]string) error {
	for n := 1; ; n++ {
		opts := []archive.ExportOpt{archive.WithManifest(img.Descriptor(), names...), archive.WithAllPlatforms()}
		if img.Referrers {
			for _, m := range img.Attestations {
				opts = append(opts, archive.WithManifest(m.Desc))
			}
		}
		if e.kind == OCI {
			opts = append(opts, archive.WithSkipDockerManifest())
		}
		had := session.LoadAnswer{}
		if e.kind == Docker && n < maxSends {
			had = e.ask(ctx, a, img.Manifests[0], names)
		}
		if had.Have > 0 {
			opts = append(opts, archive.WithBlobFilter(without(img.Manifests[0], had.Have)))
		}
		what := "sending tarball"
		if had.Line != "" {
			what = had.Line
		}
		line := a.Log.Track(what)
		err := e.to.SendStream(ctx, a, resp, func(w io.Writer) error {
			return archive.Export(ctx, newProvider(img, a.Group), &exporter.Meter{W: w, Line: line}, opts...)
		})
		if err == nil {
			line.Done()
			return nil
		}
		if had.Have == 0 || status.Code(err) != codes.Aborted {
			return err
		}
		line.Done()
	}
}

// ask asks the client which layers its engine has. None, if it does not know.
func (e *Exporter) ask(ctx context.Context, a exporter.Access, m exporter.Manifest, names []string) session.LoadAnswer {
	caller, err := e.to.Caller(ctx, a, session.LoadMethod)
	if err != nil {
		return session.LoadAnswer{} // most clients hand the image to no engine
	}
	q := session.LoadQuestion{Exporter: e.to.Index, Names: names, Platform: *m.Desc.Platform}
	for _, l := range m.Layers {
		q.Layers = append(q.Layers, session.LoadLayer{Digest: l.Digest, DiffID: l.DiffID, Size: l.Size})
	}
	had, err := session.AskLoad(ctx, caller, q)
	if err != nil {
		return session.LoadAnswer{} // whatever it is, the whole image is right
	}
	return had
}

// without leaves the n lowest layers out, unless one of them is also above.
func without(m exporter.Manifest, n int) archive.BlobFilter {
	had := map[digest.Digest]bool{}
	for i, l := range m.Layers {
		had[l.Digest] = i < n
	}
	return func(d ocispec.Descriptor) bool { return !had[d.Digest] }
}
