package llb_test

import (
	"reflect"
	"testing"

	"github.com/dbuild/dbuild/llb"
)

func TestReadsTravelInTheDescription(t *testing.T) {
	d := map[string]string{"llb.customname": "x"}
	copied := llb.Reads{Keyword: "COPY", Place: `stage "a b"`, Ignored: map[string]string{"/x": `.dockerignore:1 "x"`}}
	mounted := llb.Reads{Keyword: "RUN", Place: llb.BuildContext}
	copied.Describe(d, "")
	mounted.Describe(d, "/m")
	if got := llb.ReadsOf(d, ""); !reflect.DeepEqual(got, copied) {
		t.Errorf("got %+v, want %+v", got, copied)
	}
	if got := llb.ReadsOf(d, "/m"); !reflect.DeepEqual(got, mounted) {
		t.Errorf("got %+v, want %+v", got, mounted)
	}
	if got := llb.ReadsOf(nil, ""); !reflect.DeepEqual(got, llb.Reads{}) {
		t.Errorf("of nothing: %+v", got)
	}
	// What somebody else wrote there is no reason to fail.
	if got := llb.ReadsOf(map[string]string{"dbuild.reads": "COPY x", "dbuild.ignored": "{"}, ""); got.Keyword != "COPY" || got.Ignored != nil {
		t.Errorf("of a broken one: %+v", got)
	}
	if got := mounted.Or(llb.Reads{Ignored: copied.Ignored}); got.Ignored["/x"] == "" || got.Keyword != "RUN" {
		t.Errorf("or: %+v", got)
	}
}
