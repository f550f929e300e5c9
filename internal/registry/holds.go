package registry

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/dbuild/dbuild/internal/flight"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// heldFor is how long it is believed of a repository that it holds a blob.
	heldFor = 10 * time.Minute
	// holdsTimeout bounds the question: whoever asks has something else to do.
	holdsTimeout = 3 * time.Second
	// shyFor is how long a registry that did not answer in time, or a repository into which
	// it does not let us look, is not asked.
	shyFor = time.Minute
	// maxHoldings bounds memory.
	maxHoldings = 64 << 10
)

// A holding is a blob in a repository.
type holding struct {
	loc  Location
	blob digest.Digest
}

// holdings are what repositories were seen to hold lately.
type holdings struct {
	asked flight.Group[holding, bool]

	mu   sync.Mutex // guards the maps
	seen map[holding]time.Time
	shy  map[string]time.Time // registries and repositories that do not say, until when
}

// Holds asks whether a repository holds a blob, unless it was seen to within the last ten
// minutes. It is a hint that costs one short request: known is false if the registry does
// not say in time, or does not let the group look.
func (c *Client) Holds(ctx context.Context, g bksession.Group, loc Location, desc ocispec.Descriptor) (holds, known bool) {
	h := &c.holdings
	k := holding{loc, desc.Digest}
	if fresh, shy := h.recent(k); fresh || shy {
		return fresh, fresh
	}
	holds, err := h.asked.Do(ctx, k, func(ctx context.Context) (bool, error) {
		if fresh, _ := h.recent(k); fresh {
			return true, nil
		}
		at, err := c.host(g, loc.Host(), loc.Insecure)
		if err != nil {
			return false, err
		}
		at.Client = hasty(at.Client)
		ctx, cancel := context.WithTimeout(ctx, holdsTimeout)
		defer cancel()
		ok, err := c.existsAt(ctx, at, loc, desc)
		switch {
		case ok:
			h.note(k)
		case errors.Is(err, ErrUnreachable) || errors.Is(ctx.Err(), context.DeadlineExceeded):
			h.shun(loc.Host())
		case err != nil && ctx.Err() == nil:
			h.shun(loc.Repo)
		}
		return ok, err
	})
	return holds, err == nil
}

// hasty returns a client with the same connections that tries once only.
func hasty(c *http.Client) *http.Client {
	p := *c.Transport.(*patient)
	p.attempts = 1
	return &http.Client{Transport: &p}
}

// recent reports whether the blob was seen lately, and whether its registry is not to be
// asked now.
func (h *holdings) recent(k holding) (fresh, shy bool) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.seen[k]), now.Before(h.shy[k.loc.Host()]) || now.Before(h.shy[k.loc.Repo])
}

func (h *holdings) note(k holding) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen == nil || len(h.seen) >= maxHoldings {
		h.seen = map[holding]time.Time{}
	}
	h.seen[k] = time.Now().Add(heldFor)
}

// forget is called when a blob was not where it had been seen.
func (h *holdings) forget(k holding) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.seen, k)
}

func (h *holdings) shun(place string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shy == nil || len(h.shy) >= maxHoldings {
		h.shy = map[string]time.Time{}
	}
	h.shy[place] = time.Now().Add(shyFor)
}
