package snapshot

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"
)

// zstdOf compresses data in pieces of a size that divides no chunk.
func zstdOf(t *testing.T, w io.Writer, data []byte) error {
	t.Helper()
	c, err := newChunked(w)
	must(t, err)
	for piece := range slices.Chunk(data, 100_003) {
		if _, err := c.Write(piece); err != nil {
			_ = c.Close() // the same error
			return err
		}
	}
	return c.Close()
}

func TestZstdChunks(t *testing.T) {
	data := text(5 * zstdChunk / 2)
	for _, n := range []int{0, 1, zstdChunk, len(data)} {
		var first []byte
		for _, procs := range []int{1, 2, 16} {
			var out bytes.Buffer
			old := runtime.GOMAXPROCS(procs)
			err := zstdOf(t, &out, data[:n])
			runtime.GOMAXPROCS(old)
			must(t, err)
			if first == nil {
				first = out.Bytes()
			}
			if !bytes.Equal(out.Bytes(), first) {
				t.Errorf("%d bytes with %d CPUs: another result", n, procs)
			}
		}
		z, err := decompressor(bytes.NewReader(first))
		must(t, err)
		back, err := io.ReadAll(z)
		must(t, err)
		z.Close()
		if !bytes.Equal(back, data[:n]) {
			t.Errorf("%d bytes come back as %d others", n, len(back))
		}
	}
}

var errFull = errors.New("disk full")

// A fullDisk takes n writes.
type fullDisk struct{ n int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.n--; d.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestZstdChunksFail(t *testing.T) {
	data := text(2 * zstdChunk)
	for n := range 2 {
		if err := zstdOf(t, &fullDisk{n}, data); !errors.Is(err, errFull) {
			t.Errorf("after %d chunks: %v", n, err)
		}
	}
}
