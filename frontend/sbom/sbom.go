// Package sbom has the packages of a filesystem listed, by an image that is made for that:
// it is run as a step with what to scan mounted beside it. The conventions are those of
// BuildKit's scanners.
package sbom

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/llb"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// defaultGenerator lists packages if the client names no image of its own.
const defaultGenerator = "docker/buildkit-syft-scanner:stable-1"

// Where a scanner finds things, and puts what it found.
const (
	destination = "/run/out"
	core        = "/run/src/core/" + coreName
	extras      = "/run/src/extras"
	coreName    = "sbom"
)

// A Scanner is an image that lists packages.
type Scanner struct {
	name     string
	platform ocispec.Platform // that it runs on
	args     []string
	env      []string
	dir      string
	user     string
}

// Find resolves the scanner that o asks for. mode is that of frontend.ResolveOpt.
func Find(ctx context.Context, b frontend.Bridge, o *attest.SBOM, mode string) (*Scanner, error) {
	name := o.Generator
	if name == "" {
		name = defaultGenerator
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("attestation sbom: generator=%s is not the name of an image: %v", name, err))
	}
	s := &Scanner{platform: b.Platforms()[0]}
	meta, err := b.ResolveImage(ctx, reference.TagNameOnly(named).String(), frontend.ResolveOpt{
		Platform: &s.platform, Mode: mode, LogName: "[internal] load metadata for " + name,
	})
	if err != nil {
		return nil, fmt.Errorf("SBOM generator %s: %w", name, err)
	}
	s.name = meta.Ref
	var img ocispec.Image
	if err := json.Unmarshal(meta.Config, &img); err != nil {
		return nil, fmt.Errorf("SBOM generator %s: its config: %w", name, err)
	}
	s.args = slices.Concat(img.Config.Entrypoint, img.Config.Cmd)
	if len(s.args) == 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("SBOM generator %s: the image has neither entrypoint nor command", name))
	}
	s.env, s.user = img.Config.Env, img.Config.User
	if s.dir = img.Config.WorkingDir; s.dir == "" {
		s.dir = "/"
	}
	for _, k := range slices.Sorted(maps.Keys(o.Args)) {
		s.env = append(s.env, "BUILDKIT_SCAN_"+k+"="+o.Args[k])
	}
	return s, nil
}

// Scan is what the scanner finds in target, and in more filesystems by name. label goes
// before the name of the step.
func (s *Scanner) Scan(target llb.Output, more map[string]llb.Output, label string) llb.Output {
	platform := s.platform
	mounts := []llb.Mount{{Target: destination}, {Target: core, Source: target, Readonly: true}}
	env := append(slices.Clone(s.env), "BUILDKIT_SCAN_DESTINATION="+destination, "BUILDKIT_SCAN_SOURCE="+core)
	if len(more) > 0 {
		env = append(env, "BUILDKIT_SCAN_SOURCE_EXTRAS="+extras)
	}
	for _, name := range slices.Sorted(maps.Keys(more)) {
		mounts = append(mounts, llb.Mount{Target: extras + "/" + coreName + "-" + name, Source: more[name], Readonly: true})
	}
	if label != "" {
		label = "[" + label + "] "
	}
	res := llb.Exec(llb.ExecOptions{
		Root: llb.Image(s.name, llb.ImageOptions{Platform: &platform}, llb.Meta{Name: label + "load SBOM generator " + s.name}),
		Args: s.args, Env: env, Cwd: s.dir, User: s.user, Platform: &platform, Mounts: mounts,
	}, llb.Meta{Name: label + "generating sbom using " + s.name})
	out, _ := res.Mount(destination) // it is one of the mounts, and can be written
	return out
}

// Attestation is what a scan found.
func Attestation(scan frontend.Ref) frontend.Attestation {
	return frontend.Attestation{
		Bundle: true, Ref: scan, Path: "/", PredicateType: attest.PredicateSPDX,
		Metadata: map[string][]byte{
			frontend.AttestationReason: []byte("sbom"), frontend.AttestationSBOMCore: []byte(coreName),
		},
	}
}

// Is reports whether an attestation lists the packages of a result.
func Is(a frontend.Attestation) bool {
	return a.PredicateType == attest.PredicateSPDX || string(a.Metadata[frontend.AttestationReason]) == "sbom"
}
