package buildflags

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
)

// Env is what a command line means something relative to.
type Env struct {
	Lookup  func(string) (string, bool) // environment variables
	Proxies map[string]*string          // build arguments from the docker configuration
	// CommitTime is when the newest commit of the repository that dir is in was made, in
	// seconds since 1970. Without it no directory is in one.
	CommitTime func(dir string) (string, error)
}

func (e Env) get(name string) string {
	v, _ := e.Lookup(name)
	return v
}

// A Request is a build as the user wants it.
type Request struct {
	Sources                         // where files come from
	Attrs         map[string]string // options of the frontend
	Exports       []Export          // what to do with the result
	CacheFrom     []client.CacheOptionsEntry
	CacheTo       []client.CacheOptionsEntry
	CacheMounts   map[string]string // directories for cache mounts, by id
	Secrets       []secretsprovider.Source
	SSH           []sshprovider.AgentConfig
	Entitlements  []string
	ProxyNetwork  bool
	Call          Call
	HostGateway   bool     // Attrs["add-hosts"] has addresses that only the daemon knows
	AsksCache     []string // flags that ask for external caches
	RemainsCached bool     // nobody gets the result
	WantsFacts    bool     // the digests of the contexts are asked for
	NamesBuildID  bool     // a name of the result has that of the main one: see SetBuildID
	Notices       []string // what the user should know about flags that do nothing
	// LocalImages is the transport to the engine whose images go before all others, or "".
	LocalImages string
}

// Request checks the flags against each other and against the files they name. It fails
// with a *UsageError for flags that make no sense, and with another error for files that
// cannot be had.
func (f *Flags) Request(context string, env Env) (*Request, error) {
	r, err := f.request(context, env)
	var file *FileError
	var missing *MissingContextError
	if err == nil || errors.As(err, &file) || errors.As(err, &missing) {
		return r, err
	}
	return nil, &UsageError{err}
}

