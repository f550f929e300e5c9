package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// dumpLLBCommand returns "dbuild debug dump-llb".
func (a *app) dumpLLBCommand() *cobra.Command {
	var dot bool
	var format, file string
	c := &cobra.Command{
		Use:   "dump-llb [DIR|FILE]",
		Short: "Print the build graph of a context directory, or one read from FILE or standard input",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("one FILE is printed at a time, not %d", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if dot {
				format = "dot"
			}
			if len(args) == 1 && isDir(args[0]) {
				def, err := a.convert(cmd.Context(), args[0], file)
				if err != nil {
					return err
				}
				return printLLB(a.stdout, def, format)
			}
			in, name := a.stdin, "standard input"
			if len(args) == 1 && args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in, name = f, args[0]
			} else if terminal(in) {
				return usagef("a FILE is needed, or a definition on standard input")
			}
			b, err := io.ReadAll(io.LimitReader(in, maxDefinition+1))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			def := &pb.Definition{}
			if len(b) > maxDefinition {
				return fmt.Errorf("%s is larger than %d bytes", name, maxDefinition)
			}
			if err := def.UnmarshalVT(b); err != nil || len(def.Def) == 0 {
				return fmt.Errorf("%s is not a marshalled definition", name)
			}
			return printLLB(a.stdout, def, format)
		},
	}
	c.Flags().StringVarP(&file, "file", "f", "", "the Dockerfile of DIR")
	c.Flags().BoolVar(&dot, "dot", false, "print a graph for graphviz")
	c.Flags().StringVar(&format, "format", "text", "text, json or dot")
	fixed(c, "format", "dot", "json", "text")
	return c
}

func isDir(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.IsDir()
}

// convert asks the daemon's frontend which operations the Dockerfile of dir comes to.
func (a *app) convert(ctx context.Context, dir, file string) (*pb.Definition, error) {
	flags := pflag.NewFlagSet("dump-llb", pflag.ContinueOnError)
	f := buildflags.New(flags)
	args := []string{"--call", "convertllb,format=json", "--progress", "quiet"}
	if file != "" {
		args = append(args, "--file", file)
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	sub := *a
	sub.stdout = &out
	if err := sub.build(ctx, f, dir); err != nil {
		return nil, err
	}
	var answer struct {
		Def map[string]json.RawMessage `json:"def"`
	}
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return nil, fmt.Errorf("the daemon's answer: %w", err)
	}
	// The operation without a kind names the result and stands last.
	def := &pb.Definition{}
	var last []byte
	for _, raw := range answer.Def {
		var op pb.Op
		if err := protojson.Unmarshal(raw, &op); err != nil {
			return nil, fmt.Errorf("the daemon's answer: %w", err)
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&op)
		if err != nil {
			return nil, err
		}
		if op.Op == nil {
			last = b
			continue
		}
		def.Def = append(def.Def, b)
	}
	def.Def = append(def.Def, last)
	return def, nil
}

// printLLB prints a definition in one of the formats of "dbuild debug dump-llb".
func printLLB(w io.Writer, def *pb.Definition, format string) error {
	g, err := llb.Load(def, llb.Limits{})
	if err != nil {
		return err
	}
	switch format {
	case "text":
		return llb.Print(w, g)
	case "json":
		return llb.JSON(w, g)
	case "dot":
		return llb.Dot(w, g)
	}
	return fmt.Errorf("--format %s: there are text, json and dot", format)
}
