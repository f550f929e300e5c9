package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// A scenario is one row of the table.
type scenario struct {
	name   string
	setup  func(b *bench, dir string) error          // once
	before func(b *bench, p *peer, dir string) error // before each run, not counted
	run    func(b *bench, p *peer, dir string) error
	warm   int // runs that are not counted
	// watch begins to look at a run from outside; what it returns says what was seen.
	watch func(b *bench, p *peer) (note func() (string, error), err error)
	// limit does the same in the cheapest way that there is, once a run, and says how long it took.
	limit func(b *bench) (time.Duration, error)
}

// among reports whether the scenario is one of a list of names, empty for all. "e1g" names
// "e1g-gzip", too.
func (s scenario) among(only string) bool {
	if only == "" {
		return true
	}
	for name := range strings.SplitSeq(only, ",") {
		if s.name == name || strings.HasPrefix(s.name, name+"-") {
			return true
		}
	}
	return false
}

// scenarios, cheap ones first.
var scenarios = []scenario{
	{name: "a10", warm: 1, setup: steps(10), run: plain},
	{name: "a100", warm: 1, setup: steps(100), run: plain},
	{name: "actx", warm: 1, setup: tree(10_000, "COPY . /ctx\nRUN true"), run: plain},
	{name: "a10push", warm: 1, setup: steps(10), run: func(b *bench, p *peer, dir string) error {
		return p.build(dir, "type=image,name="+b.registry.addr+"/a10-"+p.name+",push=true,store=false", b.args()...)
	}},
	{name: "b1", warm: 1, setup: dockerfile("ARG SEED\nRUN echo $SEED"), run: seeded},
	{name: "b20", warm: 1, setup: dockerfile("ARG SEED\n" + strings.Repeat("RUN true $SEED\n", 20)), run: seeded},
	{name: "b20copy", warm: 1, setup: copies(20), before: reseed, run: plain},
	{name: "c", warm: 1, setup: tree(10_000, "COPY . /ctx\nRUN true"), before: reseed, run: plain},
	{name: "d10k", setup: tree(10_000, "COPY . /ctx"), before: fresh, run: plain},
	{name: "d500", setup: blob(500, "COPY big /big"), before: fresh, run: plain},
	{name: "esleep", setup: stages(8, "sleep 1; echo"), run: seeded},
	{name: "ecpu", setup: stages(8, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo"), run: seeded},
	{name: "e1g-gzip", setup: oneLayer, before: builtOnly, watch: sameDigest(), limit: copyPushed, run: pushBuilt("gzip")},
	{name: "e1g-zstd", setup: oneLayer, before: builtOnly, watch: sameDigest(), limit: copyPushed, run: pushBuilt("zstd")},
	{name: "e1g-none", setup: oneLayer, before: builtOnly, watch: sameDigest(), limit: copyPushed, run: pushBuilt("uncompressed")},
	{name: "fgzip", setup: layers(3, 60), before: fresh, run: pushAs("gzip")},
	{name: "fzstd", setup: layers(3, 60), before: fresh, run: pushAs("zstd")},
	{name: "fnone", setup: layers(3, 60), before: fresh, run: pushAs("uncompressed")},
	{name: "foci", setup: layers(3, 60), before: fresh, run: func(b *bench, p *peer, dir string) error {
		return p.build(dir, "type=oci,dest="+filepath.Join(b.dir, "out.tar"), b.args()...)
	}},
	{name: "gsame", setup: relabel, before: fresh, watch: transfers, run: func(b *bench, p *peer, dir string) error {
		return p.build(filepath.Join(dir, "relabel"), "type=image,name="+b.registry.addr+"/relabeled-"+b.unique()+",push=true,store=false", b.args()...)
	}},
	{name: "gother", setup: relabel, before: fresh, watch: transfers, limit: copyBig, run: func(b *bench, p *peer, dir string) error {
		return p.build(filepath.Join(dir, "relabel"), "type=image,name="+b.other.addr+"/other-"+b.unique()+",push=true,store=false", b.args()...)
	}},
	{name: "hgzip", setup: relabel, before: fresh, run: func(b *bench, p *peer, dir string) error {
		return p.build(filepath.Join(dir, "pull"), "", append(b.args(), "SEED="+b.unique())...)
	}},
	{name: "jsame", setup: dockerfile("ARG SEED\nRUN sleep 1; echo $SEED"), run: atOnce(8, true)},
	{name: "j50", setup: dockerfile("ARG SEED\nRUN echo $SEED"), run: atOnce(50, false)},
	{name: "kcold1000", run: cold(1000)},
	{name: "kcached1000", warm: 1, run: known(1000)},
	{name: "mprune1000", before: func(b *bench, p *peer, dir string) error { return cold(1000)(b, p, dir) }, run: func(_ *bench, p *peer, _ string) error { return p.prune() }},
	{name: "kcold10000", run: cold(10_000)},
	{name: "kcached10000", warm: 1, run: known(10_000)},
	{name: "lstart", run: restart},
	{name: "nlog", setup: dockerfile("ARG SEED\nRUN echo $SEED; seq 1 200000"), run: seeded},
	{name: "local", setup: layers(1, 200), warm: 1, run: func(b *bench, p *peer, dir string) error {
		out := filepath.Join(b.dir, "local-"+b.unique())
		defer os.RemoveAll(out)
		return p.build(dir, "type=local,dest="+out, b.args()...)
	}},
}

// base makes the image that every scenario starts from, and pushes it where both sides
// pull it from.
func (b *bench) base() error {
	dir := filepath.Join(b.dir, "base")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "busybox"), bb, 0o755); err != nil {
		return err
	}
	if err := write(dir, "Dockerfile", "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n"); err != nil {
		return err
	}
	return b.peers[0].build(dir, "type=image,name="+b.registry.addr+"/base,push=true,store=false")
}

