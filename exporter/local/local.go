// Package local exports the files of a result into a directory of the client.
package local

import (
	"context"
	"fmt"
	"time"

	"github.com/dbuild/dbuild/exporter"
)

// An Exporter sends a tree to a client.
type Exporter struct {
	to   exporter.Client
	opts exporter.TreeOptions
}

var _ exporter.Exporter = (*Exporter)(nil)

// New returns an exporter for one request, or says what is wrong with attrs.
func New(to exporter.Client, attrs map[string]string) (*Exporter, error) {
	a := exporter.NewAttrs("local", attrs)
	e := &Exporter{to: to, opts: exporter.TreeOptionsFrom(a)}
	return e, a.Done()
}

// Name is what the display calls the step.
func (e *Exporter) Name() string { return "exporting to client directory" }

// showEvery is the shortest time between two reports.
const showEvery = 100 * time.Millisecond

// Export sends the tree. The response is empty.
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
	line := a.Log.Track("copying files")
	var shown time.Time
	// fsutil calls this under a lock.
	progress := func(n int, last bool) {
		if now := time.Now(); last || now.Sub(shown) >= showEvery {
			shown = now
			line.Set(int64(n), 0)
		}
	}
	if err := e.to.SendTree(ctx, a, tree, progress); err != nil {
		return nil, fmt.Errorf("copy files to the client: %w", err)
	}
	line.Done()
	return nil, nil
}
