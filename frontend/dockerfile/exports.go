package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	spec "github.com/moby/docker-image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/internal/exportrecord"
)

// An exported is an entry of what a stage or image exports.
type exported struct {
	exportrecord.Entry
	at    *instruction.Pos // the EXPORT; nil if an image said so
	index int              // in the image's record
	lower output           // of a Diff: what it leaves out
	err   error            // why a Diff cannot be had
}

// exports are what a stage exports, in the order in which importers replay it.
type exports struct {
	list    []exported
	changed bool  // by this Dockerfile, so the label has to be written
	err     error // why the record of the image cannot be read
}

// layersOf counts the layers of an image.
func layersOf(img *spec.DockerOCIImage) int {
	if n := len(img.RootFS.DiffIDs); n > 0 {
		return n
	}
	n := 0
	for _, h := range img.History { // schema 1
		if !h.EmptyLayer {
			n++
		}
	}
	return n
}

// readExports takes the exports of a stage that is an image, or a FROM of one.
func (s *stage) readExports() {
	s.exports = exports{}
	if s.image == nil {
		return
	}
	label, ok := s.image.Config.Labels[exportrecord.Label]
	if !ok {
		return
	}
	entries, err := exportrecord.Decode(label)
	if err != nil {
		s.exports.err = s.recordError(err)
		return
	}
	for i, e := range entries {
		x := exported{Entry: e, index: i}
		if e.Kind == exportrecord.Diff && e.Base > 0 {
			switch n := layersOf(s.image); {
			case s.limited == nil:
				x.err = fmt.Errorf("it is not known which layers of %q are its own, so that what it changes cannot be imported", s.base)
			case e.Base > n:
				x.err = fmt.Errorf("the export record of image %s leaves out %d layers, but it has %d", s.base, e.Base, n)
			default:
				x.lower = s.limited(e.Base)
			}
		}
		s.exports.list = append(s.exports.list, x)
	}
}

func (s *stage) recordError(err error) error {
	var newer *exportrecord.VersionError
	if errors.As(err, &newer) {
		return fmt.Errorf("image %s has %w", s.base, err)
	}
	return fmt.Errorf("image %s: %w", s.base, err)
}

// startExports is for the beginning of a stage: it exports what its base does.
func (s *stage) startExports() {
	if p := s.parent; p != nil {
		s.layers = p.layers
		s.exports = p.exports
		s.exports.list = slices.Clip(p.exports.list)
		s.imported = slices.Clip(p.imported)
		if p.context != nil {
			p.readExports()
			s.exports, s.layers = p.exports, p.imageLayers()
		}
		if s.resetsExports() {
			s.exports = exports{changed: true}
		}
	} else {
		s.layers = s.imageLayers()
		s.readExports()
	}
	s.start, s.startLayers = s.out, s.layers
}

// resetsExports reports whether FROM --reset drops the label that exports travel in.
func (s *stage) resetsExports() bool {
	return slices.ContainsFunc(s.reset, func(r instruction.Reset) bool {
		ok, _ := path.Match(r.Pattern, exportrecord.Label)
		return r.What == "label" && (ok || r.Pattern == "")
	})
}

// imageLayers is how many layers a stage has that is an image; -1 if that is not known.
func (s *stage) imageLayers() int {
	switch {
	case s.out == (output{}):
		return 0
	case s.limited == nil:
		return -1
	}
	return layersOf(s.image)
}

// export records what an EXPORT says.
func (b *build) export(s *stage, in *instruction.Export) error {
	if in.None {
		s.exports = exports{changed: true}
		s.commit("EXPORT NONE", false)
		return nil
	}
	if s.exports.err != nil {
		return fmt.Errorf("%w; EXPORT NONE in front makes a new one", s.exports.err)
	}
	entries, err := b.entries(s, in)
	if err != nil {
		return err
	}
	text := "EXPORT"
	if in.Group != instruction.DefaultGroup {
		text += " --as=" + in.Group
	}
	for _, e := range entries {
		if in.Group != instruction.DefaultGroup {
			e.Group = in.Group
		}
		x := exported{Entry: e, at: in.Pos}
		if e.Kind == exportrecord.Diff {
			x.lower = s.start
		}
		s.exports.list = append(s.exports.list, x)
		text += " " + describe(e)
	}
	if n := len(s.exports.list); n > exportrecord.MaxEntries {
		return fmt.Errorf("EXPORT: %d exports are too many, an image can have %d", n, exportrecord.MaxEntries)
	}
	s.exports.changed = true
	s.commit(text, false)
	return nil
}

// describe is how people read an entry.
func describe(e exportrecord.Entry) string {
	switch e.Kind {
	case exportrecord.Copy:
		return "COPY " + strings.Join(e.Sources, " ") + " " + e.Dest
	case exportrecord.Env, exportrecord.Tag:
		return strings.ToUpper(string(e.Kind)) + " " + e.Key + "=" + e.Value
	case exportrecord.Run:
		return "RUN " + runText(e)
	case exportrecord.Diff:
		return "DIFF"
	}
	return strings.ToUpper(string(e.Kind)) + " " + e.Value
}

// runText is a command in one line.
func runText(e exportrecord.Entry) string {
	if !e.Shell {
		quoted := make([]string, len(e.Args))
		for i, a := range e.Args {
			quoted[i] = strconv.Quote(a)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	first, rest, _ := strings.Cut(strings.TrimSpace(e.Args[0]), "\n")
	if first = strings.TrimSuffix(first, "\r"); rest != "" {
		first += "..."
	}
	return first
}

// writeExports puts what the target exports into its config.
func (b *build) writeExports(s *stage) error {
	if _, ok := b.opts.labels[exportrecord.Label]; ok {
		return fmt.Errorf("the label %s cannot be set: EXPORT writes it", exportrecord.Label)
	}
	if !s.exports.changed {
		return nil
	}
	var entries []exportrecord.Entry
	var last *instruction.Pos
	for _, x := range s.exports.list {
		if x.at != nil {
			last = x.at
		}
		if x.Kind == exportrecord.Diff && x.Base < 0 {
			b.lint.report(exportDiffLost, x.at)
			continue
		}
		entries = append(entries, x.Entry)
	}
	if len(entries) == 0 {
		delete(s.image.Config.Labels, exportrecord.Label)
		return nil
	}
	label, err := exportrecord.Encode(entries)
	if err != nil {
		return parser.WithLocation(fmt.Errorf("EXPORT: %w", err), last.Ranges)
	}
	if s.image.Config.Labels == nil {
		s.image.Config.Labels = map[string]string{}
	}
	s.image.Config.Labels[exportrecord.Label] = label
	return nil
}

var exportDiffLost = rule{"ExportDiffLost", "What a stage changes can be imported from its image only if it is known which layers are its own", "",
	"It is not known how many layers the base has, so the image does not say that it exports its changes (DIFF)",
	"Export the files by name instead of DIFF, or build on a base whose layers are known."}
