package solver_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
)

// streamed returns a job, and what prints the events it showed, once it is closed.
func (r *rig) streamed() (*solver.Job, func() string) {
	s := progress.NewStream()
	j := r.s.NewJob(fmt.Sprint("job", r.n.Add(1)), solver.JobOptions{Stream: s})
	return j, func() string {
		s.Close()
		var b strings.Builder
		names := map[digest.Digest]string{}
		for rd := s.Reader(); ; {
			evs, err := rd.Next(r.Context(), 0)
			if err == io.EOF {
				return b.String()
			}
			for _, e := range evs {
				switch {
				case e.Vertex != nil:
					v := e.Vertex
					names[e.Digest] = v.Name
					switch {
					case v.Cached:
						fmt.Fprintf(&b, "%s: cached\n", v.Name)
					case v.Completed != nil && v.Error != "":
						fmt.Fprintf(&b, "%s: completed error=%s\n", v.Name, v.Error)
					case v.Completed != nil:
						fmt.Fprintf(&b, "%s: completed\n", v.Name)
					case v.Started != nil:
						fmt.Fprintf(&b, "%s: started\n", v.Name)
					}
				case e.Output != nil:
					fmt.Fprintf(&b, "%s: %s", names[e.Digest], e.Output.Data)
				}
			}
		}
	}
}

func (r *rig) quietJob(j *solver.Job) {
	r.Helper()
	j.Close()
	r.quiet()
}

func TestProgress(t *testing.T) {
	r := newRig(t)
	r.w.sources["a"] = "A"
	hidden := r.w.src("a")
	hidden.Hidden = true
	x := r.w.op("x", read{hidden, whole, 0})
	y := r.w.op("y", read{x, whole, 0})
	build := func(v *solver.Vertex) (string, solver.JobStats) {
		j, out := r.streamed()
		res, err := j.Build(t.Context(), solver.Edge{Vertex: v})
		if err != nil {
			t.Fatal(err)
		}
		take(res)
		r.quietJob(j)
		return out(), j.Stats()
	}
	for _, tt := range []struct {
		v     *solver.Vertex
		want  string
		stats solver.JobStats
	}{
		{y, "x: started\nx: x runs\nx: completed\ny: started\ny: y runs\ny: completed\n", solver.JobStats{Vertices: 3, Runs: 3}},
		{y, "x: cached\ny: cached\n", solver.JobStats{Vertices: 3, Hits: 3}},
		{r.w.op("z", read{y, 0, 0}), "x: cached\ny: cached\nz: started\nz: z runs\nz: completed\n", solver.JobStats{Vertices: 4, Hits: 3, Runs: 1}},
		{r.w.op("x", read{r.w.src("a"), whole, 0}), "src-a: started\nsrc-a: completed\nx: cached\nsrc-a: cached\n", solver.JobStats{Vertices: 2, Hits: 2}},
		{r.w.src("a"), "src-a: started\nsrc-a: completed\nsrc-a: cached\n", solver.JobStats{Vertices: 1, Hits: 1}},
	} {
		got, stats := build(tt.v)
		if got != tt.want {
			t.Errorf("got:\n%swant:\n%s", got, tt.want)
		}
		if stats != tt.stats {
			t.Errorf("got %+v, want %+v", stats, tt.stats)
		}
	}
}