func (f *Flags) request(context string, env Env) (*Request, error) {
	r := &Request{Attrs: map[string]string{}}
	if err := f.checkCombinations(); err != nil {
		return nil, err
	}
	r.notices(f)
	var err error
	if r.LocalImages, err = f.localTransport(); err != nil {
		return nil, err
	}
	if r.Call, err = f.call(); err != nil {
		return nil, err
	}
	if r.Sources, err = f.sources(context, r.Attrs); err != nil {
		return nil, err
	}
	tags, err := normalizeTags(f.Tag)
	if err != nil {
		return nil, err
	}
	if r.Exports, err = f.exports(tags); err != nil {
		return nil, err
	}
	r.RemainsCached = len(r.Exports) == 0 && len(f.Output) == 0
	if r.Call.Method != "" {
		r.Exports, r.RemainsCached = nil, false
	}
	for _, step := range []func(*Request, Env) error{
		f.frontendOptions, f.buildArgs, f.platforms, f.network, f.limits,
		f.annotations, f.attestations, f.caches, f.cacheMounts, f.lent, f.reproducible, f.facts,
	} {
		if err := step(r, env); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (f *Flags) checkCombinations() error {
	if f.NoCache && len(f.NoCacheFilter) > 0 {
		return fmt.Errorf("--no-cache and --no-cache-filter exclude each other")
	}
	if f.Timeout < 0 || f.Timeout == 0 && f.given("timeout") {
		return fmt.Errorf("--timeout %s: a time is more than nothing, such as 30m", f.Timeout)
	}
	if len(f.Policy) > 0 {
		return fmt.Errorf("--policy: source policies are not supported")
	}
	if f.Quiet && f.given("progress") && f.Progress != "quiet" && f.Progress != "none" {
		return fmt.Errorf("-q and --progress=%s exclude each other", f.Progress)
	}
	if f.Quiet {
		for _, o := range f.Output {
			if e, err := parseOutput(o); err == nil && e.Sink == Stdout {
				return fmt.Errorf("-q and -o %s both write to standard output", o)
			}
		}
	}
	files := map[string]string{}
	for _, r := range []struct{ flag, path string }{{"--iidfile", f.IIDFile}, {"--bidfile", f.BIDFile}, {"--metadata-file", f.MetadataFile}} {
		if other, taken := files[r.path]; taken && r.path != "" {
			return fmt.Errorf("%s and %s name the same file", other, r.flag)
		}
		files[r.path] = r.flag
	}
	return nil
}

func (r *Request) notices(f *Flags) {
	for _, i := range ignored {
		if f.given(i.name) {
			r.Notices = append(r.Notices, fmt.Sprintf("--%s is ignored: %s", i.name, i.why))
		}
	}
	if f.Builder != "" && !strings.Contains(f.Builder, "://") {
		r.Notices = append(r.Notices, fmt.Sprintf("--builder %s is ignored: there are no named builders; it may be an address", f.Builder))
	}
}

func (f *Flags) frontendOptions(r *Request, env Env) error {
	a := r.Attrs
	if f.Target != "" {
		a["target"] = f.Target
	}
	if f.NoCache {
		a["no-cache"] = ""
	}
	if len(f.NoCacheFilter) > 0 {
		a["no-cache"] = strings.Join(f.NoCacheFilter, ",")
	}
	if f.Pull.Newest {
		a["image-resolve-mode"] = "pull"
	}
	if f.Pull.Eager {
		a["pull"] = "eager"
	}
	if f.CgroupParent != "" {
		a["cgroup-parent"] = f.CgroupParent
	}
	for _, l := range f.Label {
		k, v, _ := strings.Cut(l, "=")
		if k = strings.TrimSpace(k); k == "" {
			return fmt.Errorf("--label %q: the key is missing", l)
		}
		a["label:"+k] = v
	}
	return nil
}

// buildArgs passes what was given, then proxies and SOURCE_DATE_EPOCH unless given.
func (f *Flags) buildArgs(r *Request, env Env) error {
	for k, v := range env.Proxies {
		if v != nil {
			r.Attrs["build-arg:"+k] = *v
		}
	}
	if epoch := env.get(SourceDateEpoch); epoch != "" {
		r.Attrs["build-arg:"+SourceDateEpoch] = epoch
	}
	for _, arg := range f.BuildArg {
		name, value, ok := strings.Cut(arg, "=")
		if name == "" {
			return fmt.Errorf("--build-arg %q: the name is missing", arg)
		}
		if !ok {
			if value, ok = env.Lookup(name); !ok {
				delete(r.Attrs, "build-arg:"+name)
				continue
			}
		}
		r.Attrs["build-arg:"+name] = value
	}
	return nil
}

func (f *Flags) platforms(r *Request, env Env) error {
	values := f.Platform
	if d := env.get("DOCKER_DEFAULT_PLATFORM"); len(values) == 0 && d != "" {
		values = []string{d}
	}
	var out []string
	for _, v := range values {
		for _, s := range strings.Split(v, ",") {
			s = strings.TrimSpace(s)
			if s == "" {
				return fmt.Errorf("--platform %q: a platform is missing", v)
			}
			p := platforms.DefaultSpec()
			if s != "local" {
				var err error
				if p, err = platforms.Parse(s); err != nil {
					return fmt.Errorf("--platform %s: not a platform, such as linux/arm64%s", s, nearPlatform(s))
				}
				if near := nearPlatform(s); near != "" {
					return fmt.Errorf("--platform %s: unknown%s", s, near)
				}
			}
			if n := platforms.FormatAll(platforms.Normalize(p)); !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	if len(out) > 0 {
		r.Attrs["platform"] = strings.Join(out, ",")
	}
	if len(out) > 1 {
		for _, e := range r.Exports {
			if e.Type == "docker" {
				return fmt.Errorf("an output for docker holds one platform, not %d", len(out))
			}
		}
	}
	return nil
}

// normalizeTags gives names their registry and tag: "app" is docker.io/library/app:latest.
func normalizeTags(tags []string) ([]string, error) {
	names, err := parseNames(tags)
	var out []string
	for _, n := range names {
		if s := reference.TagNameOnly(n).String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, err
}

// bareNames are image names to be pushed to by digest: as written, without "latest".
func bareNames(tags []string) ([]string, error) {
	names, err := parseNames(tags)
	var out []string
	for _, n := range names {
		if s := n.String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, err
}

func parseNames(tags []string) ([]reference.Named, error) {
	var out []reference.Named
	for _, t := range tags {
		n, err := reference.ParseNormalizedNamed(withPlace(strings.TrimSpace(t)))
		if err != nil {
			return nil, fmt.Errorf("-t %q is not an image name: %w", t, err)
		}
		if _, ok := n.(reference.Digested); ok {
			return nil, fmt.Errorf("-t %q: a name with a digest cannot be given to a new image", t)
		}
		out = append(out, n)
	}
	return out, nil
}
