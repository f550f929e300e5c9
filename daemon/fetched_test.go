package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/worker/runc/proxy"
	digest "github.com/opencontainers/go-digest"
)

func TestFetchesAreMaterials(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	get := func(url string, status int) proxy.Fetch { return proxy.Fetch{Method: "GET", URL: url, Status: status} }
	whole := func(f proxy.Fetch, d digest.Digest) proxy.Fetch { f.Digest = d; return f }
	moved := func(f proxy.Fetch, to string) proxy.Fetch { f.Redirect, f.Digest = to, b; return f }
	unknown := func(f proxy.Fetch, reason string) proxy.Fetch { f.Reason = reason; return f }
	for name, c := range map[string]struct {
		list []proxy.Fetch
		more int
		want []string // materials and what is not known, sorted
	}{
		"whole files": {[]proxy.Fetch{whole(get("http://x/a", 200), a), whole(get("http://x/b", 203), b)}, 0, []string{"http://x/a=a", "http://x/b=b"}},
		"redirects": {[]proxy.Fetch{
			moved(get("http://x/1", 301), "http://x/2"), moved(get("http://x/2", 302), "http://x/a"), whole(get("http://x/a", 200), a),
		}, 0, []string{"http://x/1=a", "http://x/2=a", "http://x/a=a"}},
		"redirects to nowhere": {[]proxy.Fetch{moved(get("http://x/1", 301), "http://x/2"), moved(get("http://x/2", 302), "http://x/1")}, 0, nil},
		"not modified":         {[]proxy.Fetch{whole(get("http://x/a", 304), b)}, 0, nil},
		"denied":               {[]proxy.Fetch{{Method: "GET", URL: "http://x/a", Status: 403, Denied: true}}, 0, nil},
		"not known":            {[]proxy.Fetch{unknown(get("http://x/a", 404), proxy.ReasonStatus)}, 0, []string{"GET http://x/a step: unsuccessful_response"}},
		"too many":             {nil, 3, []string{"step: too_many_requests: 3 are not recorded"}},
	} {
		t.Run(name, func(t *testing.T) {
			var used provenance.Used
			addFetches(&used, provenance.Unseen{Name: "step"}, c.list, c.more)
			var got []string
			for _, m := range used.Materials {
				for short, d := range map[string]digest.Digest{"a": a, "b": b} {
					if m.Digest["sha256"] == d.Encoded() {
						got = append(got, m.URI+"="+short)
					}
				}
			}
			for _, u := range used.Unseen {
				got = append(got, strings.Join(strings.Fields(fmt.Sprint(u.Method, " ", u.URI, " ", u.Name, ": ", u.Reason)), " "))
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
