package http

import (
	"fmt"
	"io/fs"
	"maps"
	"mime"
	"net/http"
	"net/textproto"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// SessionHost is the host of URLs that are pulled from the client.
const SessionHost = "buildkit-session"

// A File says how a file is to lie in the result.
type File struct {
	Filename string // "" takes it from where it comes
	Mode     fs.FileMode
	UID, GID int
}

// A Request names a file and says how it is to lie in the result.
type Request struct {
	URL string
	File
	// Checksum of the content; "" accepts any.
	Checksum digest.Digest
	// AuthHeaderSecret is the id of a secret with the value of the Authorization header.
	// If it is empty, secrets named after the host are tried.
	AuthHeaderSecret string
	Header           map[string]string // more request headers
	// Signature, an armored detached signature of the content, must be by one of the
	// armored keys in PubKey, if that is not empty.
	PubKey, Signature string
}

// userHeaders are the request headers a build may set.
var userHeaders = []string{"Accept", "User-Agent"}

// Parse makes a Request of a source operation: its identifier, which is a URL, and its
// attributes. It refuses attributes that ask for what it cannot do.
func Parse(identifier string, attrs map[string]string) (Request, error) {
	r := Request{URL: identifier, File: File{Mode: 0o600}, Header: map[string]string{}}
	u, err := parseURL(identifier)
	if err != nil {
		return r, err
	}
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		v := attrs[k]
		var err error
		switch k {
		case pb.AttrHTTPChecksum:
			r.Checksum, err = digest.Parse(v)
		case pb.AttrHTTPFilename, pb.AttrHTTPPerm, pb.AttrHTTPUID, pb.AttrHTTPGID:
			err = r.File.set(k, v)
		case pb.AttrHTTPAuthHeaderSecret:
			r.AuthHeaderSecret = v
		case pb.AttrHTTPSignatureVerifyPubKey:
			r.PubKey = v
		case pb.AttrHTTPSignatureVerify:
			r.Signature = v
		default:
			name, ok := strings.CutPrefix(k, pb.AttrHTTPHeaderPrefix)
			name = textproto.CanonicalMIMEHeaderKey(name)
			if ok && slices.Contains(userHeaders, name) {
				if strings.ContainsAny(v, "\r\n\x00") {
					err = fmt.Errorf("not a header value")
				}
				r.Header[name] = v
			}
		}
		if err != nil {
			return r, fmt.Errorf("%s: %s %.100q: %w", redact(u), k, v, err)
		}
	}
	if (r.PubKey == "") != (r.Signature == "") {
		return r, fmt.Errorf("%s: a signature needs a key, and a key a signature", redact(u))
	}
	return r, nil
}

// ParseFile reads the attributes of a source that is a single file.
func ParseFile(attrs map[string]string) (File, error) {
	f := File{Mode: 0o600}
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		if err := f.set(k, attrs[k]); err != nil {
			return f, fmt.Errorf("%s %.100q: %w", k, attrs[k], err)
		}
	}
	return f, nil
}

// set takes an attribute; it ignores those that say nothing about the file.
func (f *File) set(k, v string) (err error) {
	switch k {
	case pb.AttrHTTPFilename:
		if f.Filename = v; !validName(v) {
			err = fmt.Errorf("not a file name")
		}
	case pb.AttrHTTPPerm:
		var n int64
		if n, err = strconv.ParseInt(v, 0, 32); err == nil && (n < 0 || n > 0o7777) {
			err = fmt.Errorf("not a file mode")
		}
		f.Mode = fileMode(n)
	case pb.AttrHTTPUID:
		f.UID, err = owner(v)
	case pb.AttrHTTPGID:
		f.GID, err = owner(v)
	}
	return err
}

func fileMode(n int64) fs.FileMode {
	m := fs.FileMode(n & 0o777)
	for bit, mode := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n&bit != 0 {
			m |= mode
		}
	}
	return m
}

func owner(v string) (int, error) {
	n, err := strconv.ParseUint(v, 0, 31)
	return int(n), err
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		// The error of url.Parse repeats the URL, with credentials.
		return nil, fmt.Errorf("invalid URL")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s: not an http or https URL", redact(u))
	}
	return u, nil
}

// redact returns u without user and password.
func redact(u *url.URL) string {
	c := *u
	c.User = nil
	return c.String()
}

// validName reports whether name can be a file in a directory.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\x00")
}

// filename chooses the name of the file: as requested, as the server says, the last
// element of the URL's path, or "download".
func filename(r Request, u *url.URL, header http.Header) string {
	if r.Filename != "" {
		return r.Filename
	}
	if _, params, err := mime.ParseMediaType(header.Get("Content-Disposition")); err == nil {
		if name := path.Base(strings.ReplaceAll(params["filename"], `\`, "/")); params["filename"] != "" && validName(name) {
			return name
		}
	}
	if name := path.Base(u.Path); validName(name) {
		return name
	}
	return "download"
}
