package remote

import (
	"encoding/json"
	"testing"

	"github.com/dbuild/dbuild/cache/buildkit"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
)

// named is an operation that BuildKit knows by a step.
type named struct {
	solver.Op
	step buildkit.Step
}

func (n named) BuildKit(solver.Spec) (buildkit.Step, bool) { return n.step, n.step.Digest != "" }

func dg(s string) digest.Digest { return digest.FromString(s) }

func step(name string, outputs int, inputs ...buildkit.Input) named {
	return named{step: buildkit.Step{Digest: dg(name), Outputs: outputs, Inputs: inputs}}
}

// byContent is an input that is read by content.
var byContent = buildkit.Input{Selector: dg("sel"), Content: []buildkit.Selector{{Path: "/x"}}}

// theirs is a cache as BuildKit writes it: a base image; a RUN on it with a result; and a COPY
// from that onto nothing, known by its definition and by content.
func theirs(t *testing.T, change func(*config)) *Imports {
	t.Helper()
	c := &config{
		Layers: []layer{{Blob: dg("blob0"), Parent: -1}, {Blob: dg("blob1"), Parent: 0}},
		Records: []record{
			{Digest: buildkit.Record(dg("base"), 0)},
			{Digest: buildkit.Record(dg("run"), 0), Inputs: [][]input{{{Link: 0}}}, Results: []result{{Layer: 1}}},
			{Digest: buildkit.ContentRecord(solver.Sum{1})},
			{Digest: buildkit.Record(dg("copy"), 0), Inputs: [][]input{{{Selector: dg("sel").String(), Link: 1}, {Link: 2}}}, Results: []result{{Layer: 0}}},
		},
	}
	if change != nil {
		change(c)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = parseConfig(b); err != nil {
		t.Fatal(err)
	}
	m := newMemory(&origin{})
	m.learn(c, map[digest.Digest]snapshot.ImageLayer{
		dg("blob0"): {DiffID: dg("diff0")}, dg("blob1"): {DiffID: dg("diff1")},
	})
	return &Imports{list: []*memory{m}}
}

// bind matches an operation and binds it to a key.
func bind(im *Imports, op named, key byte, from ...solver.Traced) bool {
	t, ok := im.Trace(op, solver.Spec{})
	if !ok {
		return false
	}
	m, ok := t.Match(from)
	if ok {
		m.Bind(solver.ID{key})
	}
	return ok
}

func out(key byte, output int) solver.ID { return solver.OutputID(solver.ID{key}, output) }

func layersAt(im *Imports, id solver.ID) int {
	l, ok := im.list[0].result(id)
	if !ok {
		return -1
	}
	return len(l)
}

func TestRecordsOfBuildKitAreFound(t *testing.T) {
	im := theirs(t, nil)
	run, cp := step("run", 1, buildkit.Input{}), step("copy", 1, byContent)
	if bind(im, run, 2, solver.Traced{ID: out(1, 0)}) {
		t.Error("a step was found before what it is made from")
	}
	if !bind(im, step("base", 1), 1) || layersAt(im, out(1, 0)) != -1 || !im.Known(out(1, 0)) {
		t.Error("the base is not known, or has a result")
	}
	if !bind(im, run, 2, solver.Traced{ID: out(1, 0)}) || layersAt(im, out(2, 0)) != 2 {
		t.Error("the result of RUN was not found")
	}
	if !bind(im, cp, 3, solver.Traced{ID: out(2, 0)}) || layersAt(im, out(3, 0)) != 1 {
		t.Error("COPY was not found by what it copies from")
	}
	if !bind(im, cp, 4, solver.Traced{Sum: &solver.Sum{1}}) || layersAt(im, out(4, 0)) != 1 {
		t.Error("COPY was not found by what it copies")
	}
	im.Drop(out(2, 0), nil)
	if layersAt(im, out(2, 0)) != -1 || !im.Known(out(2, 0)) || !bind(im, cp, 5, solver.Traced{ID: out(2, 0)}) {
		t.Error("what was dropped has to stay known")
	}
	if layersAt(im, out(4, 0)) != 1 {
		t.Error("something else was dropped")
	}
}

func TestWhatBuildKitDidNotMakeIsNotFound(t *testing.T) {
	base := func(im *Imports) { bind(im, step("base", 1), 1) }
	for name, c := range map[string]struct {
		op   named
		from []solver.Traced
	}{
		"another step":             {step("run2", 1, buildkit.Input{}), []solver.Traced{{ID: out(1, 0)}}},
		"another base":             {step("run", 1, buildkit.Input{}), []solver.Traced{{ID: out(9, 0)}}},
		"another output of it":     {step("run", 1, buildkit.Input{}), []solver.Traced{{ID: out(1, 1)}}},
		"a base without a key":     {step("run", 1, buildkit.Input{}), []solver.Traced{{}}},
		"a part of the base":       {step("run", 1, buildkit.Input{Selector: dg("sel")}), []solver.Traced{{ID: out(1, 0)}}},
		"one more input":           {step("run", 1, buildkit.Input{}, buildkit.Input{}), []solver.Traced{{ID: out(1, 0)}, {ID: out(1, 0)}}},
		"another content":          {step("copy", 1, byContent), []solver.Traced{{Sum: &solver.Sum{2}}}},
		"content read by key":      {step("copy", 1, buildkit.Input{}), []solver.Traced{{Sum: &solver.Sum{1}}}},
		"no name":                  {named{}, nil},
		"another selector of name": {step("copy", 1, buildkit.Input{Selector: dg("sel2")}), []solver.Traced{{ID: out(2, 0)}}},
	} {
		im := theirs(t, nil)
		base(im)
		bind(im, step("run", 1, buildkit.Input{}), 2, solver.Traced{ID: out(1, 0)})
		if bind(im, c.op, 5, c.from...) {
			t.Error(name, "was found")
		}
	}
}

// A record of which two contents are known has a result that may be of either.
func TestContentMustBeClear(t *testing.T) {
	im := theirs(t, func(c *config) {
		c.Records = append(c.Records, record{Digest: buildkit.ContentRecord(solver.Sum{2})})
		c.Records[3].Inputs[0] = append(c.Records[3].Inputs[0], input{Link: 4})
	})
	cp := step("copy", 1, byContent)
	for _, sum := range []solver.Sum{{1}, {2}} {
		if bind(im, cp, 4, solver.Traced{Sum: &sum}) {
			t.Errorf("content %v was found", sum[0])
		}
	}
	bind(im, step("base", 1), 1)
	bind(im, step("run", 1, buildkit.Input{}), 2, solver.Traced{ID: out(1, 0)})
	if !bind(im, cp, 3, solver.Traced{ID: out(2, 0)}) {
		t.Error("the definition counts all the same")
	}
}

// What is written for BuildKit leads where its records do, and a step that is made from
// something without a name, or of content that nobody knows, has no record.
func TestRecordsForBuildKit(t *testing.T) {
	b := newBuilder()
	b.names = true
	way := func(op named, from ...solver.Traced) []solver.Way { return []solver.Way{{Op: op, Inputs: from}} }
	b.add(solver.Entry{ID: out(1, 0), Ways: append(way(step("base", 1)), way(step("base2", 1))...)}, nil, nil)
	b.add(solver.Entry{ID: out(2, 0), Ways: way(named{})}, nil, nil)
	b.add(solver.Entry{ID: out(3, 0), Ways: way(step("copy", 1, buildkit.Input{}, byContent), solver.Traced{ID: out(1, 0)}, solver.Traced{ID: out(2, 0), Sum: &solver.Sum{1}})}, nil, nil)
	b.add(solver.Entry{ID: out(4, 0), Ways: way(step("lost", 1, byContent), solver.Traced{ID: out(2, 0)})}, nil, nil)

	data, err := json.Marshal(b.config)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory(&origin{})
	m.learn(c, nil)
	im := &Imports{list: []*memory{m}}
	cp := step("copy", 1, buildkit.Input{}, byContent)
	for i, name := range []string{"base", "base2"} {
		key := byte(10 + i)
		if !bind(im, step(name, 1), key) || !bind(im, cp, 20+key, solver.Traced{ID: out(key, 0)}, solver.Traced{Sum: &solver.Sum{1}}) {
			t.Errorf("nothing was written about a copy onto %s", name)
		}
	}
	if _, ok := im.Trace(step("lost", 1, byContent), solver.Spec{}); ok {
		t.Error("there is a record of a step whose input has no name")
	}
	own := newBuilder()
	own.add(solver.Entry{ID: out(1, 0), Ways: way(step("base", 1))}, nil, nil)
	if len(own.Records) != 1 {
		t.Errorf("%d records without BuildKit's names", len(own.Records))
	}
}
