package snapshot

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"testing"
)

// BenchmarkStep is what a RUN costs here: draft, mount, unmount, commit.
func BenchmarkStep(b *testing.B) {
	for _, layers := range []int{1, 20, 100} {
		b.Run(fmt.Sprintf("layers=%d", layers), func(b *testing.B) {
			s := open(b, "overlay")
			var base *Ref
			for i := range layers {
				base = s.layer(base, func(root string) { write(b, fmt.Sprintf("%s/f%d", root, i), "x") })
			}
			must(b, s.Flush(b.Context()))
			for b.Loop() {
				d, err := s.NewDraft(b.Context(), base, Desc{})
				must(b, err)
				root, unmount, err := d.Mount(b.Context(), Access{})
				must(b, err)
				must(b, os.WriteFile(root+"/new", []byte("x"), 0o644))
				must(b, unmount())
				r, err := d.Commit(b.Context())
				must(b, err)
				r.Release()
			}
		})
	}
}

func BenchmarkCopyStep(b *testing.B) {
	s := open(b, "overlay")
	for b.Loop() {
		d, err := s.NewDraft(b.Context(), nil, Desc{})
		must(b, err)
		must(b, os.WriteFile(d.Upper()+"/new", []byte("x"), 0o644))
		r, err := d.Commit(b.Context())
		must(b, err)
		r.Release()
	}
}

func BenchmarkOpen(b *testing.B) {
	s := open(b, "overlay")
	must(b, s.Close())
	for b.Loop() {
		s.start()
		must(b, s.Close())
	}
	s.Store = nil
}

// text is half compressible, like a program.
func text(n int) []byte {
	out := make([]byte, n)
	rand.Read(out)
	for i := range out {
		if i/64%4 != 0 {
			out[i] = byte('a' + out[i]%8)
		}
	}
	return out
}

func BenchmarkBlob(b *testing.B) {
	const size = 64 << 20
	for _, typ := range []string{gzipType, zstdType, noneType} {
		b.Run(typ, func(b *testing.B) {
			s := open(b, "overlay")
			data := text(1 << 20)
			r := s.layer(nil, func(root string) {
				for i := range size / len(data) {
					data[0] = byte(i)
					must(b, os.WriteFile(fmt.Sprintf("%s/f%d", root, i), data, 0o644))
				}
			})
			b.SetBytes(size)
			for b.Loop() {
				l := r.layers[0]
				l.mu.Lock()
				l.row.Blobs = nil
				l.mu.Unlock()
				_, err := r.Blobs(b.Context(), Access{}, Compression{Type: typ})
				must(b, err)
			}
			b.StopTimer()
			s.Flush(b.Context())
		})
	}
}

func BenchmarkTar(b *testing.B) {
	s := open(b, "overlay")
	r := s.layer(nil, func(root string) {
		for i := range 10000 {
			if i%100 == 0 {
				must(b, os.MkdirAll(fmt.Sprintf("%s/d%d", root, i/100), 0o755))
			}
			must(b, os.WriteFile(fmt.Sprintf("%s/d%d/f%d", root, i/100, i), []byte("hello"), 0o644))
		}
	})
	for b.Loop() {
		must(b, writeTar(b.Context(), io.Discard, r.layers[0].here(), "trusted.overlay.opaque", nil))
	}
}

func BenchmarkViewWalk(b *testing.B) {
	s := open(b, "overlay")
	var r *Ref
	for l := range 5 {
		r = s.layer(r, func(root string) {
			for i := range 2000 {
				if i%100 == 0 {
					must(b, os.MkdirAll(fmt.Sprintf("%s/d%d", root, i/100), 0o755))
				}
				must(b, os.WriteFile(fmt.Sprintf("%s/d%d/f%d-%d", root, i/100, l, i), []byte("hello"), 0o644))
			}
		})
	}
	for b.Loop() {
		v, err := r.View(b.Context(), Access{})
		must(b, err)
		var walk func(p string)
		walk = func(p string) {
			names, err := v.ReadDir(p)
			must(b, err)
			for _, n := range names {
				st, err := v.Lstat(join(p, n))
				must(b, err)
				if os.FileMode(st.Mode).IsDir() {
					walk(join(p, n))
				}
			}
		}
		walk("")
	}
}

func fill(b *testing.B, n int) *storeTest {
	s := open(b, "overlay")
	for range n {
		d, err := s.NewDraft(b.Context(), nil, Desc{})
		must(b, err)
		r, err := d.Commit(b.Context())
		must(b, err)
		r.Release()
	}
	must(b, s.Flush(b.Context()))
	return s
}

func BenchmarkPrune10000(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := fill(b, 10000)
		b.StartTimer()
		n := 0
		must(b, s.Prune(b.Context(), PruneOptions{}, func(Record) { n++ }))
		if n != 10000 {
			b.Fatalf("%d", n)
		}
	}
}

func Benchmark10000Records(b *testing.B) {
	s := fill(b, 10000)
	b.Run("usage", func(b *testing.B) {
		for b.Loop() {
			_, err := s.Usage(b.Context(), nil)
			must(b, err)
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			must(b, s.Close())
			s.start()
		}
	})
}
