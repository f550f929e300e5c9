package exporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// ImageOptions say what an image is to look like.
type ImageOptions struct {
	OCI               bool // media types of OCI, not of Docker
	Compression       snapshot.Compression
	RewriteTimestamp  bool       // files of new layers are no newer than the epoch, if there is one
	Epoch             *time.Time // of the image; EpochSet if that is to override the frontend
	EpochSet          bool
	PreferNondistrib  bool // keep "may not be distributed" on layers that say so
	Annotations       Annotations
	MetadataOverrides map[string][]byte // of the result, by the client
	AttestInline      bool              // attestations that are inline-only are reason enough for an index
	Artifact          bool              // attestations are OCI artifacts, not images
	Attach            Attach            // where attestations go
	Squash            bool              // see Squash
	Names             []string          // that the image gets; attestations are about them
}

// ImageOptionsFrom takes the options that all exporters of images share.
func ImageOptionsFrom(a *Attrs) ImageOptions {
	o := ImageOptions{
		OCI:              a.Bool("oci-mediatypes", true),
		Compression:      a.Compression(),
		RewriteTimestamp: a.Bool("rewrite-timestamp", false),
		PreferNondistrib: a.Bool("prefer-nondist-layers", false),
		Squash:           a.Bool("squash", false),
		Annotations:      Annotations{},
	}
	o.Epoch, o.EpochSet = a.Epoch()
	o.Compression.DockerMediaTypes = !o.OCI
	for k, v := range a.Prefixed(IsAnnotation) {
		if err := o.Annotations.Set(k, v); err != nil {
			a.refuse("%v", err)
		}
	}
	o.MetadataOverrides = map[string][]byte{}
	for k, v := range a.Prefixed(func(k string) bool {
		return k == KeyConfig || k == KeyBaseConfig || k == KeyPlatforms
	}) {
		o.MetadataOverrides[k] = []byte(v)
	}
	if _, asked := a.left["oci-artifact"]; asked {
		if o.Artifact = a.Bool("oci-artifact", true); o.Artifact && !o.OCI {
			a.refuse(`"oci-artifact=true" conflicts with "oci-mediatypes=false"`)
		}
	} else {
		o.Artifact = true
	}
	// The image store has room for an index; those who take a file mostly want one image.
	o.AttestInline = a.Bool("attestation-inline", a.kind == "image")
	o.Attach = attachFrom(a)
	a.Ignore("buildinfo", "buildinfo-attrs") // from clients of old
	a.Prefixed(attest.IsOption)              // belongs to the frontend's options, where it is heeded
	return o
}

// An Image is an assembled image, all documents and where its layers are.
type Image struct {
	Top       ocispec.Descriptor // what a name should point to: an index, or the manifest
	Manifests []Manifest         // in the order of platforms
	// Attestations are manifests with statements about Manifests: of the index, or Referrers.
	Attestations []Manifest
	Referrers    bool
	Index        []byte     // if there are several manifests
	Created      *time.Time // of the last config, or the epoch
}

// All returns all manifests.
func (img *Image) All() []Manifest { return slices.Concat(img.Manifests, img.Attestations) }

// A Manifest is an image for one platform.
type Manifest struct {
	Desc   ocispec.Descriptor
	Data   []byte
	Config ocispec.Descriptor
	// ConfigData is what Config names.
	ConfigData []byte
	Layers     []snapshot.Blob // with media types as in the manifest

	About      digest.Digest // the manifest that the statements of an attestation are about
	statements [][]byte      // what Layers are, if that is attestations
}

// Documents returns every config, manifest, index and attestation by digest.
func (img *Image) Documents() map[digest.Digest][]byte {
	out := map[digest.Digest][]byte{}
	for _, m := range img.All() {
		out[m.Desc.Digest] = m.Data
		out[m.Config.Digest] = m.ConfigData
		for i, b := range m.statements {
			out[m.Layers[i].Digest] = b
		}
	}
	if img.Index != nil {
		out[img.Top.Digest] = img.Index
	}
	return out
}

// Layers returns each layer blob once.
func (img *Image) Layers() []snapshot.Blob {
	seen := map[digest.Digest]bool{}
	var out []snapshot.Blob
	for _, m := range img.All() {
		for _, l := range m.Layers {
			if !seen[l.Digest] {
				seen[l.Digest] = true
				out = append(out, l)
			}
		}
	}
	return out
}

