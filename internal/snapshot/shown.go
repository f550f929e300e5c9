package snapshot

import (
	"errors"
	"slices"

	"github.com/dbuild/dbuild/internal/progress"
	digest "github.com/opencontainers/go-digest"
)

// ShowIn has the fetching of layers shown in log, that of the vertex which names their
// image, until stop is called: whoever needs the bytes, and however late, it is there that
// they appear.
func (s *Store) ShowIn(log *progress.Log, diffIDs []digest.Digest) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range diffIDs {
		s.shown[d] = append(slices.Clip(s.shown[d]), log)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range diffIDs {
			logs := s.shown[d]
			if i := slices.Index(logs, log); i >= 0 {
				s.shown[d] = slices.Delete(slices.Clone(logs), i, i+1)
			}
			if len(s.shown[d]) == 0 {
				delete(s.shown, d)
			}
		}
	}
}

// show opens an interval of fetching the layer at the vertices that name it, or else at the
// one that needs it. What is written to work appears there, for all who wait.
func (l *layer) show(a Access) (work *progress.Log, done func(error)) {
	l.mu.Lock()
	if l.viewers++; l.work == nil {
		l.work = progress.NewLog()
	}
	work = l.work
	diffID := l.row.DiffID
	l.mu.Unlock()
	l.s.mu.Lock()
	logs := l.s.shown[diffID]
	l.s.mu.Unlock()
	if len(logs) == 0 {
		logs = []*progress.Log{a.Log}
	}
	finish := make([]func(error), len(logs))
	for i, log := range logs {
		log.Link(work)
		finish[i] = log.Start()
	}
	return work, func(err error) {
		var lost *LostError
		if errors.As(err, &lost) {
			err = nil // it may be made again; if not, that is the failure of who needs it
		}
		for _, f := range finish {
			f(err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.viewers--; l.viewers == 0 {
			l.work = nil
		}
	}
}
