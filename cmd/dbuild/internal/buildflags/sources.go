package buildflags

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Names that the frontend knows the main directories by.
const (
	LocalContext    = "context"
	LocalDockerfile = "dockerfile"
)

// Where a Dockerfile or a context comes from, apart from a directory.
type Origin int

// Origins.
const (
	FromDir    Origin = iota // a directory of this machine, in Sources.Locals
	FromStdin                // standard input
	FromRemote               // a URL that the daemon reads
	FromURL                  // a URL that we read
	InContext                // wherever the context is
)

// Sources says where files come from.
type Sources struct {
	Context       Origin // FromDir, FromStdin or FromRemote
	Dockerfile    Origin // FromDir, FromStdin, FromURL or InContext
	DockerfileURL string
	// Locals are the directories lent to the build, by the name that the frontend uses.
	Locals map[string]string
	// Layouts are directories in OCI layout lent to the build, by the id of the store.
	Layouts map[string]string
	// Images are those of this machine's engines lent to the build, by the option that names
	// the context.
	Images map[string]LocalImage
	// IgnoreFile is used in place of the ignore files that would be looked for; IgnoreFiles
	// are, in the named contexts that are directories.
	IgnoreFile  string
	IgnoreFiles map[string]string
	// SSHContext and HTTPContext tell whether a git repository is the context, and how it is reached.
	SSHContext, HTTPContext bool
}

var (
	gitURL     = regexp.MustCompile(`^(git://|ssh://|git@|[a-zA-Z0-9_.-]+@[a-zA-Z0-9.-]+:|github\.com/)|^https?://[^#?]*\.git(/?$|[#?])`)
	httpURL    = regexp.MustCompile(`^https?://`)
	sshGitURL  = regexp.MustCompile(`^(ssh://|[a-zA-Z0-9_.-]+@[a-zA-Z0-9.-]+:)`)
	imageIndex = "index.json"
)

// sources reads the positional argument, -f, --ignorefile and --build-context.
func (f *Flags) sources(context string, attrs map[string]string) (Sources, error) {
	s := Sources{Locals: map[string]string{}, Layouts: map[string]string{}}
	switch {
	case context == "":
		return s, errors.New("the context is empty; use . for the current directory")
	case context == "-":
		s.Context = FromStdin
		if f.File == "-" {
			return s, errors.New("-f - and the context - both read standard input")
		}
	case isDir(context):
		s.Locals[LocalContext] = context
	case httpURL.MatchString(context) || gitURL.MatchString(context):
		s.Context = FromRemote
		s.SSHContext = sshGitURL.MatchString(context)
		s.HTTPContext = !s.SSHContext && gitURL.MatchString(context)
		attrs["context"] = context
	default:
		return s, missingContext(context)
	}
	if err := f.dockerfile(&s, context, attrs); err != nil {
		return s, err
	}
	for _, v := range f.BuildContext {
		if err := s.named(v, attrs); err != nil {
			return s, err
		}
	}
	for _, v := range f.IgnoreFile {
		if err := s.ignoreFile(v, attrs); err != nil {
			return s, err
		}
	}
	return s, nil
}

// dockerfile decides which Dockerfile is meant.
func (f *Flags) dockerfile(s *Sources, context string, attrs map[string]string) error {
	attrs["filename"] = "Dockerfile"
	switch {
	case f.File == "-":
		s.Dockerfile = FromStdin
		return nil
	case httpURL.MatchString(f.File):
		s.Dockerfile, s.DockerfileURL = FromURL, f.File
		return nil
	case s.Context != FromDir:
		s.Dockerfile = InContext
		if f.File != "" {
			attrs["filename"] = f.File
		}
		return nil
	}
	dir, name, err := findDockerfile(context, f.File)
	if err != nil {
		if f.NoDockerfile && f.File == "" {
			return nil
		}
		return err
	}
	s.Locals[LocalDockerfile] = dir
	attrs["filename"] = name
	return nil
}

var dockerfileNames = []string{"Dockerfile", "dockerfile", "Containerfile"}

// findDockerfile returns the directory and the name of the Dockerfile. A relative file is
// looked for in the working directory first, then in the context.
func findDockerfile(context, file string) (dir, name string, err error) {
	if file == "" {
		for _, n := range dockerfileNames {
			fi, err := os.Stat(filepath.Join(context, n))
			if err == nil && !fi.IsDir() {
				return context, n, nil
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return "", "", filef("the Dockerfile cannot be read: %w", err)
			}
		}
		return "", "", missingDockerfile(context)
	}
	for _, path := range []string{file, filepath.Join(context, file)} {
		fi, err := os.Stat(path)
		switch {
		case err == nil && fi.IsDir():
			return "", "", filef("-f %s is a directory, not a Dockerfile", file)
		case err == nil:
			return filepath.Dir(path), filepath.Base(path), nil
		case !errors.Is(err, os.ErrNotExist) && !filepath.IsAbs(file):
			return "", "", filef("-f %s cannot be read: %w", file, err)
		}
		if filepath.IsAbs(file) {
			break
		}
	}
	return "", "", filef("no such Dockerfile: %s%s", file, nearestFile(filepath.Dir(file), filepath.Base(file)))
}

