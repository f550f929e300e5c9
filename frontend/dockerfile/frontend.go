package dockerfile

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/solver/pb"
	spec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/patternmatcher"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/internal/ignore"
)

// OptSession is the key of Request.Opts under which the daemon passes the id of the
// client's session. Local sources and OCI layouts are taken from it.
const OptSession = "session-id"

// Keys of Result.Metadata.
const (
	keyConfig     = "containerimage.config"
	keyBaseConfig = "containerimage.base.config"
	keyEpoch      = "source.date.epoch"
	keyPlatforms  = "refs.platforms"
)

type dockerfile struct{}

// New returns the Dockerfile frontend.
func New() frontend.Frontend { return dockerfile{} }

// A Platform is what a Dockerfile comes to for one platform.
type Platform struct {
	// ID is the platform in the form of Result.Refs, "linux/arm64".
	ID       string
	Platform ocispec.Platform
	// Definition makes the filesystem; it has no ops if that is empty.
	Definition *pb.Definition
	Image      *spec.DockerOCIImage
	// Base is the config of the image that the target was built on, or nil.
	Base  *spec.DockerOCIImage
	Epoch *time.Time // SOURCE_DATE_EPOCH
	// Scan makes the lists of packages that the client asks for; nil if it does not.
	Scan *pb.Definition
}

// Solve implements frontend.Frontend. The refs of the result are lazy. An error about a
// line of the Dockerfile carries an errdefs.Source.
func (dockerfile) Solve(ctx context.Context, bridge frontend.Bridge, req *frontend.Request) (_ *frontend.Result, err error) {
	l, err := open(ctx, bridge, req)
	if err != nil {
		return nil, asInput(err)
	}
	defer func() { err = asInput(l.atSource(err)) }()
	if req.Opts["requestid"] == requestContext { // whatever the Dockerfile's language is
		return l.contextTree(ctx)
	}
	if other, ok := l.syntax(); ok {
		return l.forward(ctx, req, other)
	}
	if l.beyond != nil {
		return nil, l.beyond
	}
	if id := req.Opts["requestid"]; id != "" {
		return l.subrequest(ctx, id)
	}
	if err := l.findScanner(ctx, req.Opts); err != nil {
		return nil, err
	}
	built, err := l.convert(ctx)
	if err != nil {
		return nil, err
	}
	multi := l.opts.multi
	res := &frontend.Result{Metadata: map[string][]byte{}}
	if multi {
		res.Refs = map[string]frontend.Ref{}
	}
	var exported struct{ Platforms []exportPlatform }
	for _, p := range built {
		var ref frontend.Ref
		if len(p.Definition.Def) > 0 {
			if ref, err = bridge.Solve(ctx, p.Definition); err != nil {
				return nil, err
			}
		}
		suffix := ""
		if multi {
			res.Refs[p.ID], suffix = ref, "/"+p.ID
		} else {
			res.Ref = ref
		}
		if err := p.describe(res.Metadata, suffix); err != nil {
			return nil, err
		}
		if err := l.attestScan(ctx, res, p); err != nil {
			return nil, err
		}
		exported.Platforms = append(exported.Platforms, exportPlatform{ID: p.ID, Platform: p.Platform})
	}
	res.Metadata[keyPlatforms], err = json.Marshal(exported)
	return res, err
}

// exportPlatform is an element of the metadata "refs.platforms".
type exportPlatform struct {
	ID       string
	Platform ocispec.Platform
}

// describe adds what exporters want to know.
func (p *Platform) describe(md map[string][]byte, suffix string) (err error) {
	if md[keyConfig+suffix], err = json.Marshal(p.Image); err != nil {
		return fmt.Errorf("encode image config: %w", err)
	}
	if p.Base != nil {
		if md[keyBaseConfig+suffix], err = json.Marshal(p.Base); err != nil {
			return fmt.Errorf("encode image config: %w", err)
		}
	}
	if p.Epoch != nil {
		md[keyEpoch+suffix] = strconv.AppendInt(nil, p.Epoch.Unix(), 10)
	}
	return nil
}

// Convert lowers a Dockerfile as Solve does, without solving the outcome: for those who
// want to look at it. Platforms are in the order of the request.
func Convert(ctx context.Context, bridge frontend.Bridge, req *frontend.Request) ([]*Platform, error) {
	l, err := open(ctx, bridge, req)
	if err != nil {
		return nil, err
	}
	if other, ok := l.syntax(); ok {
		return nil, fmt.Errorf("only the frontend %s can say what this Dockerfile means", other.source)
	}
	built, err := l.convert(ctx)
	return built, l.atSource(err)
}

// open checks a request and loads its Dockerfile.
func open(ctx context.Context, bridge frontend.Bridge, req *frontend.Request) (*loader, error) {
	opts, err := parseOptions(req.Opts)
	if err != nil {
		return nil, err
	}
	forward, err := checkCaps(req.Opts["frontend.caps"])
	if err != nil && !forward {
		return nil, err
	}
	l, err1 := newLoader(ctx, bridge, opts, req)
	if err1 != nil {
		return nil, err1
	}
	l.beyond = err
	return l, nil
}

