package buildflags

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/dbuild/dbuild/internal/ignore"
	"github.com/distribution/reference"
)

// AttrIgnoreFile begins the option of our frontend that has a context's ignore file: its
// name, and from the second line on its text.
const AttrIgnoreFile = "ignorefile:"

// ignoreFile reads one --ignorefile, PATH or NAME=PATH. The frontend gets the text.
func (s *Sources) ignoreFile(v string, attrs map[string]string) error {
	name, path := LocalContext, v
	if n, p, ok := strings.Cut(v, "="); ok && !isFile(v) {
		named, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return fmt.Errorf("--ignorefile %q: %q is not the name of a context: %w", v, n, err)
		}
		name, path = familiar(named), p
		switch value, ok := attrs["context:"+name]; {
		case !ok:
			return fmt.Errorf("--ignorefile %s: there is no --build-context %s", v, n)
		case !strings.HasPrefix(value, "local:"):
			return fmt.Errorf("--ignorefile %s: --build-context %s is not a directory", v, n)
		case s.IgnoreFiles[name] != "":
			return fmt.Errorf("--ignorefile for %s is given twice", n)
		}
		if s.IgnoreFiles == nil {
			s.IgnoreFiles = map[string]string{}
		}
		s.IgnoreFiles[name] = path
	} else {
		if s.IgnoreFile != "" {
			return errors.New("--ignorefile for the context is given twice; want NAME=PATH for those of --build-context")
		}
		s.IgnoreFile = path
	}
	if !isFile(path) {
		return filef("--ignorefile %s: no such file", v)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return filef("--ignorefile %s: %w", v, err)
	}
	if _, err := ignore.Parse(path, text); err != nil {
		return filef("--ignorefile %w", err)
	}
	attrs[AttrIgnoreFile+name] = strings.ReplaceAll(path, "\n", "?") + "\n" + string(text)
	return nil
}
