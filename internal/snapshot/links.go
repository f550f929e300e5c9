package snapshot

import (
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Links decides which files a draft may have as hard links of files elsewhere in the
// store, instead of copies. To a process, two names of one file are one file: cp refuses
// to copy one to the other, and mv does nothing. So no two files that a Dockerfile copied
// apart may be one within the layers that are mounted together.
//
// A layer remembers the directories whose files it has (layerRow.Links). Only where the
// layers beneath have files of the same origin is it looked which.
type Links struct {
	d       *Draft
	source  *Ref                // what is copied; nil if it is not made of layers
	verdict map[string]*sharing // by name of the directory that a file is in
}

// sharing is what is known of the files of one directory of the store.
type sharing struct {
	family []string        // the directories that its files may come from, itself among them
	taken  map[uint64]bool // inodes of such files that are there already
	noted  bool            // the draft knows that it has links to them
}

// Links returns what decides for one action that copies from source, or from a directory
// that is no layer. It is good until the next action begins.
func (d *Draft) Links(source *Ref) *Links {
	return &Links{d: d, source: source, verdict: map[string]*sharing{}}
}

// May reports whether the file at host, in a directory of the store, may be linked to.
// Whoever is told so does it.
func (k *Links) May(host string) bool {
	name := k.d.s.alloc.nameOf(host)
	if name == "" {
		return false
	}
	v := k.verdict[name]
	if v == nil {
		v = k.judge(name)
		k.verdict[name] = v
	}
	if len(v.taken) > 0 {
		var st unix.Stat_t
		if unix.Lstat(host, &st) != nil || v.taken[st.Ino] {
			return false
		}
	}
	if !v.noted {
		v.noted = true
		for _, f := range v.family {
			k.d.links[f] = true
		}
	}
	return true
}

// judge finds out what of a directory's files is in the layers beneath, or in what earlier
// actions made.
func (k *Links) judge(name string) *sharing {
	v := &sharing{family: []string{name}, taken: map[uint64]bool{}}
	if k.source != nil {
		for _, l := range k.source.layers {
			if own, links := l.origins(); own == name {
				v.family = append(v.family, links...)
			}
		}
	}
	related := func(own string, links []string) bool {
		return slices.Contains(v.family, own) || slices.ContainsFunc(links, func(f string) bool { return slices.Contains(v.family, f) })
	}
	if k.d.parent != nil {
		for _, l := range k.d.parent.layers {
			if own, links := l.origins(); own != "" && related(own, links) {
				v.take(l.here())
			}
		}
	}
	if slices.ContainsFunc(v.family, func(f string) bool { return k.d.links[f] }) {
		v.take(k.d.upper)
	}
	return v
}

// take adds the files of a directory that have several names.
func (v *sharing) take(dir string) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil // what is not there any more, or never will be linked
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			v.taken[st.Ino] = true
		}
		return nil
	})
}

// origins returns the name of the layer's own directory, "" if it has none, and those
// whose files it links to.
func (l *layer) origins() (own string, links []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.row.Slot == nil {
		return "", nil
	}
	return l.row.Slot.Num, l.row.Links
}

// nameOf is the name of the directory of the store that a file is in, or "".
func (a *allocator) nameOf(host string) string {
	rest, ok := strings.CutPrefix(host, a.inner.dir+"/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// linked returns the row's record of d's links.
func (d *Draft) linked() []string {
	if len(d.links) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(d.links))
}