// Assemble makes the documents of an image from a result. No bytes of a layer that is
// elsewhere are moved; layers that exist as files only are compressed. The same result
// and options give the same image.
func Assemble(ctx context.Context, src Source, a Access, o ImageOptions) (*Image, error) {
	src = o.override(src)
	parts, err := src.Parts()
	if err != nil {
		return nil, err
	}
	if o.Annotations, err = o.Annotations.With(src.Metadata); err != nil {
		return nil, err
	}
	multi := src.Multi() || o.Attested(src)
	if multi && o.Attach == AttachIndex && len(src.Attestations) > 0 {
		o.OCI, o.Compression.DockerMediaTypes = true, false // Docker's types have no room for them
	}
	if err := o.Annotations.check(parts, multi, o.OCI); err != nil {
		return nil, err
	}
	ins := make([]partInput, len(parts))
	line := a.Log.Track("exporting layers")
	eg, gctx := errgroup.WithContext(ctx)
	for i, p := range parts {
		in := &ins[i]
		in.Platform = p
		in.config, in.base = src.Value(KeyConfig, p), src.Value(KeyBaseConfig, p)
		in.inlineCache = src.Value(KeyInlineCache, p)
		if in.epoch = o.Epoch; !o.EpochSet {
			if in.epoch, err = src.EpochOf(p); err != nil {
				return nil, err
			}
		}
		var attestations []Attestation
		if multi && o.Attach == AttachIndex || o.Attach == AttachReferrers && (multi || o.attests(src)) {
			attestations = src.Attestations[p.ID]
		}
		if p.Ref == nil && len(attestations) == 0 {
			continue
		}
		c := o.Compression
		if o.RewriteTimestamp {
			c.Epoch = in.epoch
		}
		eg.Go(func() error {
			var err error
			if p.Ref != nil {
				in.layers, err = p.Ref.Blobs(gctx, snapshot.Access{Group: a.Group, Log: a.Log}, c)
			}
			if err == nil {
				in.attested, err = attestAll(gctx, attestations, in.layers)
			}
			if err == nil && p.Ref != nil && src.Inline != nil && in.inlineCache == nil {
				in.inlineCache, err = src.Inline(gctx, p)
			}
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	line.Done()
	return assemble(ins, multi, a.Log, o)
}

// override returns src with what the client says of it instead of the frontend.
func (o ImageOptions) override(src Source) Source {
	if len(o.MetadataOverrides) == 0 {
		return src
	}
	src.Metadata = maps.Clone(src.Metadata)
	if src.Metadata == nil {
		src.Metadata = map[string][]byte{}
	}
	maps.Copy(src.Metadata, o.MetadataOverrides)
	return src
}

// A partInput is what goes into the image of one platform.
type partInput struct {
	Platform
	configInput
	attested []attested
}

// assemble writes the documents: a pure function of what it is given.
func assemble(ins []partInput, multi bool, log *progress.Log, o ImageOptions) (*Image, error) {
	if !multi && len(ins) != 1 {
		return nil, errors.New("the result is of several platforms but not multi-platform")
	}
	img := &Image{}
	index := ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageIndex,
		Annotations: o.Annotations.All().Index,
	}
	if !o.OCI {
		index.MediaType = images.MediaTypeDockerSchema2ManifestList
	}
	for _, in := range ins {
		m, err := in.manifest(log, o)
		if err != nil {
			if multi {
				err = fmt.Errorf("%s: %w", in.ID, err)
			}
			return nil, err
		}
		img.Manifests = append(img.Manifests, *m)
		index.Manifests = append(index.Manifests, m.Desc)
		if img.Created = in.epoch; img.Created == nil {
			img.Created = createdOf(m.ConfigData)
		}
	}
	img.Referrers = o.Attach == AttachReferrers
	for i, in := range ins {
		if len(in.attested) == 0 {
			continue
		}
		m, err := in.attestation(img.Manifests[i].Desc, o)
		if err != nil {
			return nil, err
		}
		img.Attestations = append(img.Attestations, *m)
		if !img.Referrers {
			index.Manifests = append(index.Manifests, m.Desc)
		}
		log.Track("exporting attestation manifest " + m.Desc.Digest.String()).Done()
	}
	if !multi {
		img.Top = img.Manifests[0].Desc
		return img, nil
	}
	b, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return nil, err
	}
	img.Index = b
	img.Top = ocispec.Descriptor{
		MediaType: index.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b)),
		Annotations: o.Annotations.All().IndexDescriptor,
	}
	log.Track("exporting manifest list " + img.Top.Digest.String()).Done()
	return img, nil
}

