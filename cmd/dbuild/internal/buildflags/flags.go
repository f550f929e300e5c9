package buildflags

import (
	"time"

	"github.com/spf13/pflag"
)

// Flags are the values of the build command's flags as they were given.
type Flags struct {
	AddHost       []string
	Allow         []string
	Annotation    []string
	Attest        []string
	BIDFile       string
	BuildArg      []string
	BuildContext  []string
	Builder       string
	CacheFrom     []string
	CacheMount    []string
	CacheTo       []string
	Call          string
	CgroupParent  string
	Check         bool
	Debug         bool
	ExitCode      string
	Explain       bool
	File          string
	IgnoreFile    []string
	IIDFile       string
	Label         []string
	Load          Load
	LocalImages   string
	Locked        bool
	LockFile      string
	MetadataFile  string
	Network       string
	NoCache       bool
	NoCacheFilter []string
	Output        []string
	Platform      []string
	Policy        []string
	Progress      string
	Provenance    string
	ProxyNetwork  bool
	Pull          Pull
	Push          bool
	Quiet         bool
	Reproducible  bool
	Resource      []string
	ResultFile    string
	SBOM          string
	Secret        []string
	ShmSize       string
	Squash        bool
	SSH           []string
	Tag           []string
	Target        string
	Timeout       time.Duration
	Ulimit        []string

	// NoDockerfile lets a directory without a Dockerfile be a context, for those who only
	// look at it.
	NoDockerfile bool

	// Limits of the classic builder, each the value of a key of --resource.
	memory, memorySwap, cpuShares, cpuPeriod, cpuQuota, cpusetCPUs, cpusetMems string

	fs *pflag.FlagSet
}

// New returns Flags that fs fills when it parses.
func New(fs *pflag.FlagSet) *Flags {
	f := &Flags{fs: fs}
	fs.StringSliceVar(&f.AddHost, "add-host", nil, `add a host-to-IP mapping for RUN ("host:ip")`)
	fs.StringArrayVar(&f.Allow, "allow", nil, `allow an extra privilege ("network.host", "security.insecure")`)
	fs.StringArrayVar(&f.Annotation, "annotation", nil, `add an annotation to the image ("key=value", "index:key=value")`)
	fs.StringArrayVar(&f.Attest, "attest", nil, `attestation to make ("type=sbom,generator=image")`)
	fs.StringVar(&f.BIDFile, "bidfile", "", "write the digest of the build context to a file")
	fs.StringArrayVar(&f.BuildArg, "build-arg", nil, `set a build argument ("NAME=value"; "NAME" takes it from the environment)`)
	fs.StringArrayVar(&f.BuildContext, "build-context", nil, `additional build context ("name=path", "name=docker-image://...")`)
	fs.StringVar(&f.Builder, "builder", "", "address of the daemon to use")
	fs.StringArrayVar(&f.CacheFrom, "cache-from", nil, `cache to read ("user/app:cache", "type=local,src=path"; "*" or "team/*" for images built here)`)
	fs.StringArrayVar(&f.CacheMount, "cache-mount", nil, `directory to use as a cache mount ("id=ID,type=local,src=path")`)
	fs.StringArrayVar(&f.CacheTo, "cache-to", nil, `cache to write ("user/app:cache", "type=local,dest=path"; "...,mounts=ID" takes cache mounts along)`)
	fs.StringVar(&f.Call, "call", "build", `what to ask the Dockerfile ("build", "check", "outline", "targets")`)
	fs.StringVar(&f.CgroupParent, "cgroup-parent", "", "parent cgroup of RUN")
	fs.BoolVar(&f.Check, "check", false, `check the Dockerfile without building ("--call=check")`)
	fs.BoolVarP(&f.Debug, "debug", "D", false, "say more, also where in the program errors come from")
	fs.StringVar(&f.ExitCode, "exit-code", "", `what a failing RUN exits with ("step": its own code, or "class": 1)`)
	fs.BoolVar(&f.Explain, "explain", false, "say afterwards why steps were not found in the cache")
	fs.StringVarP(&f.File, "file", "f", "", `the Dockerfile (default "PATH/Dockerfile")`)
	fs.StringArrayVar(&f.IgnoreFile, "ignorefile", nil, `ignore file to use instead of .dockerignore ("path", "name=path" for a --build-context)`)
	fs.StringVar(&f.IIDFile, "iidfile", "", "write the image id to a file")
	fs.StringArrayVar(&f.Label, "label", nil, `set a label of the image ("key=value")`)
	fs.Var(&f.Load, "load", `load the image into docker ("-o type=docker") or "containerd", "nerdctl", "podman"`)
	fs.Lookup("load").NoOptDefVal = "true"
	fs.StringVar(&f.LocalImages, "local-images", "never", `where names of images are looked for before all else ("docker", "containerd", "never")`)
	fs.BoolVar(&f.Locked, "locked", false, `build from what the lock names, and from nothing else (see "dbuild lock")`)
	fs.StringVar(&f.LockFile, "lock-file", "", `the lock (default: the Dockerfile's name with ".lock")`)
	fs.StringVar(&f.MetadataFile, "metadata-file", "", "write facts about the result to a file, as JSON")
	fs.StringVar(&f.Network, "network", "default", `network of RUN ("default", "none", "host")`)
	fs.BoolVar(&f.NoCache, "no-cache", false, "do not use the cache")
	fs.StringArrayVar(&f.NoCacheFilter, "no-cache-filter", nil, "do not use the cache for these stages")
	fs.StringArrayVarP(&f.Output, "output", "o", nil, `where the result goes ("path", "-", "type=oci,dest=path")`)
	fs.StringArrayVar(&f.Platform, "platform", nil, "platform to build for")
	fs.StringArrayVar(&f.Policy, "policy", nil, "source policy (not supported)")
	fs.StringVar(&f.Progress, "progress", "", `how to show progress ("auto", "plain", "tty", "quiet", "rawjson", "none")`)
	fs.StringVar(&f.Provenance, "provenance", "", `shorthand for "--attest=type=provenance"`)
	fs.BoolVar(&f.ProxyNetwork, "proxy-network", false, "give RUN no network but a proxy that records what it fetches")
	fs.Var(&f.Pull, "pull", `ask registries for newer base images; with "eager", read all their layers at once`)
	fs.Lookup("pull").NoOptDefVal = "true"
	fs.BoolVar(&f.Push, "push", false, `push the image ("-o type=registry")`)
	fs.BoolVarP(&f.Quiet, "quiet", "q", false, "print nothing but the image id")
	fs.BoolVar(&f.Reproducible, "reproducible", false, "give everything that is made the time of SOURCE_DATE_EPOCH, or else of the newest commit")
	fs.StringArrayVar(&f.Resource, "resource", nil, `limit of RUN ("memory=1g", "cpu-shares=512")`)
	fs.StringVar(&f.ResultFile, "result-file", "", "write what came of the build to a file, also if it fails, as JSON")
	fs.StringVar(&f.SBOM, "sbom", "", `shorthand for "--attest=type=sbom"`)
	fs.StringArrayVar(&f.Secret, "secret", nil, `secret to lend to RUN ("id=name[,src=path|,env=NAME]")`)
	fs.StringVar(&f.ShmSize, "shm-size", "", "size of /dev/shm in RUN")
	fs.StringArrayVar(&f.SSH, "ssh", nil, `ssh agent or keys to lend to RUN ("default|id[=socket|key[,key]]")`)
	fs.BoolVar(&f.Squash, "squash", false, "make one layer of those that the build adds to its base")
	fs.StringArrayVarP(&f.Tag, "tag", "t", nil, `name of the image ("name:tag"; %BUILDID% stands for the digest of the context)`)
	fs.StringVar(&f.Target, "target", "", "stage to build")
	fs.DurationVar(&f.Timeout, "timeout", 0, `stop the build after this time ("30m")`)
	fs.StringArrayVar(&f.Ulimit, "ulimit", nil, `limit of RUN's processes ("nofile=1024:2048")`)
	f.addLegacy(fs)
	return f
}

