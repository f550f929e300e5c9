package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// imagetoolsCommand returns "dbuild imagetools", about images in registries.
func (a *app) imagetoolsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "imagetools",
		Short: "Look at images in registries, and combine them without pulling",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.imagetoolsCreateCommand(), a.imagetoolsInspectCommand())
	return c
}

func (a *app) imagetoolsCreateCommand() *cobra.Command {
	var tags, notes []string
	var dry, appendTo, preferIndex, insecure bool
	var mode string
	c := &cobra.Command{
		Use:   "create -t NAME IMAGE ...",
		Short: "Make an image of several, one for each platform; or give an image another name",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(tags) == 0 && !dry {
				return usagef("what shall it be called? (-t NAME)")
			}
			if appendTo {
				if len(tags) != 1 {
					return usagef("--append adds to the image that one -t names")
				}
				args = append([]string{tags[0]}, args...)
			}
			attrs := map[string]string{"copy": strconv.FormatBool(!preferIndex)}
			if !dry {
				attrs["name"] = strings.Join(tags, ",")
			}
			if insecure {
				attrs["registry.insecure"] = "true"
			}
			for i, s := range args {
				attrs["source."+strconv.Itoa(i)] = s
			}
			for _, n := range notes {
				k, v, ok := strings.Cut(strings.TrimPrefix(n, "index:"), "=")
				if !ok {
					return usagef("--annotation %s: want index:KEY=VALUE", n)
				}
				attrs["annotation-index."+k] = v
			}
			return a.withDaemon(cmd, func(d *daemonConn) error {
				resp, err := a.deal(cmd.Context(), d, mode, client.ExportEntry{Type: "imagetools", Attrs: attrs})
				if err != nil {
					return err
				}
				if dry {
					fmt.Fprintln(a.stdout, strings.TrimSpace(resp["imagetools.manifest"]))
					return nil
				}
				for name := range strings.SplitSeq(resp["image.name"], ",") {
					fmt.Fprintln(a.stdout, name+"@"+resp["containerimage.digest"])
				}
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&tags, "tag", "t", nil, "name of the new image")
	f.StringArrayVar(&notes, "annotation", nil, "annotation of the index (index:KEY=VALUE)")
	f.BoolVar(&dry, "dry-run", false, "print what would be made")
	f.BoolVar(&appendTo, "append", false, "add to the image that has the name")
	f.BoolVar(&preferIndex, "prefer-index", true, "make an index of a single image, too")
	f.BoolVar(&insecure, "insecure", false, "accept any certificate of a registry, or none")
	f.StringVar(&mode, "progress", "", strings.Join(progressModes, ", "))
	fixed(c, "progress", progressModes...)
	return c
}

func (a *app) imagetoolsInspectCommand() *cobra.Command {
	var raw, insecure bool
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Print what an image in a registry consists of",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			attrs := map[string]string{"source.0": args[0], "copy": "true"}
			if insecure {
				attrs["registry.insecure"] = "true"
			}
			return a.withDaemon(cmd, func(d *daemonConn) error {
				resp, err := a.deal(cmd.Context(), d, "none", client.ExportEntry{Type: "imagetools", Attrs: attrs})
				if err != nil {
					return err
				}
				if raw {
					_, err := io.WriteString(a.stdout, resp["imagetools.manifest"])
					return err
				}
				return describeImage(a.stdout, args[0], resp)
			})
		},
	}
	c.Flags().BoolVar(&raw, "raw", false, "print the manifest or index as it is")
	c.Flags().BoolVar(&insecure, "insecure", false, "accept any certificate of the registry, or none")
	return c
}

// describeImage prints a manifest or index for people.
func describeImage(w io.Writer, name string, resp map[string]string) error {
	var doc struct {
		MediaType string               `json:"mediaType"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal([]byte(resp["imagetools.manifest"]), &doc); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(tw, "Name:\t%s\nMediaType:\t%s\nDigest:\t%s\n", name, doc.MediaType, resp["containerimage.digest"])
	for _, m := range doc.Manifests {
		kind := m.Annotations["vnd.docker.reference.type"]
		if kind == "" && m.Platform != nil {
			kind = platforms.FormatAll(*m.Platform)
		}
		fmt.Fprintf(tw, "Manifest:\t%s\t%s\n", m.Digest, kind)
	}
	for _, l := range doc.Layers {
		fmt.Fprintf(tw, "Layer:\t%s\t%d\n", l.Digest, l.Size)
	}
	return tw.Flush()
}
