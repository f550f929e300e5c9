package contextfs
import ("testing";"context";"io";"bufio")
func BenchmarkZList(b *testing.B) {
	f, err := New("/dev/shm/ctxw/t10k"); if err != nil { b.Fatal(err) }
	for b.Loop() {
		n := 0
		if err := f.list(context.Background(), Patterns{}, func(string, *item) error { n++; return nil }); err != nil || n < 10000 { b.Fatal(err, n) }
	}
}
func BenchmarkZSend(b *testing.B) {
	f, err := New("/dev/shm/ctxw/t10k"); if err != nil { b.Fatal(err) }
	f = f.WithVersions("dbuild.stat", func(b []byte, v Version) []byte { return append(b, make([]byte,32)...) })
	b.ReportAllocs()
	for b.Loop() {
		s := &sender{fs: f, out: bufio.NewWriterSize(io.Discard, pieceSize)}
		s.more.L = &s.queueMu
		if err := s.list(context.Background(), Patterns{}); err != nil { b.Fatal(err) }
	}
}
