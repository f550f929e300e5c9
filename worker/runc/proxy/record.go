package proxy

import (
	"slices"
	"sync"

	"github.com/dbuild/dbuild/attest"
	digest "github.com/opencontainers/go-digest"
)

// Reasons why it is not known what a step got of a request. They are those of BuildKit, so
// that tools know them.
const (
	ReasonMethod      = "method_not_materializable" // not a GET
	ReasonPartial     = "partial_response"
	ReasonStatus      = "unsuccessful_response"
	ReasonBody        = "body_read_failed" // as long as it is being read, too
	ReasonUpstream    = "upstream_error"
	ReasonTunnel      = "tls_failed"        // the step did not speak TLS, or does not trust the proxy
	ReasonUpgrade     = "protocol_upgraded" // what followed was not HTTP
	ReasonTooMany     = "too_many_requests" // there were more than a Record holds
	ReasonNotRecorded = "not_recorded"      // the step was found in a cache that does not know
)

// A Fetch is one request of a step.
type Fetch struct {
	Method   string        `json:"method"`
	URL      string        `json:"url"` // without credentials
	Status   int           `json:"status,omitempty"`
	Redirect string        `json:"redirect,omitempty"` // where the answer pointed
	Digest   digest.Digest `json:"digest,omitempty"`   // of the whole body
	Reason   string        `json:"reason,omitempty"`   // why it is not known what the step got
	// Denied says that the source policy refused it: nothing was fetched.
	Denied bool `json:"denied,omitempty"`
}

// maxFetches bounds a Record.
const maxFetches = 8192

// A Record is what one step asked for, in the order in which answers began. It is bounded:
// of more it only knows how many. Its methods are safe for concurrent use.
type Record struct {
	mu   sync.Mutex
	list []Fetch
	more int
}

// add returns the number of f, for finish; -1 if there is no room.
func (r *Record) add(f Fetch) int {
	f.URL, f.Redirect = attest.Redact(f.URL), attest.Redact(f.Redirect)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) == maxFetches {
		r.more++
		return -1
	}
	r.list = append(r.list, f)
	return len(r.list) - 1
}

// finish says how the body of an answer ended.
func (r *Record) finish(n int, d digest.Digest, reason string) {
	if n < 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list[n].Digest, r.list[n].Reason = d, reason
}

// Fetches returns what is recorded, and how many requests there were beside that.
func (r *Record) Fetches() (list []Fetch, more int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list), r.more
}
