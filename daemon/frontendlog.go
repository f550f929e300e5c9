package daemon

import (
	"io"
	"sync"

	"github.com/dbuild/dbuild/internal/progress"
)

// Log implements frontend.Bridge.
func (b *build) Log(name string) io.WriteCloser { return &frontendLog{b: b, name: name} }

// A frontendLog becomes a step when something is written to it.
type frontendLog struct {
	b    *build
	name string

	mu   sync.Mutex
	out  *progress.Writer
	done func(error)
}

func (l *frontendLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil {
		var log *progress.Log
		log, l.done = l.b.step("log:"+l.name, l.name)
		l.out = log.Output(2)
	}
	return l.out.Write(p)
}

// Close ends the step, if there is one.
func (l *frontendLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		return nil
	}
	err := l.out.Close()
	l.done(nil)
	l.done = nil
	return err
}
