package explain_test

import (
	"strings"
	"testing"

	"github.com/dbuild/dbuild/explain"
)

// build is a trace of a chain of steps, one for each line of a Dockerfile.
func build(ref string, lines ...string) *explain.Trace {
	t := &explain.Trace{Build: ref, Files: []explain.Text{{Name: "Dockerfile", Text: strings.Join(lines, "\n")}}}
	key := ""
	for i, l := range lines {
		key += l + ";"
		s := explain.Step{
			Name: "[1/9] " + l, Kind: "exec", State: explain.Ran, Spec: l, Key: key,
			Place: &explain.Place{Start: i + 1, End: i + 1}, Facts: []explain.Fact{{Kind: "command", Value: l}},
		}
		if i > 0 {
			s.Inputs = []explain.Input{{Step: i - 1, Slot: t.Steps[i-1].Key}}
		}
		t.Steps = append(t.Steps, s)
	}
	return t
}

// firsts are the first causes of the steps of a report.
func firsts(r *explain.Report) string {
	var out []string
	for _, s := range r.Steps {
		out = append(out, string(s.Causes[0].Kind))
	}
	return strings.Join(out, " ")
}

func TestPairing(t *testing.T) {
	old := build("old", "RUN a", "RUN b", "RUN c", "RUN d")
	for _, row := range []struct{ name, now, want string }{
		{"one is changed", "RUN a,RUN x,RUN c,RUN d", "evicted instruction-changed follows follows"},
		{"one is added", "RUN a,RUN b,RUN x,RUN c,RUN d", "evicted evicted instruction-added follows follows"},
		{"one is removed", "RUN a,RUN c,RUN d", "evicted instruction-removed follows"},
		{"two change places", "RUN a,RUN c,RUN b,RUN d", "evicted instruction-added follows follows"},
		{"the first is added", "RUN x,RUN a,RUN b", "instruction-added follows follows"},
	} {
		// What has a key that the earlier build had, had a result.
		for i := range old.Steps {
			old.Steps[i].Layers = []string{"l"}
		}
		now := build("now", strings.Split(row.now, ",")...)
		if got := firsts(explain.Explain(now, []*explain.Trace{old})); got != row.want {
			t.Errorf("%s: %s\nwant %s", row.name, got, row.want)
		}
	}
}

func TestNearest(t *testing.T) {
	near, far := build("near", "RUN a", "RUN b"), build("far", "RUN y", "RUN b")
	now := build("now", "RUN c", "RUN b")
	if got := explain.Explain(now, []*explain.Trace{far, near}).Nearest; got != "far" {
		t.Errorf("of one project: compared with %q, not with the newest", got)
	}
	far.Project.Context, now.Project.Owner, near.Project.Owner = "elsewhere", "me", "me"
	if got := explain.Explain(now, []*explain.Trace{far, near}).Nearest; got != "near" {
		t.Errorf("compared with %q", got)
	}
	if r := explain.Explain(now, nil); r.Nearest != "" || firsts(r) != "first first" {
		t.Errorf("without an earlier build: %+v", r)
	}
}

func TestDecode(t *testing.T) {
	tr := build("b", "RUN a", "RUN b")
	tr.Locals = []explain.Local{{Name: "context", Count: 1, Files: []explain.File{{Path: "a b", Mode: "-rw-r--r--", Sum: "12"}}}}
	doc, err := tr.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := explain.Decode(doc)
	if err != nil || got.Locals[0].Files[0] != tr.Locals[0].Files[0] || len(got.Steps) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	tr.Steps[1].Inputs[0].Step = 1
	if doc, err = tr.Encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := explain.Decode(doc); err == nil {
		t.Error("a step that reads itself is accepted")
	}
	if _, err := explain.Decode([]byte("x")); err == nil {
		t.Error("what is no trace is accepted")
	}
}
