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
	return s.noteShown(s.shown, log, diffIDs)
}

// ShowIn has the fetching of layers that are not here shown in log, that of the step whose
// result r is, until stop is called. Layers of an image are shown where that is named all the
// same. stop is nil if all layers are here.
func (r *Ref) ShowIn(log *progress.Log) (stop func()) {
	var missing []digest.Digest
	for _, l := range r.layers {
		if l.here() == "" {
			l.mu.Lock()
			missing = append(missing, l.row.DiffID)
			l.mu.Unlock()
		}
	}
	if missing == nil {
		return nil
	}
	return r.s.noteShown(r.s.found, log, missing)
}

// noteShown adds log to those that a map has for layers, until stop is called.
func (s *Store) noteShown(at map[digest.Digest][]*progress.Log, log *progress.Log, diffIDs []digest.Digest) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range diffIDs {
		at[d] = append(slices.Clip(at[d]), log)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range diffIDs {
			logs := at[d]
			if i := slices.Index(logs, log); i >= 0 {
				at[d] = slices.Delete(slices.Clone(logs), i, i+1)
			}
			if len(at[d]) == 0 {
				delete(at, d)
			}
		}
	}
}

// show opens an interval of fetching the layer at the vertices that name it, else at those
// that were found to have made it, or else at the one that needs it. What is written to work appears there, for all who wait.
func (l *layer) show(a Access) (work *progress.Log, done func(error)) {
	l.mu.Lock()
	if l.viewers++; l.work == nil {
		l.work = progress.NewLog()
	}
	work = l.work
	diffID := l.row.DiffID
	l.mu.Unlock()
	l.s.mu.Lock()
	logs, begin := l.s.shown[diffID], (*progress.Log).Start
	if len(logs) == 0 {
		logs, begin = l.s.found[diffID], (*progress.Log).Resume
	}
	l.s.mu.Unlock()
	if len(logs) == 0 {
		logs, begin = []*progress.Log{a.Log}, (*progress.Log).Start
	}
	finish := make([]func(error), len(logs))
	for i, log := range logs {
		log.Link(work)
		finish[i] = begin(log)
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
