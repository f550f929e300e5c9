package main

import (
	"fmt"
	"io"

	"github.com/dbuild/dbuild/llb"
	"github.com/moby/buildkit/solver/pb"
)

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
