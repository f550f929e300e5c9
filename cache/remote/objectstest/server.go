// Package objectstest has servers for tests that speak as much of the protocols of object
// stores as the clients of caches need, keep everything in memory, and fail on demand.
package objectstest

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Server keeps objects by key.
type Server struct {
	URL string // without a slash at the end

	http *httptest.Server

	mu      sync.Mutex // guards what follows
	objects map[string]object
	parts   map[string]map[string][]byte // of uploads that are not complete
	faults  []*fault
	log     []string
	next    int               // of uploads
	names   map[string]string // keys of uploads to GitHub
	taken   map[string]bool   // keys that GitHub has reserved
}

type object struct {
	data []byte
	at   time.Time
}

// A fault hits the requests it matches, "METHOD PATH?QUERY", some times.
type fault struct {
	match  *regexp.Regexp
	left   int
	status int // 0: the answer is cut off in its middle
	header http.Header
}

func newServer(handle func(s *Server, w http.ResponseWriter, r *http.Request)) *Server {
	s := &Server{objects: map[string]object{}, parts: map[string]map[string][]byte{}, names: map[string]string{}, taken: map[string]bool{}}
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := r.Method + " " + r.URL.RequestURI()
		f := s.arrived(what)
		switch {
		case f == nil:
			handle(s, w, r)
		case f.status == 0:
			handle(s, &cut{ResponseWriter: w}, r)
			panic(http.ErrAbortHandler)
		default:
			maps.Copy(w.Header(), f.header)
			http.Error(w, "fault", f.status)
		}
	}))
	s.URL = s.http.URL
	return s
}

// Close ends the server.
func (s *Server) Close() { s.http.Close() }

func (s *Server) arrived(what string) *fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, what)
	for _, f := range s.faults {
		if f.left > 0 && f.match.MatchString(what) {
			f.left--
			return f
		}
	}
	return nil
}

// Fail answers the next requests that match with a status; header is "Name: value", or "".
func (s *Server) Fail(match string, times, status int, header string) {
	f := &fault{match: regexp.MustCompile(match), left: times, status: status, header: http.Header{}}
	if k, v, ok := strings.Cut(header, ": "); ok {
		f.header.Set(k, v)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// Cut ends the next answers that match after half of what they should have.
func (s *Server) Cut(match string, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &fault{match: regexp.MustCompile(match), left: times})
}

// Count returns how many requests matched since Forget.
func (s *Server) Count(match string) (n int) {
	re := regexp.MustCompile(match)
	for _, l := range s.Log() {
		if re.MatchString(l) {
			n++
		}
	}
	return n
}

// Log lists the requests since Forget.
func (s *Server) Log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Forget empties the log.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// Keys lists the objects.
func (s *Server) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// Unfinished counts uploads that were neither completed nor taken back.
func (s *Server) Unfinished() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.parts)
}

// Flip changes a byte of each object whose key matches, and Lose removes them. Both return
// how many there were.
func (s *Server) Flip(match string) int {
	return s.each(match, func(key string, o object) {
		o.data = bytes.Clone(o.data)
		o.data[len(o.data)/2] ^= 1
		s.objects[key] = o
	})
}

// Lose removes the objects whose keys match.
func (s *Server) Lose(match string) int {
	return s.each(match, func(key string, _ object) { delete(s.objects, key) })
}

// Age makes the objects whose keys match older.
func (s *Server) Age(match string, by time.Duration) int {
	return s.each(match, func(key string, o object) {
		o.at = o.at.Add(-by)
		s.objects[key] = o
	})
}

// Times returns when each object was written.
func (s *Server) Times() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]time.Time{}
	for k, o := range s.objects {
		out[k] = o.at
	}
	return out
}

func (s *Server) each(match string, do func(key string, o object)) (n int) {
	re := regexp.MustCompile(match)
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, o := range s.objects {
		if re.MatchString(k) {
			n++
			do(k, o)
		}
	}
	return n
}

func (s *Server) object(key string) (object, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	return o, ok
}

func (s *Server) store(key string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[key] = object{data, time.Now()}
}

// begin returns the name of a new upload.
func (s *Server) begin() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	id := strconv.Itoa(s.next)
	s.parts[id] = map[string][]byte{}
	return id
}

func (s *Server) part(id, name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts[id] == nil {
		s.parts[id] = map[string][]byte{}
	}
	s.parts[id][name] = data
}

// complete makes an object of parts; without a key it is taken back.
func (s *Server) complete(id, key string, names []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []byte
	for _, n := range names {
		p, ok := s.parts[id][n]
		if !ok {
			return fmt.Errorf("no part %s", n)
		}
		all = append(all, p...)
	}
	delete(s.parts, id)
	if key != "" {
		s.objects[key] = object{all, time.Now()}
	}
	return nil
}

// serve sends an object, or what of it a range asks for.
func serve(w http.ResponseWriter, r *http.Request, o object) {
	if v := r.Header.Get("x-ms-range"); v != "" {
		r.Header.Set("Range", v)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"e"`)
	http.ServeContent(w, r, "", o.at, bytes.NewReader(o.data))
}

// cut writes half of the first thing that it is given.
type cut struct {
	http.ResponseWriter
	done bool
}

func (c *cut) Write(p []byte) (int, error) {
	if !c.done {
		c.done = true
		_, _ = c.ResponseWriter.Write(p[:len(p)/2])
		c.ResponseWriter.(http.Flusher).Flush()
	}
	return len(p), nil
}
