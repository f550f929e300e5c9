package buildflags

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/tonistiigi/go-csvvalue"
)

// lent reads what the build may use of the user's: --secret and --ssh.
func (f *Flags) lent(r *Request, env Env) error {
	for _, v := range f.Secret {
		s, notice, err := parseSecret(v, env)
		if err != nil {
			return err
		}
		if notice != "" {
			r.Notices = append(r.Notices, notice)
		}
		r.Secrets = append(r.Secrets, s)
	}
	if r.HTTPContext {
		// Git asks for these by itself when the context is a private repository.
		for _, name := range []string{"GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"} {
			given := slices.ContainsFunc(r.Secrets, func(s secretsprovider.Source) bool { return s.ID == name })
			if env.get(name) != "" && !given {
				r.Secrets = append(r.Secrets, secretsprovider.Source{ID: name, Env: name})
			}
		}
	}
	for _, v := range f.SSH {
		a, err := parseSSH(v, env)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(r.SSH, func(b sshprovider.AgentConfig) bool { return b.ID == a.ID }) {
			return fmt.Errorf("--ssh %s is given twice", a.ID)
		}
		r.SSH = append(r.SSH, a)
	}
	if r.SSHContext && len(r.SSH) == 0 && env.get("SSH_AUTH_SOCK") != "" {
		r.SSH = append(r.SSH, sshprovider.AgentConfig{ID: "default"})
	}
	return nil
}

// parseSecret reads id=ID[,src=PATH|,env=NAME][,type=file|env]. Without src and env the
// environment variable of that name is meant, or else the file.
func parseSecret(v string, env Env) (secretsprovider.Source, string, error) {
	var s secretsprovider.Source
	bad := func(format string, args ...any) (secretsprovider.Source, string, error) {
		return s, "", fmt.Errorf("--secret %s: %s", v, fmt.Sprintf(format, args...))
	}
	fields, err := csvvalue.Fields(v, nil)
	if err != nil {
		return bad("%v", err)
	}
	kind := ""
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return bad("%q is not key=value; want id=NAME[,src=PATH|,env=NAME]", field)
		}
		switch strings.ToLower(key) {
		case "id":
			s.ID = value
		case "src", "source":
			s.FilePath = value
		case "env":
			s.Env = value
		case "type":
			if value != "file" && value != "env" {
				return bad("type is file or env, not %q", value)
			}
			kind = value
		default:
			return bad("unknown key %q; there are id, src, env and type", key)
		}
	}
	if s.ID == "" {
		return bad("id is missing")
	}
	if kind == "env" && s.Env == "" {
		s.Env, s.FilePath = s.FilePath, ""
	}
	if kind != "file" && s.Env == "" && s.FilePath == "" {
		if _, ok := env.Lookup(s.ID); ok {
			s.Env = s.ID
		}
	}
	if s.Env != "" && s.FilePath != "" {
		return bad("src and env exclude each other")
	}
	if s.Env != "" {
		if _, ok := env.Lookup(s.Env); !ok {
			return s, fmt.Sprintf("secret %s is empty: the environment variable %s is not set", s.ID, s.Env), nil
		}
		return s, "", nil
	}
	if kind == "env" {
		return bad("the environment variable %s is not set", s.ID)
	}
	implied := s.FilePath == ""
	if implied {
		s.FilePath = s.ID
	}
	fi, err := os.Stat(s.FilePath)
	switch {
	case err != nil && implied:
		return s, "", filef("--secret %s: there is neither an environment variable nor a file %s", v, s.ID)
	case err != nil:
		return s, "", filef("--secret %s: no such file: %s", v, s.FilePath)
	case fi.IsDir():
		return s, "", filef("--secret %s: %s is a directory", v, s.FilePath)
	case fi.Size() > secretsprovider.MaxSecretSize:
		return s, "", filef("--secret %s: %s is %d bytes; a secret may have %d", v, s.FilePath, fi.Size(), secretsprovider.MaxSecretSize)
	}
	return s, "", nil
}

// parseSSH reads default or ID[=SOCKET|KEY[,KEY]].
func parseSSH(v string, env Env) (sshprovider.AgentConfig, error) {
	id, paths, ok := strings.Cut(v, "=")
	a := sshprovider.AgentConfig{ID: id}
	if id == "" {
		return a, fmt.Errorf("--ssh %q: the id is missing; want default or ID=SOCKET", v)
	}
	if !ok {
		if env.get("SSH_AUTH_SOCK") == "" {
			return a, filef("--ssh %s: no ssh agent: SSH_AUTH_SOCK is not set", v)
		}
		return a, nil
	}
	for _, p := range strings.Split(paths, ",") {
		if raw, is := strings.CutPrefix(p, "raw="); is {
			a.Raw = isTrue(raw)
			continue
		}
		if _, err := os.Stat(p); err != nil {
			return a, filef("--ssh %s: no such socket or key: %q", v, p)
		}
		a.Paths = append(a.Paths, p)
	}
	return a, nil
}

// cacheTypes are the stores there are, and the attribute each needs to be read and written.
var cacheTypes = map[string]struct{ from, to string }{
	"registry": {"ref", "ref"},
	"local":    {"src", "dest"},
	"inline":   {"", ""},
	"store":    {"ref", ""},
	"gha":      {"", ""},
	"s3":       {"", ""},
	"azblob":   {"", ""},
}