// addLegacy adds what "docker build" still accepts. It is not shown in the help.
func (f *Flags) addLegacy(fs *pflag.FlagSet) {
	fs.StringVarP(&f.memory, "memory", "m", "", "memory limit")
	fs.StringVar(&f.memorySwap, "memory-swap", "", "limit of memory and swap")
	fs.StringVarP(&f.cpuShares, "cpu-shares", "c", "", "CPU weight")
	fs.StringVar(&f.cpuPeriod, "cpu-period", "", "CPU period")
	fs.StringVar(&f.cpuQuota, "cpu-quota", "", "CPU quota")
	fs.StringVar(&f.cpusetCPUs, "cpuset-cpus", "", "CPUs to use")
	fs.StringVar(&f.cpusetMems, "cpuset-mems", "", "memory nodes to use")
	fs.String("print", "", "old name of --call")
	fs.Bool("compress", false, "ignored")
	fs.Bool("disable-content-trust", false, "ignored")
	fs.Bool("force-rm", false, "ignored")
	fs.String("isolation", "", "ignored")
	fs.Bool("rm", true, "ignored")
	fs.StringArray("security-opt", nil, "ignored")
	for _, name := range []string{
		"memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems",
		"print", "compress", "disable-content-trust", "force-rm", "isolation", "rm", "security-opt",
	} {
		_ = fs.MarkHidden(name)
	}
}

// ignored are flags that mean nothing to dbuild, and why.
var ignored = []struct{ name, why string }{
	{"compress", "only changed files are sent"},
	{"disable-content-trust", "there is no content trust to disable"},
	{"force-rm", "a build leaves no containers"},
	{"isolation", "it is for Windows containers"},
	{"rm", "a build leaves no containers"},
	{"security-opt", "RUN has one sandbox; see --allow security.insecure"},
}

// given tells whether the user set a flag.
func (f *Flags) given(name string) bool {
	fl := f.fs.Lookup(name)
	return fl != nil && fl.Changed
}
