package exportrecord

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEncode(t *testing.T) {
	entries := []Entry{
		{Kind: Copy, Sources: []string{"/usr/local/go"}, Dest: "/usr/local/go"},
		{Kind: Env, Key: "PATH", Value: "/a&<b>:$PATH"},
		{Kind: Run, Args: []string{"ldconfig"}, Shell: true, Group: "libs", Network: "none"},
		{Kind: Diff, Base: 3},
	}
	const want = `{"e":[{"dst":"/usr/local/go","src":["/usr/local/go"],"t":"copy"},` +
		`{"k":"PATH","t":"env","v":"/a&<b>:$PATH"},{"argv":["ldconfig"],"g":"libs","net":"none","sh":true,"t":"run"},{"base":3,"t":"diff"}],"v":1}`
	got, err := Encode(entries)
	if err != nil || got != want {
		t.Fatalf("%s, %v", got, err)
	}
	back, err := Decode(got)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(entries, back); d != "" {
		t.Error(d)
	}
	if left, lost, empty := WithoutDiffs(got); !lost || empty || strings.Contains(left, "diff") || !strings.Contains(left, "ldconfig") {
		t.Errorf("without diffs: %s, %v, %v", left, lost, empty)
	}
	if left, lost, empty := WithoutDiffs(`{"e":[{"t":"diff"}],"v":1}`); !lost || !empty || strings.Contains(left, "diff") {
		t.Errorf("without its only diff: %s, %v, %v", left, lost, empty)
	}
}

func TestLimits(t *testing.T) {
	one := Entry{Kind: Env, Key: "A", Value: "b"}
	if _, err := Encode(slices.Repeat([]Entry{one}, MaxEntries)); err != nil {
		t.Error(err)
	}
	if _, err := Encode(slices.Repeat([]Entry{one}, MaxEntries+1)); err == nil || !strings.Contains(err.Error(), "513") {
		t.Errorf("one too many: %v", err)
	}
	one.Value = strings.Repeat("x", MaxBytes)
	if _, err := Encode([]Entry{one}); err == nil {
		t.Error("too long, and no error")
	}
	if _, err := Decode(strings.Repeat(" ", MaxBytes+1)); err == nil {
		t.Error("read too long a label")
	}
}

func TestDecodeErrors(t *testing.T) {
	for label, want := range map[string]string{
		``:                                     "not valid",
		`{}`:                                   "version 0",
		`{"v":"x"}`:                            "not valid",
		`{"e":[{"t":"zip"}],"v":1}`:            `the kind "zip" is not known: it takes a newer dbuild`,
		`{"e":[{"t":"copy"}],"v":1}`:           "of the kind copy and makes no sense",
		`{"e":[{"t":"env"}],"v":1}`:            "of the kind env and makes no sense",
		`{"e":[{"t":"run"}],"v":1}`:            "of the kind run and makes no sense",
		`{"e":[{"t":"diff","base":-1}],"v":1}`: "of the kind diff and makes no sense",
		`{"e":[{"t":"copy","src":["a"],"dst":"/a"}],"v":1}`:   "of the kind copy and makes no sense",
		`{"e":[{"t":"copy","src":["/a"],"dst":"a"}],"v":1}`:   "of the kind copy and makes no sense",
		`{"e":[{"t":"run","argv":["a"],"net":"host"}],"v":1}`: "of the kind run and makes no sense",
		`{"e":[{"t":"volume","v":"/a","g":"-"}],"v":1}`:       "invalid group",
		`{"e":[{"t":"diff","base":"many"}],"v":1}`:            "not valid",
		`{"e":[{"t":"expose"}],"v":1}`:                        "of the kind expose and makes no sense",
	} {
		_, err := Decode(label)
		if err == nil {
			t.Errorf("%s: no error", label)
			continue
		}
		if !slices.ContainsFunc(strings.Split(want, "|"), func(w string) bool { return strings.Contains(err.Error(), w) }) {
			t.Errorf("%s: %v, want %s", label, err, want)
		}
	}
	var newer *VersionError
	if _, err := Decode(`{"e":7,"v":2}`); !errors.As(err, &newer) || newer.Version != 2 {
		t.Errorf("a newer record: %v", err)
	}
	if e, err := Decode(`{"e":[{"t":"diff","base":1,"new":"field"}],"more":1,"v":1}`); err != nil || len(e) != 1 {
		t.Errorf("unknown fields: %v, %v", e, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(`{"e":[{"dst":"/b","src":["/a"],"t":"copy"},{"k":"A","t":"env","v":"$B"}],"v":1}`)
	f.Fuzz(func(t *testing.T, label string) {
		entries, err := Decode(label)
		if err != nil {
			return
		}
		again, err := Encode(entries)
		if err != nil {
			return // it grows: invalid UTF-8 is replaced
		}
		if _, err := Decode(again); err != nil {
			t.Errorf("%s became %s: %v", label, again, err)
		}
	})
}
