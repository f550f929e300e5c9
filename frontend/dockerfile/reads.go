package dockerfile

import (
	"fmt"
	"path"
	"strconv"

	"github.com/dbuild/dbuild/internal/ignore"
	"github.com/dbuild/dbuild/llb"
)

// reads says what an instruction reads, in the terms of the Dockerfile: of a stage, or of
// the build context if that is nil.
func (b *build) reads(keyword string, from *stage, sources ...string) llb.Reads {
	r := llb.Reads{Keyword: keyword, Place: b.place(from)}
	ignored := b.loader.ignore
	if from != nil {
		ignored = from.ignore
	}
	if ignored == nil || len(ignored.Patterns()) == 0 {
		return r
	}
	explainer, err := b.explainer(ignored)
	if err != nil {
		return r
	}
	for _, src := range sources {
		if hasWildcard(src) {
			continue
		}
		v, err := explainer.Explain(src)
		if err != nil || !v.Excluded || v.By == nil {
			continue
		}
		if r.Ignored == nil {
			r.Ignored = map[string]string{}
		}
		r.Ignored[path.Join("/", src)] = fmt.Sprintf("%s:%d %q", v.File, v.By.Line, v.By.Text)
	}
	return r
}

// explainer is kept: patterns take their time to compile.
func (b *build) explainer(f *ignore.File) (*ignore.Explainer, error) {
	if e := b.explainers[f]; e != nil {
		return e, nil
	}
	e, err := f.Explainer()
	if err == nil {
		b.explainers[f] = e
	}
	return e, err
}

// place is what users call the files of a stage.
func (b *build) place(s *stage) string {
	switch {
	case s == nil:
		return llb.BuildContext
	case s.context != nil || s.given:
		return "context " + strconv.Quote(s.called())
	case s.index < 0:
		return "image " + strconv.Quote(s.base)
	case s.name == "":
		return "stage " + strconv.Itoa(s.index)
	}
	return "stage " + strconv.Quote(s.name)
}

// called is the name by which instructions read from s.
func (s *stage) called() string {
	if s.index < 0 {
		return s.base
	}
	return s.name
}