func (b *bench) args() []string { return []string{"REG=" + b.registry.addr} }

func plain(b *bench, p *peer, dir string) error { return p.build(dir, "", b.args()...) }

func seeded(b *bench, p *peer, dir string) error {
	return p.build(dir, "", append(b.args(), "SEED="+b.unique())...)
}

func fresh(_ *bench, p *peer, _ string) error { return p.prune() }

// reseed changes the one file that copies(n) and tree(n) leave for it.
func reseed(b *bench, _ *peer, dir string) error { return write(dir, "seed", b.unique()) }

func write(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
}

func dockerfile(body string) func(*bench, string) error {
	return func(_ *bench, dir string) error {
		return write(dir, "Dockerfile", "ARG REG\nFROM $REG/base\n"+body+"\n")
	}
}

func steps(n int) func(*bench, string) error {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "RUN echo %d > /%d\n", i, i)
	}
	return dockerfile(s.String())
}

func copies(n int) func(*bench, string) error {
	return func(b *bench, dir string) error {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, "COPY seed /%d\n", i)
		}
		return dockerfile(s.String())(b, dir)
	}
}

func stages(n int, command string) func(*bench, string) error {
	return func(_ *bench, dir string) error {
		var s, last strings.Builder
		s.WriteString("ARG REG\n")
		for i := range n {
			fmt.Fprintf(&s, "FROM $REG/base AS s%d\nARG SEED\nRUN %s $SEED > /%d\n", i, command, i)
			fmt.Fprintf(&last, "COPY --from=s%d /%d /%d\n", i, i, i)
		}
		return write(dir, "Dockerfile", s.String()+"FROM scratch\n"+last.String())
	}
}

// tree makes n files of 1 KB in directories of 100, and a file to change.
func tree(n int, body string) func(*bench, string) error {
	return func(b *bench, dir string) error {
		r := rand.New(rand.NewPCG(1, 2))
		for i := range n {
			sub := filepath.Join(dir, fmt.Sprintf("d%d", i/100))
			if i%100 == 0 {
				if err := os.MkdirAll(sub, 0o755); err != nil {
					return err
				}
			}
			data := make([]byte, 1024)
			for k := range data {
				data[k] = byte(r.Uint32())
			}
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("f", i)), data, 0o644); err != nil {
				return err
			}
		}
		if err := reseed(b, nil, dir); err != nil {
			return err
		}
		return dockerfile(body)(b, dir)
	}
}

func blob(mb int64, body string) func(*bench, string) error {
	return func(b *bench, dir string) error {
		if err := compressible(filepath.Join(dir, "big"), mb<<20); err != nil {
			return err
		}
		return dockerfile(body)(b, dir)
	}
}

// layers makes n files of mb megabytes that compress like programs do, a layer each.
func layers(n int, mb int64) func(*bench, string) error {
	return func(b *bench, dir string) error {
		var s strings.Builder
		for i := range n {
			if err := compressible(filepath.Join(dir, fmt.Sprint("l", i)), mb<<20); err != nil {
				return err
			}
			fmt.Fprintf(&s, "COPY l%d /l%d\n", i, i)
		}
		return dockerfile(s.String())(b, dir)
	}
}

// compressible fills a file with words of a small vocabulary and some noise.
func compressible(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := rand.New(rand.NewPCG(3, uint64(len(path))))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 3+r.IntN(12))
		for k := range words[i] {
			words[i][k] = byte(r.Uint32())
		}
	}
	buf := make([]byte, 0, 1<<20)
	for size > 0 {
		buf = buf[:0]
		for len(buf) < cap(buf)-64 {
			buf = append(buf, words[r.IntN(len(words))&r.IntN(len(words))]...)
		}
		n, err := f.Write(buf[:min(int64(len(buf)), size)])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}

func pushAs(compression string) func(*bench, *peer, string) error {
	return func(b *bench, p *peer, dir string) error {
		return p.build(dir, "type=image,name="+b.registry.addr+"/"+compression+"-"+b.unique()+",push=true,store=false,compression="+compression, b.args()...)
	}
}

// atOnce runs n clients at the same time, of the same build or of different ones.
func atOnce(n int, same bool) func(*bench, *peer, string) error {
	return func(b *bench, p *peer, dir string) error {
		seed := b.unique()
		var g errgroup.Group
		clients := make([]*peer, n)
		for i := range n {
			c := *p // CPU of clients is counted apart, then added
			c.spent = 0
			clients[i] = &c
			s := seed
			if !same {
				s += fmt.Sprint("-", i)
			}
			g.Go(func() error { return clients[i].build(dir, "", append(b.args(), "SEED="+s)...) })
		}
		err := g.Wait()
		for _, c := range clients {
			p.spent += c.spent
		}
		return err
	}
}