// notInWorkflow says of a flag and its value that the environment is not that of a workflow.
// The same command is run elsewhere, too.
const notInWorkflow = "%s %s is ignored: there is no ACTIONS_RUNTIME_TOKEN with ACTIONS_CACHE_URL or ACTIONS_RESULTS_URL in the environment, which a step of a GitHub workflow has if it is passed on"

// caches reads --cache-from and --cache-to.
func (f *Flags) caches(r *Request, env Env) error {
	for _, v := range cacheNames(f.CacheFrom) {
		if strings.Contains(v, "*") && !strings.Contains(v, "=") {
			// Images that the daemon has built: no registry is asked.
			r.CacheFrom = append(r.CacheFrom, client.CacheOptionsEntry{Type: "store", Attrs: map[string]string{"ref": v}})
			continue
		}
		c, err := parseCache("--cache-from", v, env)
		if err != nil {
			return err
		}
		if c.Type == "local" && !isFile(c.Attrs["src"]+"/"+imageIndex) {
			r.Notices = append(r.Notices, fmt.Sprintf("--cache-from %s is ignored: there is no cache in %s", v, c.Attrs["src"]))
			continue
		}
		if c.Type == "gha" && !actionsCache(c.Attrs, env) {
			r.Notices = append(r.Notices, fmt.Sprintf(notInWorkflow, "--cache-from", v))
			continue
		}
		r.CacheFrom = append(r.CacheFrom, c)
	}
	for _, v := range f.CacheTo {
		c, err := parseCache("--cache-to", v, env)
		if err != nil {
			return err
		}
		if c.Type == "gha" && !actionsCache(c.Attrs, env) {
			r.Notices = append(r.Notices, fmt.Sprintf(notInWorkflow, "--cache-to", v))
			continue
		}
		same := func(o client.CacheOptionsEntry) bool { return o.Type == c.Type && maps.Equal(o.Attrs, c.Attrs) }
		if !slices.ContainsFunc(r.CacheTo, same) {
			r.CacheTo = append(r.CacheTo, c)
		}
	}
	if len(r.CacheFrom) > 0 {
		r.AsksCache = append(r.AsksCache, "--cache-from")
	}
	if len(r.CacheTo) > 0 {
		r.AsksCache = append(r.AsksCache, "--cache-to")
	}
	return nil
}

// cacheNames separates names of images that are given in one value, by commas or blanks.
func cacheNames(values []string) (out []string) {
	for _, v := range values {
		if strings.Contains(v, "=") {
			out = append(out, v)
			continue
		}
		out = append(out, strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	return out
}

// parseCache reads type=TYPE,KEY=VALUE... or the name of an image in a registry.
func parseCache(flag, v string, env Env) (client.CacheOptionsEntry, error) {
	c := client.CacheOptionsEntry{Attrs: map[string]string{}}
	fields, err := csvvalue.Fields(v, nil)
	if err != nil {
		return c, fmt.Errorf("%s %s: %w", flag, v, err)
	}
	if len(fields) == 1 && !strings.Contains(v, "=") {
		c.Type = "registry"
		c.Attrs["ref"] = v
		if flag == "--cache-from" {
			c.Attrs["store"] = "true" // an image of that name here comes first
		}
	} else {
		for _, field := range fields {
			key, value, ok := strings.Cut(field, "=")
			if !ok {
				return c, fmt.Errorf("%s %s: %q is not key=value", flag, v, field)
			}
			if key = strings.ToLower(strings.TrimSpace(key)); key == "type" {
				c.Type = value
			} else {
				c.Attrs[key] = value
			}
		}
	}
	t, known := cacheTypes[c.Type]
	switch {
	case c.Type == "":
		return c, fmt.Errorf("%s %s: type is missing", flag, v)
	case !known:
		names := slices.Sorted(maps.Keys(cacheTypes))
		return c, fmt.Errorf("%s %s: unknown type %q; there are %s", flag, v, c.Type, strings.Join(names, ", "))
	}
	if c.Type == "s3" {
		bucketCache(c.Attrs, env)
	}
	need := t.from
	if flag == "--cache-to" {
		need = t.to
		if m := c.Attrs["mode"]; m != "" && m != "min" && m != "max" {
			return c, fmt.Errorf("%s %s: mode is min or max, not %q", flag, v, m)
		}
		if c.Type == "store" {
			return c, fmt.Errorf("%s %s: the image store remembers how images were made without being asked; name an image with -t", flag, v)
		}
	} else if c.Type == "inline" {
		return c, fmt.Errorf("%s %s: an inline cache is read by the name of its image", flag, v)
	}
	if need != "" && c.Attrs[need] == "" {
		return c, fmt.Errorf("%s %s: %s is missing", flag, v, need)
	}
	if c.Type == "registry" {
		n, err := reference.ParseNormalizedNamed(c.Attrs["ref"])
		if err != nil {
			return c, fmt.Errorf("%s %s: not an image name: %w", flag, v, err)
		}
		c.Attrs["ref"] = reference.TagNameOnly(n).String()
	}
	return c, nil
}
