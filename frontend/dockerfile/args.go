package dockerfile

import (
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// automaticArgs are the arguments that are predefined in the global scope. A stage sees
// one only after declaring it.
func automaticArgs(build, target ocispec.Platform, stage string, given map[string]string) env {
	if stage == "" {
		stage = "default"
	}
	var e env
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", platforms.Format(build)},
		{"BUILDOS", build.OS},
		{"BUILDOSVERSION", build.OSVersion},
		{"BUILDARCH", build.Architecture},
		{"BUILDVARIANT", build.Variant},
		{"TARGETPLATFORM", platforms.FormatAll(target)},
		{"TARGETOS", target.OS},
		{"TARGETOSVERSION", target.OSVersion},
		{"TARGETARCH", target.Architecture},
		{"TARGETVARIANT", target.Variant},
		{"TARGETSTAGE", stage},
	} {
		e.set(kv[0], pick(given, kv[0], kv[1]))
	}
	// The first names of TARGETOS and TARGETARCH, and so their values however these came about.
	for _, kv := range [][2]string{{"DOCKEROS", "TARGETOS"}, {"DOCKERARCH", "TARGETARCH"}} {
		v, _ := e.Get(kv[1])
		e.set(kv[0], pick(given, kv[0], v))
	}
	return e
}

func pick(given map[string]string, key, otherwise string) string {
	if v, ok := given[key]; ok {
		return v
	}
	return otherwise
}

// addGlobalArgs evaluates the ARG instructions before the first FROM.
func addGlobalArgs(e *env, args []*instruction.Arg, given map[string]string, lex *shell.Lex) error {
	for _, in := range args {
		for _, a := range in.Args {
			if v, ok := given[a.Key]; ok {
				e.set(a.Key, v)
			} else if a.Default != nil {
				v, _, err := lex.ProcessWord(*a.Default, e)
				if err != nil {
					return parser.WithLocation(err, in.Ranges)
				}
				e.set(a.Key, v)
			}
		}
	}
	return nil
}

// proxyEnv collects the proxy build args, which commands see without declaring them and
// which no cache key depends on.
func proxyEnv(given map[string]string) *pb.ProxyEnv {
	keys := make([]string, 0, len(given))
	for k := range given {
		keys = append(keys, k)
	}
	slices.Sort(keys) // of http_proxy and HTTP_PROXY, the same must win every time
	p, found := &pb.ProxyEnv{}, false
	for _, k := range keys {
		for name, field := range map[string]*string{
			"http_proxy":  &p.HttpProxy,
			"https_proxy": &p.HttpsProxy,
			"ftp_proxy":   &p.FtpProxy,
			"no_proxy":    &p.NoProxy,
			"all_proxy":   &p.AllProxy,
		} {
			if strings.EqualFold(k, name) {
				*field, found = given[k], true
			}
		}
	}
	if !found {
		return nil
	}
	return p
}
