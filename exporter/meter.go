package exporter

import (
	"io"

	"github.com/dbuild/dbuild/internal/progress"
)

// A Meter shows on a line how much was written through it.
type Meter struct {
	W    io.Writer
	Line *progress.Tracker
	n    int64
}

// Write writes to W.
func (m *Meter) Write(p []byte) (int, error) {
	n, err := m.W.Write(p)
	m.n += int64(n)
	m.Line.Set(m.n, 0)
	return n, err
}