func missingDockerfile(context string) error {
	if hint := nearestFile(context, "Dockerfile"); hint != "" {
		return filef("no Dockerfile in %s%s", context, hint)
	}
	return filef("no Dockerfile in %s (looked for %s)", context, strings.Join(dockerfileNames, ", "))
}

func missingContext(context string) error {
	switch fi, err := os.Stat(context); {
	case err == nil && !fi.IsDir():
		return filef("%s is a file; the context is a directory, a URL or -", context)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return filef("the context cannot be read: %w", err)
	}
	return &MissingContextError{Path: context}
}

// A MissingContextError says that the context is neither a directory nor a URL.
type MissingContextError struct{ Path string }

// Error names the directory, and the one that may have been meant.
func (e *MissingContextError) Error() string {
	return fmt.Sprintf("no such directory: %s%s", e.Path, nearestFile(filepath.Dir(e.Path), filepath.Base(e.Path)))
}

// nearestFile proposes a name in dir that is like name, as a text to append.
func nearestFile(dir, name string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var names, prefixed []string
	for _, e := range entries {
		if n := e.Name(); strings.HasPrefix(n, name+".") && !strings.HasSuffix(n, ".dockerignore") {
			prefixed = append(prefixed, n)
		}
		names = append(names, e.Name())
	}
	best := suggest.Nearest(name, names)
	if best == "" && len(prefixed) == 1 {
		best = prefixed[0]
	}
	if best == "" || best == name {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", filepath.Join(dir, best))
}

// named reads one --build-context.
func (s *Sources) named(v string, attrs map[string]string) error {
	name, value, ok := strings.Cut(v, "=")
	if !ok || name == "" || value == "" {
		return fmt.Errorf("--build-context %q: want NAME=PATH or NAME=URL", v)
	}
	name, err := contextName(name)
	if err != nil {
		return fmt.Errorf("--build-context %q: %w", v, err)
	}
	key := "context:" + name
	if _, twice := attrs[key]; twice {
		return fmt.Errorf("--build-context %s is given twice", name)
	}
	switch scheme, rest, _ := strings.Cut(value, "://"); {
	case scheme == "oci-layout":
		return s.layout(v, key, rest, attrs)
	case scheme == "docker-image":
		if _, err := reference.ParseNormalizedNamed(rest); err != nil {
			return fmt.Errorf("--build-context %q: %q is not an image name: %w", v, rest, err)
		}
		attrs[key] = value
	case scheme == "target":
		return fmt.Errorf("--build-context %q: target:// has a meaning in bake files only", v)
	case isLocalImage(value):
		return s.localImage(v, key, value, attrs)
	case isDir(value):
		local := name
		if local == LocalContext || local == LocalDockerfile {
			local = "_" + local
		}
		s.Locals[local] = value
		attrs[key] = "local:" + local
	case httpURL.MatchString(value) || gitURL.MatchString(value):
		attrs[key] = value
	default:
		return filef("--build-context %s: no such directory: %s", name, value)
	}
	return nil
}

// familiar is how the frontend calls a context.
func familiar(n reference.Named) string {
	return strings.TrimSuffix(reference.FamiliarString(n), ":latest")
}

// contextName is a name as the frontend looks for it: NAME, or NAME::PLATFORM for one
// platform only.
func contextName(s string) (string, error) {
	s, platform, one := strings.Cut(s, "::")
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", fmt.Errorf("%q is not a name: %w", s, err)
	}
	name := familiar(named)
	if one {
		p, err := platforms.Parse(platform)
		if err != nil {
			return "", fmt.Errorf("%q is not a platform: %w", platform, err)
		}
		name += "::" + platforms.FormatAll(platforms.Normalize(p))
	}
	return name, nil
}

// layout lends a directory in OCI layout: DIR[:TAG][@DIGEST].
func (s *Sources) layout(flag, key, value string, attrs map[string]string) error {
	path, digest, _ := strings.Cut(value, "@")
	tag := ""
	if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '/') {
		path, tag = path[:i], path[i+1:]
	}
	if !isDir(path) {
		return filef("--build-context %q: no such directory: %s", flag, path)
	}
	if digest == "" {
		d, err := layoutDigest(path, tag)
		if err != nil {
			return fmt.Errorf("--build-context %q: %w", flag, err)
		}
		digest = d
	}
	id := fmt.Sprintf("layout%d", len(s.Layouts))
	s.Layouts[id] = path
	attrs[key] = "oci-layout://" + id + "@" + digest
	return nil
}

// layoutDigest finds an image in a layout's index by its tag, or the only one.
func layoutDigest(dir, tag string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, imageIndex))
	if err != nil {
		return "", filef("%s is not an OCI layout: %w", dir, err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Join(dir, imageIndex), err)
	}
	want := tag
	if want == "" {
		want = "latest"
	}
	for _, m := range index.Manifests {
		if name := m.Annotations[ocispec.AnnotationRefName]; name == want || strings.HasSuffix(name, ":"+want) {
			return m.Digest.String(), nil
		}
	}
	if tag == "" && len(index.Manifests) == 1 {
		return index.Manifests[0].Digest.String(), nil
	}
	return "", filef("no image %q in the OCI layout %s", want, dir)
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && !fi.IsDir()
}
