package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
)

// cmdBuild builds into the OCI layout "image", or into DIR, where the command image looks:
// build [-d DIR] [FLAG ...] CONTEXT
func cmdBuild(ts *testscript.TestScript, neg bool, args []string) {
	dir, args := option(ts, args, "-d", "image")
	args = append([]string{"--progress=plain", "-o", "type=oci,tar=false,dest=" + ts.MkAbs(dir)}, args...)
	err := ts.Exec("dbuild", args...)
	if neg && err == nil {
		ts.Fatalf("the build succeeded, it should not")
	} else if !neg && err != nil {
		ts.Fatalf("the build failed: %v", err)
	}
}

// option takes a leading option from args.
func option(ts *testscript.TestScript, args []string, name, otherwise string) (string, []string) {
	if len(args) == 0 || args[0] != name {
		return otherwise, args
	}
	if len(args) == 1 {
		ts.Fatalf("%s needs a value", name)
	}
	return args[1], args[2:]
}

// imageVerbs are the second words of the command image. With ! the check must fail, but not
// for the want of an image.
var imageVerbs = map[string]struct {
	usage string
	least int // arguments
	files bool
	check func(ts *testscript.TestScript, img *image, args []string) error
}{
	"config":  {"PATH WANT: part of the image config, such as config.Cmd; WANT is a string, JSON or \"absent\"", 2, false, checkConfig},
	"layers":  {"COUNT", 1, false, checkLayers},
	"history": {"REGEXP ...: what the last entries were created by, the newest at the end", 1, false, checkHistory},
	"shares":  {"DIR COUNT: the newest layers are those of the image there", 2, false, checkShares},
	"digest":  {"DIR: the layout there has the same image", 1, false, checkDigest},
	"cat":     {"PATH TEXT: a file has this text, but for a newline at the end", 2, true, checkCat},
	"print":   {"PATH: a file's text becomes the standard output, for the commands stdout and cp", 1, true, printFile},
	"cmp":     {"PATH FILE: a file has the same bytes as FILE", 2, true, checkCmp},
	"stat":    {"PATH MODE UID:GID [SECONDS], such as -rw-r--r-- 0:0", 2, true, checkStat},
	"link":    {"PATH TARGET: a symbolic link", 2, true, checkLink},
	"xattr":   {"PATH NAME VALUE", 3, true, checkXattr},
	"has":     {"PATH ..., with ! none of them", 1, true, checkHas},
	"list":    {"DIR [PATH ...]: these and no others are below DIR", 1, true, checkList},
}

// cmdImage looks into an image that the command build made:
// [!] image [-d DIR] [-p PLATFORM] VERB ARG ...
func cmdImage(ts *testscript.TestScript, neg bool, args []string) {
	dir, args := option(ts, args, "-d", "image")
	platform, args := option(ts, args, "-p", "")
	if len(args) == 0 {
		ts.Fatalf("usage: image [-d DIR] [-p PLATFORM] VERB ARG ...")
	}
	verb, ok := imageVerbs[args[0]]
	if !ok {
		ts.Fatalf("image can %s, not %s", strings.Join(slices.Sorted(maps.Keys(imageVerbs)), ", "), args[0])
	}
	if len(args)-1 < verb.least {
		ts.Fatalf("usage: image [-d DIR] [-p PLATFORM] %s %s", args[0], verb.usage)
	}
	img, err := openImage(ts.MkAbs(dir), platform)
	ts.Check(err)
	if verb.files {
		ts.Check(img.unpack(ts.MkAbs(dir)))
	}
	if neg && args[0] == "has" {
		for _, name := range args[1:] {
			if checkHas(ts, img, []string{name}) == nil {
				ts.Fatalf("the image has %s, it should not", name)
			}
		}
		return
	}
	err = verb.check(ts, img, args[1:])
	if neg && err == nil {
		ts.Fatalf("image %s holds, it should not", strings.Join(args, " "))
	} else if !neg {
		ts.Check(err)
	}
}

