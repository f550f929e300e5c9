package local

import (
	"bytes"
	"crypto/sha256"

	"google.golang.org/grpc/mem"
)

// A hasher computes the SHA-256 of a file that is being written, in a goroutine that ends
// with sum.
type hasher struct {
	in  chan hashing
	out chan [32]byte
}

type hashing struct {
	data []byte
	buf  mem.Buffer // to be freed
}

func newHasher() *hasher {
	h := &hasher{in: make(chan hashing, 8), out: make(chan [32]byte, 1)}
	go func() {
		s := sha256.New()
		for p := range h.in {
			s.Write(p.data)
			p.buf.Free()
		}
		h.out <- [32]byte(s.Sum(nil))
	}()
	return h
}

// add hashes data next. It keeps a reference of buf, which data is in; without one it
// makes a copy.
func (h *hasher) add(data []byte, buf mem.Buffer) {
	if buf == nil {
		data = bytes.Clone(data)
		buf = mem.SliceBuffer(data)
	} else {
		buf.Ref()
	}
	h.in <- hashing{data, buf}
}

// sum returns the digest of all data. It must be called once, and nothing after it.
func (h *hasher) sum() [32]byte {
	close(h.in)
	return <-h.out
}
