package exporter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dbuild/dbuild/internal/snapshot"
)

// An Attrs is what a client asked of an exporter, being read: each method takes one
// away, and Rest refuses what nobody took. Names and meanings are those of BuildKit's
// exporters.
type Attrs struct {
	kind string // of exporter, for messages
	left map[string]string
	err  error // the first
}

// NewAttrs starts reading attrs for an exporter of the given kind.
func NewAttrs(kind string, attrs map[string]string) *Attrs {
	a := &Attrs{kind: kind, left: make(map[string]string, len(attrs))}
	for k, v := range attrs {
		a.left[k] = v
	}
	return a
}

func (a *Attrs) take(key string) (string, bool) {
	v, ok := a.left[key]
	delete(a.left, key)
	return v, ok
}

func (a *Attrs) refuse(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf("%s exporter: %s", a.kind, fmt.Sprintf(format, args...))
	}
}

// String takes a value; "" if it is not there.
func (a *Attrs) String(key string) string {
	v, _ := a.take(key)
	return v
}

// Default takes a value that may be empty; absent if it is not there.
func (a *Attrs) Default(key, absent string) string {
	if v, ok := a.take(key); ok {
		return v
	}
	return absent
}

// Bool takes a truth value. A key without a value is true.
func (a *Attrs) Bool(key string, absent bool) bool {
	v, ok := a.take(key)
	if !ok {
		return absent
	}
	if v == "" {
		return true
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		a.refuse("%s=%s is neither true nor false", key, v)
	}
	return b
}

// Epoch takes source-date-epoch, in seconds since 1970. set tells an empty value, which
// overrides what the frontend says, from none.
func (a *Attrs) Epoch() (t *time.Time, set bool) {
	v, ok := a.take("source-date-epoch")
	if !ok || v == "" {
		return nil, ok
	}
	t, err := parseEpoch(v)
	if err != nil {
		a.refuse("source-date-epoch=%s is not a number of seconds", v)
	}
	return t, true
}

func parseEpoch(v string) (*time.Time, error) {
	s, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return nil, err
	}
	t := time.Unix(s, 0).UTC()
	return &t, nil
}

// Compression takes compression, compression-level and force-compression.
func (a *Attrs) Compression() snapshot.Compression {
	c := snapshot.Compression{Type: "gzip"}
	highest := 9
	switch v, ok := a.take("compression"); {
	case !ok, v == "gzip":
	case v == "uncompressed":
		c.Type, highest = v, 0
	case v == "zstd":
		c.Type, highest = v, 22
	case v == "estargz":
		a.refuse("not implemented: compression=estargz")
	default:
		a.refuse("compression=%s is not one of uncompressed, gzip, zstd", v)
	}
	if v, ok := a.take("compression-level"); ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 || (n > highest && c.Type != "uncompressed") {
			a.refuse("compression-level=%s is not a number from 0 to %d, the levels of %s", v, highest, c.Type)
		}
		c.Level = &n
	}
	c.Force = a.Bool("force-compression", false)
	return c
}

// Ignore takes keys that mean nothing here but are sent by clients.
func (a *Attrs) Ignore(keys ...string) {
	for _, k := range keys {
		delete(a.left, k)
	}
}

// Prefixed takes all keys that satisfy match.
func (a *Attrs) Prefixed(match func(key string) bool) map[string]string {
	out := map[string]string{}
	for k, v := range a.left {
		if match(k) {
			out[k] = v
			delete(a.left, k)
		}
	}
	return out
}

// Done returns the first thing that was wrong, such as a key that nobody knows.
func (a *Attrs) Done() error {
	if a.err == nil && len(a.left) > 0 {
		keys := make([]string, 0, len(a.left))
		for k := range a.left {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		a.refuse("unknown option %s", strings.Join(keys, ", "))
	}
	return a.err
}

// EpochOf returns the modification time that a frontend wants for a platform, or nil.
func (s Source) EpochOf(p Platform) (*time.Time, error) {
	v := string(s.Value(KeyEpoch, p))
	if v == "" {
		return nil, nil
	}
	t, err := parseEpoch(v)
	if err != nil {
		return nil, fmt.Errorf("the frontend's SOURCE_DATE_EPOCH %q is not a number of seconds", v)
	}
	return t, nil
}
