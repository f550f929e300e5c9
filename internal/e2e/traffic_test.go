package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	units "github.com/docker/go-units"
	"github.com/rogpeppe/go-internal/testscript"

	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
)

// cmdTraffic checks what a registry was asked since the last call: traffic REG WHAT=N ...,
// with <N and >N too. WHAT is
//
//	layers  layers that were read, or parts of them     bytes  read of layers
//	twice   those of them that were read before         docs   configs that were read
//	heads   blobs that were asked for                   mounts blobs that were mounted
//	tries   mounts that were asked for                  sent   blobs that were written
func cmdTraffic(ts *testscript.TestScript, neg bool, args []string) {
	r := get(ts).registries[args[0]]
	if r == nil || neg {
		ts.Fatalf("usage: traffic REGISTRY WHAT=N ...")
	}
	xs := r.Exchanges()
	r.Forget()
	got, seen := map[string]int{}, map[string]bool{}
	var log strings.Builder
	for _, x := range xs {
		fmt.Fprintf(&log, "%s %s %d, %d bytes\n", x.Method, x.URI, x.Status, x.Bytes)
		blob := strings.Contains(x.URI, "/blobs/")
		switch {
		case x.Layer():
			got["layers"]++
			got["bytes"] += int(x.Bytes)
			if seen[x.URI] {
				got["twice"]++
			}
			seen[x.URI] = true
		case !blob:
		case x.Method == http.MethodGet && x.Document:
			got["docs"]++
		case x.Method == http.MethodHead:
			got["heads"]++
		case x.Method == http.MethodPost && strings.Contains(x.URI, "mount="):
			got["tries"]++
			if x.Status == http.StatusCreated {
				got["mounts"]++
			}
		case x.Method == http.MethodPut && x.Status == http.StatusCreated:
			got["sent"]++
		}
	}
	for _, a := range args[1:] {
		at := strings.IndexAny(a, "=<>")
		if at < 0 {
			ts.Fatalf("%s: want WHAT=N", a)
		}
		want, err := strconv.Atoi(a[at+1:])
		ts.Check(err)
		n := got[a[:at]]
		if ok := map[byte]bool{'=': n == want, '<': n < want, '>': n > want}[a[at]]; !ok {
			ts.Fatalf("%s: %s is %d, want %s\n%s", args[0], a[:at], n, a[at:], log.String())
		}
	}
}

// cmdBreak makes a registry fail in answers to requests that match a pattern ("GET .*/blobs/"),
// a number of times: break REG KIND PATTERN [TIMES]. KIND is a status, or drop, stall,
// truncate or flip. Without KIND everything works again.
func cmdBreak(ts *testscript.TestScript, _ bool, args []string) {
	r := get(ts).registries[args[0]]
	if len(args) == 1 {
		r.Heal()
		return
	}
	var f rt.Fault
	switch args[1] {
	case "drop":
		f = rt.Drop(100)
	case "stall":
		f = rt.Stall(100)
	case "truncate":
		f = rt.Truncate(100)
	case "flip":
		f = rt.Flip()
	default:
		status, err := strconv.Atoi(args[1])
		ts.Check(err)
		f = rt.Status(status, "")
	}
	times := 1 << 30
	if len(args) > 3 {
		var err error
		times, err = strconv.Atoi(args[3])
		ts.Check(err)
	}
	r.Break(rt.Times(times, args[2], f))
}

// cmdLoseLayers removes from a registry's disk every layer, but leaves it what is JSON:
// lose-layers REG
func cmdLoseLayers(ts *testscript.TestScript, _ bool, args []string) {
	lost := 0
	ts.Check(filepath.WalkDir(get(ts).registries[args[0]].data, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() != "data" {
			return err
		}
		if b, err := os.ReadFile(path); err != nil || json.Valid(b) {
			return err
		}
		lost++
		return os.Remove(path)
	}))
	if lost == 0 {
		ts.Fatalf("there was no layer to lose")
	}
}

// cmdOnly lets a user, whose password is his name, into some repositories of a registry
// only: only REG USER REPO .... Others may do nothing there. A mount from a repository
// that is not among them is refused, as by servers that give out tokens.
func cmdOnly(ts *testscript.TestScript, _ bool, args []string) {
	r, user, repos := get(ts).registries[args[0]], args[1], args[2:]
	path := regexp.MustCompile(`^/v2/(.*)/(blobs|manifests)/`)
	may := func(repo string) bool {
		for _, r := range repos {
			if r == repo {
				return true
			}
		}
		return false
	}
	r.Break(func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
		name, password, _ := req.BasicAuth()
		if name != user || password != user {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		req.Header.Del("Authorization")
		if m := path.FindStringSubmatch(req.URL.Path); m != nil && !may(m[1]) {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		if q := req.URL.Query(); q.Has("from") && !may(q.Get("from")) {
			req.URL.RawQuery = ""
		}
		return false
	})
	login(ts, r.addr, user)
}

// cmdStateSize measures the daemon's state under a name, and compares it with what was
// measured before: state-size NAME [<OTHER+SIZE], SIZE with K or M.
func cmdStateSize(ts *testscript.TestScript, _ bool, args []string) {
	var size int64
	seen := map[uint64]bool{}
	ts.Check(filepath.WalkDir(ts.Getenv("STATE"), func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return nil // gone by now
		}
		st := fi.Sys().(*syscall.Stat_t)
		if !seen[st.Ino] {
			seen[st.Ino] = true
			size += st.Blocks * 512
		}
		return nil
	}))
	sizes := get(ts).sizes
	sizes[args[0]] = size
	if len(args) < 2 {
		return
	}
	other, more, ok := strings.Cut(strings.TrimPrefix(args[1], "<"), "+")
	if !ok {
		ts.Fatalf("%s: want <NAME+SIZE", args[1])
	}
	limit, err := units.RAMInBytes(more)
	ts.Check(err)
	if size >= sizes[other]+limit {
		ts.Fatalf("the state has grown from %d to %d bytes, more than %s", sizes[other], size, more)
	}
}
