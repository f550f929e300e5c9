package imagediff

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// maxLines is how many paths of a layer are listed for people.
const maxLines = 100

// Text writes a report for people.
func (r *Report) Text(w io.Writer) error {
	p := &printer{w: w}
	for _, i := range r.Images {
		switch {
		case i.Digests[0] == i.Digests[1]:
			p.line("%s: equal, %s", i.Platform, i.Digests[0])
			continue
		case i.Digests[1] == "":
			p.line("%s: only the first build has it", i.Platform)
			continue
		case i.Digests[0] == "":
			p.line("%s: only the second build has it", i.Platform)
			continue
		}
		p.line("%s: %s and %s differ", i.Platform, i.Digests[0], i.Digests[1])
		for _, l := range i.Layers {
			p.layer(l)
		}
		if len(i.Config) > 0 {
			p.line("  configuration")
		}
		for _, f := range i.Config {
			p.line("    %s: %s, then %s", f.Field, value(f.First), value(f.Second))
		}
	}
	return p.err
}

// A printer writes lines until one cannot be written.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) layer(l Layer) {
	p.line("  layer %d: %s", l.Index+1, shown(l.CreatedBy))
	switch {
	case l.Digests[1] == "":
		p.line("    only in the first build")
	case l.Digests[0] == "":
		p.line("    only in the second build")
	case len(l.Paths) == 0:
		p.line("    the same files, written in another order or form")
	}
	for n, f := range l.Paths {
		if n == maxLines {
			p.line("    and %d more; --format json has all", len(l.Paths)-n)
			return
		}
		p.line("    %s: %s", shown(f.Path), f.what())
	}
}

// what says in words how an entry differs.
func (f Path) what() string {
	switch {
	case f.Second == nil:
		return "only in the first build"
	case f.First == nil:
		return "only in the second build"
	}
	var out []string
	for _, d := range f.Differs {
		a, b := f.First, f.Second
		switch d {
		case "type":
			d = fmt.Sprintf("type (%s, then %s)", a.Type, b.Type)
		case "content":
			if a.Size != b.Size {
				d = fmt.Sprintf("content (%d bytes, then %d)", a.Size, b.Size)
			}
		case "mode":
			d = fmt.Sprintf("mode (%s, then %s)", a.Mode, b.Mode)
		case "owner":
			d = fmt.Sprintf("owner (%d:%d, then %d:%d)", a.UID, a.GID, b.UID, b.GID)
		case "time":
			d = fmt.Sprintf("time (%s, then %s)", a.Time, b.Time)
		case "link":
			d = fmt.Sprintf("link (%s, then %s)", shown(a.Link), shown(b.Link))
		case "device":
			d = fmt.Sprintf("device (%s, then %s)", a.Device, b.Device)
		}
		out = append(out, d)
	}
	return strings.Join(out, ", ")
}

// shown is s if it can be printed as it is, otherwise in quotes.
func shown(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func value(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	const most = 200
	if v == nil {
		return "nothing"
	}
	if len(b) > most {
		return string(b[:most]) + "…"
	}
	return string(b)
}
