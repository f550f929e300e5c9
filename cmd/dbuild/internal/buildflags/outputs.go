package buildflags

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	"github.com/tonistiigi/go-csvvalue"
)

// A Sink says what happens on this side to what an exporter sends.
type Sink int

// Sinks.
const (
	None           Sink = iota // nothing is sent: the daemon keeps or pushes the result
	Stdout                     // one stream, to standard output
	File                       // one stream, to the file Dest
	Dir                        // files, to the directory Dest
	Docker                     // one stream, to an engine
	IntoContainerd             // blobs, to containerd's store
)

// An Export is one thing to do with the result.
type Export struct {
	Type  string // image, oci, docker, local or tar
	Attrs map[string]string
	Sink  Sink
	Dest  string // a path, if Sink is File or Dir

	Engine     string     // docker, nerdctl or podman, if Sink is Docker; "" for the one that is there
	Containerd Containerd // if Sink is IntoContainerd
}

// image tells whether the export makes an image, and so has an id.
func (e *Export) image() bool { return e.Type == "image" || e.Type == "oci" || e.Type == "docker" }

// pushes tells whether the export goes to a registry.
func (e *Export) pushes() bool { return e.Type == "image" && isTrue(e.Attrs["push"]) }

var exportTypes = []string{"cacheonly", "containerd", "docker", "image", "local", "oci", "registry", "tar"}

// parseOutputs reads the values of -o. Nothing is left of type=cacheonly but that the
// user asked for something: the second result.
func parseOutputs(values []string) ([]Export, bool, error) {
	var out []Export
	stdout := ""
	for _, v := range values {
		e, err := parseOutput(v)
		if err != nil {
			return nil, false, err
		}
		if e.Type == "cacheonly" {
			continue
		}
		if e.Sink == Stdout {
			if stdout != "" {
				return nil, false, fmt.Errorf("-o %s and -o %s both write to standard output", stdout, v)
			}
			stdout = v
		}
		out = append(out, e)
	}
	return out, len(values) > 0, nil
}

func parseOutput(v string) (Export, error) {
	if v == "-" {
		return Export{Type: "tar", Attrs: map[string]string{}, Sink: Stdout}, nil
	}
	fields, err := csvvalue.Fields(v, nil)
	if err != nil {
		return Export{}, fmt.Errorf("-o %s: %w", v, err)
	}
	if len(fields) == 1 && fields[0] == v && !strings.HasPrefix(v, "type=") {
		if v == "" {
			return Export{}, fmt.Errorf("-o needs a directory, - or type=KIND")
		}
		return Export{Type: "local", Attrs: map[string]string{}, Sink: Dir, Dest: v}, nil
	}
	e := Export{Attrs: map[string]string{}}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		key = strings.TrimSpace(strings.ToLower(key))
		if !ok && key != "push" && key != "unpack" {
			return Export{}, fmt.Errorf("-o %s: %q is not key=value", v, field)
		}
		switch {
		case !ok:
			e.Attrs[key] = "true"
		case key == "type":
			e.Type = value
		case key == "dest":
			e.Dest = value
		default:
			e.Attrs[key] = value
		}
	}
	return e, e.complete(v)
}

