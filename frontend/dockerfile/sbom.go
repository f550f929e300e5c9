package dockerfile

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/frontend/sbom"
	"github.com/dbuild/dbuild/llb"
)

// Arguments that have more than the target scanned. They are no variables.
const (
	argScanContext = "BUILDKIT_SBOM_SCAN_CONTEXT"
	argScanStage   = "BUILDKIT_SBOM_SCAN_STAGE"
)

// findScanner resolves the image that lists packages, if the client wants that.
func (l *loader) findScanner(ctx context.Context, raw map[string]string) error {
	o, err := attest.Parse(raw)
	if err != nil || o.SBOM == nil {
		return err
	}
	l.scanner, err = sbom.Find(ctx, l.bridge, o.SBOM, l.opts.resolveMode)
	return err
}

// scan is the graph that lists the packages of the target and of what else the Dockerfile
// says. It is nil if the target is empty.
func (b *build) scan(ctx context.Context, target *stage) (*pb.Definition, error) {
	if target.out.llb().IsScratch() {
		return nil, nil
	}
	more := map[string]llb.Output{}
	for _, s := range b.stages {
		if !s.needed || s.context != nil {
			continue
		}
		if s != target && b.scans(s, argScanStage) {
			name := s.name
			if name == "" {
				name = "stage-" + strconv.Itoa(s.index)
			}
			more[name] = s.out.llb()
		}
		if b.scans(s, argScanContext) {
			whole, err := b.loader.mainContext(ctx, func() []string { return nil })
			if err != nil {
				return nil, err
			}
			more["context"] = whole.llb()
		}
	}
	for name, out := range more {
		if out.IsScratch() {
			delete(more, name)
		}
	}
	label := ""
	if b.opts.multi {
		label = platforms.FormatAll(b.target)
	}
	return marshal(ctx, ready(b.loader.scanner.Scan(target.out.llb(), more, label)), b.target)
}

// scans reports what an argument says for a stage: yes, no, or for which stages. A build
// argument counts only where the Dockerfile declares it.
func (b *build) scans(s *stage, key string) bool {
	var value string
	if slices.ContainsFunc(b.file.Global, func(in *instruction.Arg) bool {
		return slices.ContainsFunc(in.Args, func(a instruction.ArgValue) bool { return a.Key == key })
	}) {
		value, _ = b.global.Get(key)
	}
	for _, a := range s.args {
		if a.key == key && a.value != nil {
			value = *a.value
		}
	}
	if on, err := strconv.ParseBool(value); err == nil {
		return on
	}
	return s.name != "" && slices.ContainsFunc(strings.Split(value, ","), func(n string) bool {
		return strings.EqualFold(strings.TrimSpace(n), s.name)
	})
}

// attestScan adds what a scan finds to a result.
func (l *loader) attestScan(ctx context.Context, res *frontend.Result, p *Platform) error {
	if p.Scan == nil {
		return nil
	}
	ref, err := l.bridge.Solve(ctx, p.Scan)
	if err != nil {
		return err
	}
	if res.Attestations == nil {
		res.Attestations = map[string][]frontend.Attestation{}
	}
	res.Attestations[p.ID] = append(res.Attestations[p.ID], sbom.Attestation(ref))
	return nil
}
