package proxy

import (
	"errors"
	"hash"
	"io"
	"net/http"
	"sync"

	_ "crypto/sha256" // for digests

	digest "github.com/opencontainers/go-digest"
)

// A body is the body of an answer on its way to the step. When it is closed it records what
// the step got.
type body struct {
	io.ReadCloser
	record *Record
	number int // of the fetch
	reason string
	hash   hash.Hash
	size   int64
	want   int64 // bytes; -1 if the server does not say
	whole  bool  // its end was seen
	once   sync.Once
}

func newBody(resp *http.Response, record *Record, number int) *body {
	return &body{
		ReadCloser: resp.Body, record: record, number: number, reason: unknown(resp),
		hash: digest.SHA256.Hash(), want: resp.ContentLength,
	}
}

// unknown says why it cannot be known what the step gets of an answer; "" if it can.
func unknown(resp *http.Response) string {
	switch {
	case resp.Request.Method != http.MethodGet:
		return ReasonMethod
	case resp.StatusCode == http.StatusPartialContent || resp.Request.Header.Get("Range") != "":
		return ReasonPartial
	case resp.StatusCode >= 400:
		return ReasonStatus
	}
	return ""
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.hash.Write(p[:n])
	b.size += int64(n)
	b.whole = b.whole || errors.Is(err, io.EOF)
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.once.Do(func() {
		switch {
		case b.reason != "":
			b.record.finish(b.number, "", b.reason)
		case !b.whole && b.size != b.want:
			b.record.finish(b.number, "", ReasonBody)
		default:
			b.record.finish(b.number, digest.NewDigest(digest.SHA256, b.hash), "")
		}
	})
	return b.ReadCloser.Close()
}
