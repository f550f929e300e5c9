package dockerfile

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// large is a Dockerfile of n lines with the usual mix of instructions.
func large(n int) string {
	var b strings.Builder
	b.WriteString("ARG V=1\nFROM localhost:5731/base AS stage0\n")
	for i := 2; i < n; i++ {
		switch i % 10 {
		case 0:
			fmt.Fprintf(&b, "FROM stage%d AS stage%d\n", max(0, i/10-2), i/10)
		case 1, 2, 3:
			fmt.Fprintf(&b, "RUN echo %d $A%d && true\n", i, i)
		case 4, 5:
			fmt.Fprintf(&b, "COPY --chown=1:1 dir/file%d other$V /dst/%d/\n", i, i)
		case 6:
			fmt.Fprintf(&b, "ENV A%d=value-$V B=%d\n", i, i)
		case 7:
			fmt.Fprintf(&b, "RUN --mount=type=cache,target=/c%d --mount=type=bind,target=/ctx,source=s%d make\n", i, i)
		case 8:
			fmt.Fprintf(&b, "LABEL l%d=\"text $V\"\n", i%50)
		case 9:
			fmt.Fprintf(&b, "WORKDIR /w/%d\n", i)
		}
	}
	return b.String()
}

// lines is a stage of n lines, each made by line of its number.
func lines(line func(i int) string) func(n int) string {
	return func(n int) string {
		var b strings.Builder
		b.WriteString("FROM localhost:5731/base\n")
		for i := 1; i < n; i++ {
			b.WriteString(line(i) + "\n")
		}
		return b.String()
	}
}

// mixes are Dockerfiles of which one kind of instruction makes the length. What becomes of
// them is linear in it, save for "usual": there, each RUN has all the variables that were set
// before it, so that the definition of 5,000 lines has 2 MB and that of 50,000 lines 190 MB,
// which no daemon takes. The same is true of stages that each add to the variables of one
// stage that has very many: each has an environment of its own.
var mixes = []struct {
	name string
	text func(n int) string
}{
	{"usual", large},
	{"env", lines(func(i int) string { return fmt.Sprintf("ENV V%d=value$BASE", i) })},
	{"env-same", lines(func(i int) string { return fmt.Sprintf("ENV V=value%d W$V=$V X=1", i%7) })},
	{"env-again", lines(func(i int) string { return fmt.Sprintf("ENV V%d=value%d", i%1000, i) })},
	{"arg", lines(func(i int) string { return fmt.Sprintf("ARG A%d=value$BASE", i) })},
	{"label", lines(func(i int) string { return fmt.Sprintf("LABEL l%d=value", i) })},
	{"expose", lines(func(i int) string { return fmt.Sprintf("EXPOSE %d", i%60000) })},
	{"undefined", lines(func(i int) string { return fmt.Sprintf("LABEL l=$UNDEFINED%d", i) })},
	{"undefined-env", lines(func(i int) string {
		return fmt.Sprintf("ENV VALUE%d=1\nLABEL l=$UNDEFINED%d", i, i)
	})},
	{"dialect", func(n int) string {
		return "# dbuild=1\n" + lines(func(i int) string { return fmt.Sprintf("ENV V%d=value$BASE", i) })(n)
	}},
	{"run", lines(func(i int) string { return fmt.Sprintf("RUN echo %d", i) })},
	{"copy", lines(func(i int) string { return fmt.Sprintf("COPY file%d /dst/", i) })},
	{"workdir", lines(func(i int) string { return fmt.Sprintf("WORKDIR /w%d", i) })},
	{"mounts", lines(func(i int) string {
		return fmt.Sprintf("RUN --mount=type=cache,target=/c%d --mount=type=secret,id=s%d x", i, i)
	})},
	{"stages", func(n int) string { return strings.Repeat("FROM localhost:5731/base\nRUN x\n", n/2) }},
	{"named-stages", func(n int) string {
		var b strings.Builder
		for i := range n / 2 {
			fmt.Fprintf(&b, "FROM localhost:5731/base AS s%d\nCOPY --from=%d /x /%d\n", i, max(0, i-1), i)
		}
		text := b.String()
		return "FROM localhost:5731/base AS first\n" + text
	}},
	{"chain", func(n int) string {
		var b strings.Builder
		b.WriteString("FROM localhost:5731/base AS s0\nRUN x\n")
		for i := 1; i < n/2; i++ {
			fmt.Fprintf(&b, "FROM s%d AS s%d\nENV E%d=1\n", i-1, i, i)
		}
		return b.String()
	}},
	{"heredoc", func(n int) string {
		return "FROM localhost:5731/base\n" + strings.Repeat("COPY <<A /a\nline $BASE\nA\nRUN <<B\nx\nB\n", n/6)
	}},
	{"one-heredoc", func(n int) string {
		return "FROM localhost:5731/base\nCOPY <<A /a\n" + strings.Repeat("line $BASE \"quoted\"\n", n) + "A\n"
	}},
	{"continued", func(n int) string {
		return "FROM localhost:5731/base\nRUN x \\\n" + strings.Repeat("  && y $Z \\\n", n) + "  && z\n"
	}},
	{"comments", func(n int) string {
		return "FROM localhost:5731/base\n" + strings.Repeat("# what comes next\n", n) + "RUN x\n"
	}},
}

// TestLinear: four times as many lines take about four times the memory, which is what can be
// measured alike on any machine.
func TestLinear(t *testing.T) {
	for _, mix := range mixes {
		if mix.name == "usual" {
			continue
		}
		t.Run(mix.name, func(t *testing.T) {
			bridge := newFakeBridge(t)
			allocated := func(n int) float64 {
				text := mix.text(n)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				convertOne(t, bridge, text)
				runtime.ReadMemStats(&after)
				return float64(after.TotalAlloc - before.TotalAlloc)
			}
			allocated(500) // what is made once
			if few, many := allocated(500), allocated(2000); many > 5.5*few {
				t.Errorf("500 lines take %.0f bytes of memory, 2,000 lines %.1f times as many", few, many/few)
			}
		})
	}
}

// BenchmarkLines converts Dockerfiles of many lines. The time for a line, of which cpu-ns is
// what a machine with other work to do shows, should not depend on how many there are, but
// that more memory is slower. All of it takes some minutes.
func BenchmarkLines(b *testing.B) {
	for _, mix := range mixes {
		for _, n := range []int{500, 5000, 50000} {
			b.Run(fmt.Sprintf("%s/%d", mix.name, n), func(b *testing.B) {
				bridge := newFakeBridge(b)
				text := mix.text(n)
				runtime.GC()
				before := cpuTime(b)
				for b.Loop() {
					convertOne(b, bridge, text)
					bridge.solved, bridge.resolved = nil, nil
				}
				lines := float64(b.N) * float64(n)
				b.ReportMetric(float64(b.Elapsed())/lines, "ns/line")
				b.ReportMetric(float64(cpuTime(b)-before)/lines, "cpu-ns/line")
			})
		}
	}
}

// cpuTime is what the process has used of processors so far.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
