package instruction

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func as[T any](v T) *T { return &v }

func parse(text string) (*Mount, error) {
	return ParseMount(text, func(s string) (string, error) { return strings.ReplaceAll(s, "$T", "/exp"), nil })
}

func TestParseMount(t *testing.T) {
	for text, want := range map[string]Mount{
		"target=/x":                     {Type: Bind, Target: "/x", ReadOnly: true},
		"dst=/x":                        {Type: Bind, Target: "/x", ReadOnly: true},
		"destination=rel,rw":            {Type: Bind, Target: "rel"},
		"TYPE=BIND,Target=/x,RW=false":  {Type: Bind, Target: "/x", ReadOnly: true},
		"target=/x,readwrite=1":         {Type: Bind, Target: "/x"},
		"from=a,src=s,target=/x,ro":     {Type: Bind, From: "a", Source: "s", Target: "/x", ReadOnly: true},
		`"source=a,b",target=/x`:        {Type: Bind, Source: "a,b", Target: "/x", ReadOnly: true},
		"target=$T/y":                   {Type: Bind, Target: "/exp/y", ReadOnly: true},
		"type=cache,target=/x":          {Type: Cache, Target: "/x"},
		"type=cache,target=/x,readonly": {Type: Cache, Target: "/x", ReadOnly: true},
		"type=cache,target=/x,id=i,sharing=LOCKED,mode=0700,uid=1,gid=2,from=f,source=/s": {
			Type: Cache, Target: "/x", ID: "i", Sharing: "locked", Mode: as(uint32(0o700)),
			UID: as(uint32(1)), GID: as(uint32(2)), From: "f", Source: "/s",
		},
		"type=tmpfs,target=/x":             {Type: Tmpfs, Target: "/x"},
		"type=tmpfs,target=/x,size=64m":    {Type: Tmpfs, Target: "/x", Size: 64 << 20},
		"size=1k,target=/x,type=tmpfs,ro":  {Type: Tmpfs, Target: "/x", Size: 1024, ReadOnly: true},
		"type=secret,id=a":                 {Type: Secret, ID: "a", ReadOnly: true},
		"type=secret,src=a,env=E":          {Type: Secret, Source: "a", Env: as("E"), ReadOnly: true},
		"required,type=secret,target=/a/b": {Type: Secret, Target: "/a/b", Required: true, ReadOnly: true},
		"type=ssh":                         {Type: SSH, ReadOnly: true},
		"type=ssh,id=x,required=true,mode=666,target=/s": {
			Type: SSH, ID: "x", Target: "/s", Required: true, Mode: as(uint32(0o666)), ReadOnly: true,
		},
	} {
		got, err := parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(&want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
	}
}

func TestParseMountErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "not a valid list",
		"rw":                                 "needs a target",
		"type=bnid,target=/x":                `unsupported mount type "bnid" (did you mean bind?)`,
		"target":                             "invalid field 'target' must be a key=value pair",
		"tagret=/x":                          "unexpected key 'tagret' in 'tagret=/x' (did you mean target?)",
		"Z,target=/x":                        "unexpected key 'z' in 'Z'",
		"target=/x,ro=maybe":                 "invalid value for ro: maybe",
		"target=/x,required":                 "unexpected key 'required' for mount type 'bind'",
		"target=/x,size=1":                   "unexpected key 'size' for mount type 'bind'",
		"type=tmpfs,target=/x,size=big":      "invalid value for size: big",
		"target=/x,mode=0700":                `mode not allowed for "bind" type mounts`,
		"type=tmpfs,target=/x,uid=1":         `uid not allowed for "tmpfs" type mounts`,
		"type=cache,target=/x,mode=9":        "invalid value 9 for mode",
		"type=cache,target=/x,uid=-1":        "invalid value -1 for uid",
		"type=cache,target=/x,sharing=lock":  `unsupported sharing value "lock" (did you mean locked?)`,
		"type=bind,target=/x,sharing=shared": "invalid cache sharing set for bind mount",
		"type=secret":                        "one of source, target, id required",
		"type=secret,id=a,src=b":             "source and id mean the same",
		"type=secret,id=a,from=b":            "no 'from'",
		"type=cache":                         "a mount of type cache needs a target",
		"type=cache,target=/x,env=A":         "unexpected key 'env' for mount type 'cache'",
		"type=ssh,source=/x":                 "no source",
		`"target=/x`:                         "not a valid list",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %s", text, err, want)
		}
	}
}

func TestParseKeepsPlacesAndComments(t *testing.T) {
	f, err := Parse([]byte("# escape=`\n# syntax=x\nARG G=1\n\n# web serves\nfrom scratch as Web\n# first\ncopy a `\n  b /\nRUN <<-X\n\tdoc\n\tX\n"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Escape != '`' || len(f.Global) != 1 || len(f.Stages) != 1 {
		t.Fatalf("%+v", f)
	}
	s := f.Stages[0]
	if s.From.Name != "web" || s.From.Doc != "serves" || s.From.Line() != 6 || s.From.Keyword != "from" {
		t.Errorf("FROM is %+v", s.From)
	}
	cp := s.Body[0].(*Copy)
	if d := cmp.Diff([]string{"a", "b"}, cp.Sources); d != "" || cp.Dest != "/" || cp.Line() != 8 || cp.Comments[0] != "first" {
		t.Errorf("COPY is %+v, %s", cp, d)
	}
	if got := cp.Ranges[len(cp.Ranges)-1].End.Line; got != 9 {
		t.Errorf("COPY ends on line %d", got)
	}
	run := s.Body[1].(*Run)
	want := []Heredoc{{Name: "X", Data: "\tdoc\n", Expand: true, Chomp: true}}
	if d := cmp.Diff(want, run.Heredocs); d != "" {
		t.Error(d)
	}
}