func checkConfig(_ *testscript.TestScript, img *image, args []string) error {
	var got any
	if err := json.Unmarshal(img.config, &got); err != nil {
		return err
	}
	for _, name := range strings.Split(args[0], ".") {
		in, _ := got.(map[string]any)
		v, ok := in[name]
		if !ok {
			v = "absent"
		}
		got = v
	}
	if got == any(args[1]) {
		return nil
	}
	var want any
	if err := json.Unmarshal([]byte(args[1]), &want); err != nil || !reflect.DeepEqual(got, want) {
		b, _ := json.Marshal(got)
		return fmt.Errorf("%s is %s, want %s", args[0], b, args[1])
	}
	return nil
}

func checkLayers(_ *testscript.TestScript, img *image, args []string) error {
	return equal("layers", strconv.Itoa(len(img.manifest.Layers)), args[0])
}

func checkHistory(_ *testscript.TestScript, img *image, args []string) error {
	var config ocispec.Image
	if err := json.Unmarshal(img.config, &config); err != nil {
		return err
	}
	var all []string
	for _, h := range config.History {
		all = append(all, h.CreatedBy)
	}
	first := len(all) - len(args)
	for i, want := range args {
		re, err := regexp.Compile(want)
		if err != nil {
			return err
		}
		if first < 0 || !re.MatchString(all[first+i]) {
			return fmt.Errorf("the history is\n%s", strings.Join(all, "\n"))
		}
	}
	return nil
}

func checkShares(ts *testscript.TestScript, img *image, args []string) error {
	other, err := openImage(ts.MkAbs(args[0]), "")
	ts.Check(err)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	newest := func(img *image) string {
		var out []string
		for _, l := range img.manifest.Layers[max(0, len(img.manifest.Layers)-n):] {
			out = append(out, l.Digest.String())
		}
		return strings.Join(out, " ")
	}
	return equal("layers", newest(img), newest(other))
}

func checkDigest(ts *testscript.TestScript, img *image, args []string) error {
	other, err := openImage(ts.MkAbs(args[0]), "")
	ts.Check(err)
	return equal("digest", img.desc.Digest.String(), other.desc.Digest.String())
}

func checkCat(_ *testscript.TestScript, img *image, args []string) error {
	f, err := img.file(args[0])
	if err != nil {
		return err
	}
	return equal(args[0], strings.TrimSuffix(string(f.data), "\n"), args[1])
}

func printFile(ts *testscript.TestScript, img *image, args []string) error {
	f, err := img.file(args[0])
	if err != nil {
		return err
	}
	_, err = ts.Stdout().Write(f.data)
	return err
}

func checkCmp(ts *testscript.TestScript, img *image, args []string) error {
	f, err := img.file(args[0])
	if err != nil {
		return err
	}
	return equal(args[0], string(f.data), ts.ReadFile(args[1]))
}

func checkStat(_ *testscript.TestScript, img *image, args []string) error {
	f, err := img.file(args[0])
	if err != nil {
		return err
	}
	got := []string{f.FileInfo().Mode().String(), fmt.Sprintf("%d:%d", f.Uid, f.Gid), strconv.FormatInt(f.ModTime.Unix(), 10)}
	return equal(args[0], strings.Join(got[:min(len(got), len(args)-1)], " "), strings.Join(args[1:], " "))
}

func checkLink(_ *testscript.TestScript, img *image, args []string) error {
	f, err := img.file(args[0])
	if err != nil {
		return err
	}
	return equal(args[0], f.Linkname, args[1])
}

func checkXattr(_ *testscript.TestScript, img *image, args []string) error {
	f, err := img.file(args[0])
	if err != nil {
		return err
	}
	return equal(args[0], f.PAXRecords["SCHILY.xattr."+args[1]], args[2])
}

func checkHas(_ *testscript.TestScript, img *image, args []string) error {
	for _, name := range args {
		if _, err := img.file(name); err != nil {
			return err
		}
	}
	return nil
}

func checkList(_ *testscript.TestScript, img *image, args []string) error {
	got, want := img.list(args[0]), slices.Clone(args[1:])
	slices.Sort(got)
	slices.Sort(want)
	return equal(args[0], strings.Join(got, " "), strings.Join(want, " "))
}

func equal(what, got, want string) error {
	if got != want {
		return fmt.Errorf("%s: got %.1000q, want %.1000q", what, got, want)
	}
	return nil
}