func (l *loader) convert(ctx context.Context) ([]*Platform, error) {
	lint, err := l.newLinter()
	if err != nil {
		return nil, err
	}
	file, err := l.parse(ctx)
	if err != nil {
		lintParsed(lint, file)
		l.warn(ctx, lint)
		return nil, err
	}
	targets := make([]*ocispec.Platform, 0, len(l.opts.platforms))
	for i := range l.opts.platforms {
		targets = append(targets, &l.opts.platforms[i])
	}
	if len(targets) == 0 {
		targets = append(targets, nil)
	}
	out := make([]*Platform, len(targets))
	outer := ctx
	eg, ctx := newGroup(ctx)
	var first *build
	for i, t := range targets {
		b := newBuild(l, file, t)
		if i == 0 {
			b.lint, first = lint, b // the others would say the same
		}
		eg.Go(func() error {
			p, err := b.convert(ctx)
			out[i] = p
			return err
		})
	}
	err = eg.Wait()
	l.warn(outer, lint)
	if err != nil {
		return nil, err
	}
	first.warnUnused(outer)
	return out, nil
}

// A build lowers a Dockerfile for one platform.
type build struct {
	loader *loader
	opts   *options
	file   *instruction.File
	args   map[string]string // build args
	global env               // the scope before the first FROM

	given     *ocispec.Platform // asked for, or nil
	target    ocispec.Platform
	implicit  bool // nobody asked for a platform
	platforms []ocispec.Platform

	lex      *shell.Lex // for the values of instructions
	nameLex  *shell.Lex // for the names of RUN vertices: quotes and unknown variables stay
	proxy    *pb.ProxyEnv
	epoch    *time.Time
	stages   []*stage
	named    map[string][]int // places in stages by name, which fold makes of one
	external []*stage

	lint    *linter // nil to be quiet
	plain   env     // the global scope without build args
	matcher *patternmatcher.PatternMatcher

	explainers map[*ignore.File]*ignore.Explainer
	compared   int // names, for suggestions

	all bool // lower all stages, to look at them

	hasContexts bool
	context     output
	contextRead pathSet
}

func newBuild(l *loader, file *instruction.File, target *ocispec.Platform) *build {
	b := &build{
		loader: l, opts: l.opts, file: file, args: maps.Clone(l.opts.buildArgs),
		given: target, implicit: target == nil, platforms: l.bridge.Platforms(),
		lex: shell.NewLex(file.Escape), nameLex: shell.NewLex(file.Escape),
		proxy: proxyEnv(l.opts.buildArgs), contextRead: pathSet{}, named: map[string][]int{},
		explainers: map[*ignore.File]*ignore.Explainer{},
	}
	b.nameLex.RawQuotes, b.nameLex.SkipUnsetEnv = true, true
	if len(b.platforms) == 0 {
		b.platforms = []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())}
	}
	b.target = b.platforms[0]
	if target != nil {
		b.target = *target
	}
	for k := range l.opts.raw {
		b.hasContexts = b.hasContexts || strings.HasPrefix(k, "context:")
	}
	return b
}

func (b *build) convert(ctx context.Context) (*Platform, error) {
	targetName := b.opts.target
	if targetName == "" {
		targetName = b.file.Stages[len(b.file.Stages)-1].From.Name
	}
	b.global = automaticArgs(b.platforms[0], b.target, targetName, b.args)
	if b.lint != nil {
		b.lintFile()
		b.plain = b.global
		if err := addGlobalArgs(&b.plain, b.file.Global, nil, b.lex); err != nil {
			b.plain = env{} // a default that needs a build arg; it is not for us to complain
		}
	}
	if err := addGlobalArgs(&b.global, b.file.Global, b.args, b.lex); err != nil {
		return nil, err
	}
	if err := b.takeEpoch(ctx); err != nil {
		return nil, err
	}
	target, err := b.plan()
	if err != nil {
		return nil, err
	}
	reads := b.readsContext()
	eg, egctx := newGroup(ctx)
	eg.Go(func() error { return b.resolveAll(egctx) })
	if reads { // the ignore file travels meanwhile
		eg.Go(func() error { return b.loader.loadIgnore(egctx) })
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	if b.readsContext() { // it may be that only an ONBUILD does
		if b.context, err = b.loader.mainContext(ctx, b.contextRead.follow); err != nil {
			return nil, err
		}
	}
	if err := b.lowerAll(target); err != nil {
		return nil, err
	}
	if err := b.lint.err(); err != nil {
		return nil, err
	}
	if err := b.writeExports(target); err != nil {
		return nil, err
	}
	b.finish(target)
	target.read.add("/")
	def, err := marshal(ctx, target.out, b.target)
	if err != nil {
		return nil, err
	}
	var scan *pb.Definition
	if b.loader.scanner != nil {
		if scan, err = b.scan(ctx, target); err != nil {
			return nil, err
		}
	}
	p := platforms.Normalize(platforms.DefaultSpec())
	if b.given != nil {
		p = platforms.Normalize(*b.given)
	}
	return &Platform{
		ID: platforms.FormatAll(p), Platform: p, Definition: def,
		Image: target.image, Base: target.baseImage, Epoch: b.epoch, Scan: scan,
	}, nil
}
