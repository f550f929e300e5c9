// Package tar exports the files of a result as one tar stream to the client.
package tar

import (
	"context"
	"fmt"
	"io"

	"github.com/dbuild/dbuild/exporter"
	"github.com/tonistiigi/fsutil"
)

// An Exporter sends a tar file to a client.
type Exporter struct {
	to   exporter.Client
	opts exporter.TreeOptions
}

var _ exporter.Exporter = (*Exporter)(nil)

// New returns an exporter for one request, or says what is wrong with attrs.
func New(to exporter.Client, attrs map[string]string) (*Exporter, error) {
	a := exporter.NewAttrs("tar", attrs)
	e := &Exporter{to: to, opts: exporter.TreeOptionsFrom(a)}
	return e, a.Done()
}

// Name is what the display calls the step.
func (e *Exporter) Name() string { return "exporting to client tarball" }

// Export sends the file. The response is empty.
func (e *Exporter) Export(ctx context.Context, src exporter.Source, a exporter.Access) (_ map[string]string, err error) {
	tree, release, err := exporter.OpenTree(ctx, src, a, e.opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := release(); err == nil {
			err = e
		}
	}()
	line := a.Log.Track("sending tarball")
	err = e.to.SendStream(ctx, a, nil, func(w io.Writer) error {
		return fsutil.WriteTar(ctx, fsutil.WithHardlinkReset(tree), &exporter.Meter{W: w, Line: line})
	})
	if err != nil {
		return nil, fmt.Errorf("send tar file to the client: %w", err)
	}
	line.Done()
	return nil, nil
}
