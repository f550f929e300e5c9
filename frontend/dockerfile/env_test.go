package dockerfile

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/llb"
)

// TestEnvLikeLists does the same to environments and to plain lists, of which copies are made
// now and then that go their own way.
func TestEnvLikeLists(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	envs, lists := make([]env, 8), make([][]string, 8)
	for step := range 20000 {
		i := rnd.IntN(len(envs))
		key := "K" + strconv.Itoa(rnd.IntN(12))
		without := slices.DeleteFunc(slices.Clone(lists[i]), func(kv string) bool { return strings.HasPrefix(kv, key+"=") })
		switch rnd.IntN(8) {
		case 0:
			j := rnd.IntN(len(envs))
			envs[i], lists[i] = envs[j], lists[j]
		case 1:
			envs[i].unset(key)
			lists[i] = without
		default:
			value := strconv.Itoa(step)
			envs[i].set(key, value)
			lists[i] = append(without, key+"="+value)
		}
		for j := range envs {
			if got := envs[j].list(); !slices.Equal(got, lists[j]) {
				t.Fatalf("after step %d environment %d is %q, want %q", step, j, got, lists[j])
			}
			names := envs[j].Keys()
			for k := range 12 {
				name := "K" + strconv.Itoa(k)
				v, ok := envs[j].Get(name)
				if ok != slices.Contains(names, name) || ok && !slices.Contains(lists[j], name+"="+v) {
					t.Fatalf("after step %d environment %d has %s=%q (%t), want %q", step, j, name, v, ok, lists[j])
				}
			}
		}
	}
}

// The name of a variable may come to hold "=". The config cannot tell, so for stages built on
// it, it is another variable.
func TestEqualsInName(t *testing.T) {
	bridge := newFakeBridge(t)
	text := "ARG N=A=B\nFROM localhost:5731/base AS one\nARG N\nENV A=1\nENV ${N}=2\nRUN one\nFROM one\nENV A=3\nRUN two\n"
	built := convertOne(t, bridge, text)
	g, err := llb.Load(built.Definition, llb.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"one": {"A=B=2"}, "two": {"A=3"}}
	for _, v := range g.Vertices {
		exec := v.Op.GetExec()
		if exec == nil {
			continue
		}
		var got []string
		for _, kv := range exec.Meta.Env {
			if strings.HasPrefix(kv, "A=") {
				got = append(got, kv)
			}
		}
		name := exec.Meta.Args[len(exec.Meta.Args)-1]
		if !slices.Equal(got, want[name]) {
			t.Errorf("RUN %s sees %q, want %q", name, got, want[name])
		}
	}
}
