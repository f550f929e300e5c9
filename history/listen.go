package history

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
)

// maxEvents is how many events a listener may be behind.
const maxEvents = 1024

// A listener is somebody who wants to know what happens.
type listener struct {
	events chan *controlapi.BuildHistoryEvent // closed if the listener is too slow
}

// tell gives an event to all listeners. j.mu is held.
func (j *Journal) tell(ev *controlapi.BuildHistoryEvent) {
	for l := range j.listeners {
		select {
		case l.events <- ev:
		default:
			close(l.events)
			delete(j.listeners, l)
		}
	}
}

// Listen sends the builds that there are and, unless req says EarlyExit, what happens
// from then on, until ctx ends.
func (j *Journal) Listen(ctx context.Context, req *controlapi.BuildHistoryRequest, send func(*controlapi.BuildHistoryEvent) error) error {
	match, err := parseFilters(req.GetFilter())
	if err != nil {
		return err
	}
	if req.GetLimit() < 0 {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("limit %d: it must not be negative", req.GetLimit()))
	}
	l := &listener{events: make(chan *controlapi.BuildHistoryEvent, maxEvents)}
	there, err := j.there(ctx, req, l)
	if err != nil {
		return err
	}
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.listeners, l)
	}()
	there = slices.DeleteFunc(there, func(ev *controlapi.BuildHistoryEvent) bool { return !match(ev.Record) })
	if limit := int(req.GetLimit()); limit > 0 {
		slices.SortStableFunc(there, func(a, b *controlapi.BuildHistoryEvent) int {
			return b.Record.CreatedAt.AsTime().Compare(a.Record.CreatedAt.AsTime())
		})
		there = there[:min(limit, len(there))]
	}
	for _, ev := range there {
		if err := send(ev); err != nil {
			return err
		}
	}
	if req.GetEarlyExit() {
		return nil
	}
	for {
		select {
		case ev, ok := <-l.events:
			if !ok {
				return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("more than %d events waited for this listener: ask again", maxEvents))
			}
			gone := ev.Type == controlapi.BuildHistoryEventType_DELETED
			if req.GetRef() != "" && ev.Record.Ref != req.GetRef() || !gone && !match(ev.Record) {
				continue
			}
			if err := send(ev); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// there returns the builds req asks for, the oldest first, and from the same moment on
// gives l what happens.
func (j *Journal) there(ctx context.Context, req *controlapi.BuildHistoryRequest, l *listener) ([]*controlapi.BuildHistoryEvent, error) {
	var out []*controlapi.BuildHistoryEvent
	var refs []string
	for {
		j.mu.Lock()
		wait := j.unsettled(req.GetRef())
		if wait == nil || req.GetActiveOnly() {
			break
		}
		j.mu.Unlock()
		select {
		case <-wait.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if !req.GetEarlyExit() {
		j.listeners[l] = true
	}
	for ref, e := range j.active {
		if !e.finished && (req.GetRef() == "" || req.GetRef() == ref) {
			out = append(out, &controlapi.BuildHistoryEvent{
				Type: controlapi.BuildHistoryEventType_STARTED, Record: e.record.CloneVT(),
			})
		}
	}
	if !req.GetActiveOnly() {
		for _, r := range j.sortedRows() {
			if req.GetRef() == "" || req.GetRef() == r.ref {
				refs = append(refs, r.ref)
			}
		}
	}
	j.mu.Unlock()
	for _, ref := range refs {
		rec, err := j.Record(ctx, ref)
		if errdefs.IsNotFound(err) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, &controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: rec})
	}
	slices.SortStableFunc(out, func(a, b *controlapi.BuildHistoryEvent) int {
		return a.Record.CreatedAt.AsTime().Compare(b.Record.CreatedAt.AsTime())
	})
	return out, nil
}