func (in partInput) manifest(log *progress.Log, o ImageOptions) (*Manifest, error) {
	ci := in.configInput
	if len(ci.config) == 0 {
		var err error
		if ci.config, err = newConfig(in.Platform.Platform); err != nil {
			return nil, err
		}
	}
	var lost bool
	var err error
	if ci.config, lost, err = checkExports(ci); err != nil {
		return nil, err
	}
	if lost {
		log.Warn(diffLost)
	}
	config, err := finishConfig(ci)
	if err != nil {
		return nil, err
	}
	manifestType, configType := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig
	if !o.OCI {
		manifestType, configType = images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2Config
	}
	notes := o.Annotations.For(in.Platform.Platform)
	doc := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   manifestType,
		Config:      ocispec.Descriptor{MediaType: configType, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Annotations: notes.Manifest,
	}
	m := &Manifest{Config: doc.Config, ConfigData: config}
	for _, l := range in.layers {
		l.Descriptor = layerDescriptor(l, o)
		doc.Layers = append(doc.Layers, l.Descriptor)
		m.Layers = append(m.Layers, l)
	}
	if m.Data, err = json.MarshalIndent(doc, "", "  "); err != nil {
		return nil, err
	}
	p := in.Platform.Platform
	m.Desc = ocispec.Descriptor{
		MediaType: manifestType, Digest: digest.FromBytes(m.Data), Size: int64(len(m.Data)),
		Annotations: notes.ManifestDescriptor, Platform: &p,
	}
	log.Track("exporting manifest " + m.Desc.Digest.String()).Done()
	log.Track("exporting config " + m.Config.Digest.String()).Done()
	return m, nil
}

// layerDescriptor is how a layer is written in a manifest: of the family of media types
// that is wanted, without annotations that are for tools. That it is not to be distributed
// is said only with the URLs from which it can be had instead.
func layerDescriptor(l snapshot.Blob, o ImageOptions) ocispec.Descriptor {
	d, keep := l.Descriptor, o.PreferNondistrib && len(l.URLs) > 0
	out := ocispec.Descriptor{MediaType: layerType(d.MediaType, o.OCI, keep), Digest: d.Digest, Size: d.Size}
	if keep {
		out.URLs = l.URLs
	}
	if !o.OCI {
		return out
	}
	for k, v := range d.Annotations {
		if k == labels.LabelUncompressed || k == "buildkit/createdat" || isSourceLabel(k) {
			continue
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[k] = v
	}
	return out
}

func isSourceLabel(k string) bool {
	return len(k) > len(labels.LabelDistributionSource) && k[:len(labels.LabelDistributionSource)] == labels.LabelDistributionSource
}

// layerTypes pairs the media types of Docker with those of OCI: plain and marked as not
// to be distributed.
var layerTypes = []struct{ docker, oci, dockerForeign, ociForeign string }{
	{images.MediaTypeDockerSchema2Layer, ocispec.MediaTypeImageLayer,
		images.MediaTypeDockerSchema2LayerForeign, ocispec.MediaTypeImageLayerNonDistributable}, //nolint:staticcheck // old images have it
	{images.MediaTypeDockerSchema2LayerGzip, ocispec.MediaTypeImageLayerGzip,
		images.MediaTypeDockerSchema2LayerForeignGzip, ocispec.MediaTypeImageLayerNonDistributableGzip}, //nolint:staticcheck // as above
	{images.MediaTypeDockerSchema2LayerZstd, ocispec.MediaTypeImageLayerZstd,
		ocispec.MediaTypeImageLayerNonDistributableZstd, ocispec.MediaTypeImageLayerNonDistributableZstd}, //nolint:staticcheck // as above
}

// layerType says a media type in the dialect of Docker or OCI, marked or not.
func layerType(mt string, oci, keepForeign bool) string {
	for _, t := range layerTypes {
		if mt != t.dockerForeign && mt != t.ociForeign && mt != t.docker && mt != t.oci {
			continue
		}
		switch {
		case keepForeign && oci:
			return t.ociForeign
		case keepForeign:
			return t.dockerForeign
		case oci:
			return t.oci
		}
		return t.docker
	}
	return mt
}

func createdOf(config []byte) *time.Time {
	var img ocispec.Image
	if json.Unmarshal(config, &img) != nil {
		return nil
	}
	return img.Created
}
