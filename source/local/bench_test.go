package local

import (
	"fmt"
	"testing"

	"github.com/tonistiigi/fsutil"
)

// benchmark measures one transfer after prepare, with all of client, tunnel and daemon.
func benchmark(b *testing.B, stock, keep bool, fill func(m *mirror), prepare func(m *mirror, i int)) {
	w, m := newWorld(b), newMirror(b)
	m.stock = stock
	fill(m)
	s := w.join("node", map[string]fsutil.FS{"context": m.fs()})
	if keep {
		w.sync(s, Request{Name: "context"}).Release()
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		prepare(m, i)
		key := ""
		if !keep {
			key = fmt.Sprint(i)
		}
		b.StartTimer()
		w.sync(s, Request{Name: "context", SharedKeyHint: key}).Release()
	}
}

func tenThousand(m *mirror) {
	for i := range 10_000 {
		m.write(fmt.Sprintf("src/module%02d/pkg%d/file%04d.go", i/400, i/80%5, i), big(1000, byte(i)))
	}
}

func nothing(*mirror, int) {}

func BenchmarkUnchanged10k(b *testing.B)      { benchmark(b, false, true, tenThousand, nothing) }
func BenchmarkUnchanged10kStock(b *testing.B) { benchmark(b, true, true, tenThousand, nothing) }
func BenchmarkFirst10k(b *testing.B)          { benchmark(b, false, false, tenThousand, nothing) }
func BenchmarkOneChanged10k(b *testing.B) {
	benchmark(b, false, true, tenThousand, func(m *mirror, i int) { m.write("src/module07/new.go", fmt.Sprint(i)) })
}
func BenchmarkFirst500MB(b *testing.B) {
	benchmark(b, false, false, func(m *mirror) { m.write("blob", big(500<<20, 1)) }, nothing)
}
func BenchmarkUnchanged500MBStock(b *testing.B) {
	benchmark(b, true, true, func(m *mirror) { m.write("blob", big(500<<20, 1)) }, nothing)
}