// complete checks the parts of an -o against its type and chooses the sink.
func (e *Export) complete(v string) error {
	if e.Type == "" {
		return fmt.Errorf("-o %s: type is missing, one of %s", v, strings.Join(exportTypes, ", "))
	}
	if !slices.Contains(exportTypes, e.Type) {
		hint := ""
		if s := suggest.Nearest(e.Type, exportTypes); s != "" {
			hint = fmt.Sprintf(" (did you mean %s?)", s)
		}
		return fmt.Errorf("-o %s: unknown type %q%s; there are %s", v, e.Type, hint, strings.Join(exportTypes, ", "))
	}
	switch e.Type {
	case "registry":
		e.Type = "image"
		if _, ok := e.Attrs["push"]; !ok {
			e.Attrs["push"] = "true"
		}
		fallthrough
	case "image", "cacheonly", "containerd":
		if e.Dest != "" {
			return fmt.Errorf("-o %s: an output of type %s has no dest", v, e.Type)
		}
		if e.Type == "containerd" {
			e.intoContainerd()
		}
	case "local":
		if e.Dest == "" || e.Dest == "-" {
			return fmt.Errorf("-o %s: type=local needs dest=DIRECTORY", v)
		}
		if m := e.Attrs["mode"]; m != "" && m != "copy" && m != "delete" {
			return fmt.Errorf("-o %s: mode is copy or delete, not %q", v, m)
		}
		e.Sink = Dir
	case "tar", "oci", "docker":
		e.Sink = File
		asDir := e.Type != "tar" && e.Attrs["tar"] != "" && !isTrue(e.Attrs["tar"])
		switch {
		case asDir && (e.Dest == "" || e.Dest == "-"):
			return fmt.Errorf("-o %s: tar=false needs dest=DIRECTORY", v)
		case asDir:
			e.Sink = Dir
		case e.Dest == "-", e.Dest == "" && e.Type != "docker":
			e.Sink, e.Dest = Stdout, ""
		case e.Dest == "":
			e.Sink = Docker
		}
	}
	return nil
}

// exports combines -o with -t, --push, --load and what needs an image to be made.
func (f *Flags) exports(tags []string) ([]Export, error) {
	out, asked, err := parseOutputs(f.Output)
	if err != nil {
		return nil, err
	}
	if f.Push {
		out = push(out)
	}
	if want := f.Load.export(); f.Load.On && !slices.ContainsFunc(out, func(e Export) bool { return e.Sink == want.Sink }) {
		out = append(out, want)
	}
	if len(out) == 0 && !asked && (len(tags) > 0 || f.wantsID()) {
		out = []Export{{Type: "image", Attrs: map[string]string{}}}
	}
	for i := range out {
		e := &out[i]
		if !e.image() {
			continue
		}
		if f.Squash {
			e.Attrs["squash"] = "true"
		}
		names, normalize := tags, normalizeTags
		if isTrue(e.Attrs["push-by-digest"]) {
			normalize = bareNames
			if names, err = bareNames(f.Tag); err != nil {
				return nil, err
			}
		}
		if n := e.Attrs["name"]; n != "" {
			own, err := normalize(strings.Split(n, ","))
			if err != nil {
				return nil, err
			}
			names = append(own, slices.DeleteFunc(slices.Clone(names), func(t string) bool { return slices.Contains(own, t) })...)
		}
		if len(names) > 0 {
			e.Attrs["name"] = strings.Join(names, ",")
		} else if e.pushes() && !isTrue(e.Attrs["push-by-digest"]) {
			return nil, fmt.Errorf("a name to push to is missing: add -t NAME")
		} else if e.Sink == IntoContainerd {
			return nil, fmt.Errorf("containerd keeps images by name: add -t NAME")
		}
	}
	if !slices.ContainsFunc(out, func(e Export) bool { return e.image() }) {
		if f.IIDFile != "" {
			return nil, fmt.Errorf("no image ID: --iidfile needs an output that is an image")
		}
		if f.Squash {
			return nil, fmt.Errorf("--squash needs an output that is an image: only images have layers")
		}
	}
	return out, nil
}

// wantsID tells whether the result must be an image even if nobody wants it exported.
func (f *Flags) wantsID() bool { return f.Quiet || f.IIDFile != "" || f.MetadataFile != "" || f.Squash }

// push makes the outputs that are images be pushed, adding one if there is none.
func push(out []Export) []Export {
	for i := range out {
		if out[i].Type == "image" {
			out[i].Attrs["push"] = "true"
			return out
		}
	}
	return append(out, Export{Type: "image", Attrs: map[string]string{"push": "true"}})
}

func isTrue(s string) bool {
	b, err := strconv.ParseBool(s)
	return err == nil && b
}
