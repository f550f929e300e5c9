package contextfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// names are few, so that patterns often match, and sort differently with and without the
// separator.
var names = []string{"a", "a-b", "a.txt", "b", "c", "node", "node_modules", "z"}

// grow makes a random tree with hard links and symlinks.
func grow(t *testing.T, r *rand.Rand, dir, rel string, depth int, files *[]string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range names {
		p := filepath.Join(rel, n)
		full := filepath.Join(dir, p)
		switch k := r.IntN(10); {
		case k < 3 && depth > 0:
			must(os.Mkdir(full, 0o755))
			grow(t, r, dir, p, depth-1, files)
		case k < 6:
			must(os.WriteFile(full, []byte(p), 0o644))
			*files = append(*files, p)
		case k == 6:
			must(os.Symlink(names[r.IntN(len(names))], full))
		case k == 7 && len(*files) > 0:
			must(os.Link(filepath.Join(dir, (*files)[r.IntN(len(*files))]), full))
		}
	}
}

func randomPath(r *rand.Rand) string {
	p := ""
	for range 1 + r.IntN(3) {
		p = filepath.Join(p, names[r.IntN(len(names))])
	}
	return p
}

func randomPatterns(r *rand.Rand, except bool) []string {
	var list []string
	for range r.IntN(4) {
		p := randomPath(r)
		switch r.IntN(6) {
		case 0:
			p = "**/" + p
		case 1:
			p += "/*"
		case 2:
			p += "/**"
		case 3:
			p = "*/" + p
		}
		if except && r.IntN(3) == 0 {
			p = "!" + p
		}
		list = append(list, p)
	}
	return list
}

// theirs is what fsutil sends.
func theirs(t *testing.T, dir string, p Patterns) []*types.Stat {
	t.Helper()
	f, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err = fsutil.NewFilterFS(f, &fsutil.FilterOpt{IncludePatterns: p.Include, ExcludePatterns: p.Exclude, FollowPaths: p.Follow})
	if err != nil {
		t.Fatal(err)
	}
	return walk(t, fsutil.WithHardlinkReset(f))
}

func ours(t *testing.T, dir string, p Patterns) []*types.Stat {
	t.Helper()
	f, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []*types.Stat
	links := map[inode]string{}
	err = f.list(context.Background(), p, func(path string, it *item) error {
		st := &types.Stat{}
		it.fill(st, path, links)
		out = append(out, st)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestListMeansTheSameAsFsutil(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		var files []string
		grow(t, r, dir, "", 3, &files)
		for range 15 {
			p := Patterns{Include: randomPatterns(r, true), Exclude: randomPatterns(r, true)}
			if r.IntN(3) == 0 {
				p.Follow = append(p.Follow, randomPath(r))
			}
			if d := cmp.Diff(theirs(t, dir, p), ours(t, dir, p), cmpopts.IgnoreUnexported(types.Stat{})); d != "" {
				t.Fatalf("seed %d, %+v:\n%s", seed, p, d)
			}
		}
	}
}

// More directories than may be read ahead.
func TestListOfManyDirectories(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		sub := filepath.Join(dir, fmt.Sprint("d", i%7), fmt.Sprint("e", i))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		for k := range 80 {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(k)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if d := cmp.Diff(theirs(t, dir, Patterns{}), ours(t, dir, Patterns{}), cmpopts.IgnoreUnexported(types.Stat{})); d != "" {
		t.Fatal(d)
	}
}

// Excluded trees may be huge, or not for us to read.
func TestListDoesNotEnterWhatIsExcluded(t *testing.T) {
	for _, p := range []Patterns{{Exclude: []string{"out"}}, {Exclude: []string{"o*"}}, {Include: []string{"src"}}, {Exclude: []string{"out", "!other/x"}}} {
		flt, err := newFilter(p)
		if err != nil {
			t.Fatal(err)
		}
		if _, keep, enter, err := flt.admit("out", true, &matches{}); keep || enter || err != nil {
			t.Errorf("%+v: keep %v, enter %v, %v", p, keep, enter, err)
		}
	}
}

func TestListEndsWithItsContext(t *testing.T) {
	dir := tree(t)
	f, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	var seen []string
	err = f.list(ctx, Patterns{}, func(path string, _ *item) error {
		seen = append(seen, path)
		cancel(why)
		return nil
	})
	if !errors.Is(err, why) || slices.Contains(seen, "a/f") {
		t.Fatal(err, seen)
	}
	if err := f.list(context.Background(), Patterns{}, func(string, *item) error { return fs.ErrInvalid }); !errors.Is(err, fs.ErrInvalid) {
		t.Fatal(err)
	}
}

func BenchmarkList(b *testing.B) {
	dir := b.TempDir()
	for i := range 2000 {
		sub := filepath.Join(dir, fmt.Sprint(i/100))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	f, err := New(dir)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := f.list(context.Background(), Patterns{}, func(string, *item) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
