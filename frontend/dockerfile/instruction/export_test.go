package instruction

import (
	"strings"
	"testing"
)

func TestExportHeredocs(t *testing.T) {
	const text = `# escape=\
FROM scratch
RUN <<A
EXPORT RUN <<B
A
ExPort --as=g RUN --network=none cat <<B <<-C
EXPORT RUN <<A
B
	EXPORT /x
	C
RUN echo \
EXPORT RUN <<A
not a command
A
ONBUILD EXPORT RUN <<A
RUN x
A
EXPORT RUN ["a", "<<A"]
EXPORT /last
`
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	body := f.Stages[0].Body
	if len(body) != 6 {
		t.Fatalf("%d instructions", len(body))
	}
	if run := body[0].(*Run); run.Heredocs[0].Data != "EXPORT RUN <<B\n" {
		t.Errorf("the document of a RUN became %q", run.Heredocs[0].Data)
	}
	x := body[1].(*Export)
	run := x.What.(*Run)
	if x.Keyword != "ExPort" || x.Group != "g" || run.Network != "none" || len(run.Heredocs) != 2 ||
		run.Heredocs[0].Data != "EXPORT RUN <<A\n" || run.Heredocs[1].Data != "\tEXPORT /x\n" || !strings.HasPrefix(x.Source, "ExPort --as=g RUN") {
		t.Errorf("%+v of %+v", x, run)
	}
	if run := body[2].(*Run); run.Args[0] != "echo EXPORT RUN <<A\nnot a command\nA" && run.Args[0] != "echo EXPORT RUN <<A" {
		t.Errorf("a continued line became %q", run.Args)
	}
	if got := body[3].(*OnBuild).Trigger; got != "EXPORT RUN <<A\nRUN x\nA" {
		t.Errorf("the trigger is %q", got)
	}
	if in, err := ParseTrigger(body[3].(*OnBuild).Trigger, nil); err != nil || in.(*Export).What.(*Run).Heredocs[0].Data != "RUN x\n" {
		t.Errorf("the trigger means %+v, %v", in, err)
	}
	if run := body[4].(*Export).What.(*Run); run.Shell || run.Args[1] != "<<A" {
		t.Errorf("the exec form became %+v", run)
	}
}

// What is read of a file is the same whether or not the file needs the second look that
// heredocs behind EXPORT take.
func FuzzExportHeredocs(f *testing.F) {
	f.Add("RUN <<A\nx\nA\nCOPY <<B /\n b\nB\n")
	f.Add("EXPORT RUN <<A \\\n <<-B\nEXPORT\nA\n\tB\nonbuild export run cat <<X\nX")
	f.Fuzz(func(t *testing.T, text string) {
		plain, err := Parse([]byte("FROM scratch\n" + text))
		again, err2 := Parse([]byte("FROM scratch\n" + text + "\nEXPORT RUN <<END\nEND\n"))
		if err != nil || err2 != nil || strings.Contains(strings.ToLower(text), "export") {
			return
		}
		a, b := plain.Stages[len(plain.Stages)-1].Body, again.Stages[len(again.Stages)-1].Body
		for i, in := range a {
			if i < len(b)-1 && in.At().Source != b[i].At().Source {
				t.Errorf("%q became %q", in.At().Source, b[i].At().Source)
			}
		}
	})
}
