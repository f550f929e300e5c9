package session

import "sync"

// Buffers is a mem.BufferPool. Other than gRPC's it does not clear buffers: who gets one
// fills it. And it has sizes between 32 kB and 1 MB: a packet with 32 kB of a file, or a
// stretch of a session, is a little more than 32 kB.
type Buffers struct{}

var bufferSizes = [...]int{2 << 10, 4 << 10, 16 << 10, 33 << 10, 66 << 10, 132 << 10, 264 << 10, 528 << 10, 1<<20 + 4<<10}

var bufferPools [len(bufferSizes)]sync.Pool

// Get returns a buffer of n bytes, which may have any content.
func (Buffers) Get(n int) *[]byte {
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		if b, ok := bufferPools[i].Get().(*[]byte); ok {
			*b = (*b)[:n]
			return b
		}
		b := make([]byte, n, size)
		return &b
	}
	b := make([]byte, n)
	return &b
}

// Put takes back a buffer that nobody uses any more.
func (Buffers) Put(b *[]byte) {
	for i, size := range bufferSizes {
		if cap(*b) == size {
			bufferPools[i].Put(b)
			return
		}
	}
}
