package attest

import (
	"bytes"
	"strings"
)

// Redact hides user names and passwords of all URLs in s, which may be a URL, a text or a
// JSON document. The user of an ssh URL is not a secret and stays.
func Redact(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	return string(RedactBytes([]byte(s)))
}

// RedactBytes is Redact for bytes. It returns b itself if there is nothing to hide.
func RedactBytes(b []byte) []byte {
	var out []byte // nil while it is the same as b
	done := 0      // how much of b is in out
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte("://"))
		if i < 0 {
			break
		}
		start := at + i + len("://")
		end := start + authority(b[start:])
		at = end
		n := bytes.LastIndexByte(b[start:end], '@')
		if n <= 0 {
			continue
		}
		user := b[start : start+n]
		hidden := "xxxxx"
		switch bytes.IndexByte(user, ':') {
		case -1:
			if bytes.HasSuffix(b[:start], []byte("ssh://")) {
				continue
			}
		case 0:
			hidden = ":xxxxx"
		default:
			hidden = "xxxxx:xxxxx"
		}
		out = append(append(out, b[done:start]...), hidden...)
		done = start + n
	}
	if out == nil {
		return b
	}
	return append(out, b[done:]...)
}

// authority returns how many bytes of b, which follows "://", can be user and host. In a
// JSON string some characters of it are written as an escape.
func authority(b []byte) int {
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '\\' && i+1 < len(b) && b[i+1] == 'u':
			i++
		case c <= ' ' || strings.IndexByte("/?#\"'<>\\", c) >= 0:
			return i
		}
	}
	return len(b)
}
