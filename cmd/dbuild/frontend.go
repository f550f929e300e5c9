package main

import (
	"os"

	"github.com/dbuild/dbuild/frontend/dockerfile"
	"github.com/dbuild/dbuild/frontend/gateway/client"
	"github.com/spf13/cobra"
)

// frontendCommand is the Dockerfile frontend for another builder, which starts it in a
// container and talks to it on its standard input and output.
func (a *app) frontendCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "frontend",
		Short:  "Be the Dockerfile frontend of the builder on standard input and output",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			env := client.ParseEnvironment(os.Environ())
			if env.Session != "" {
				// Without it builds of other clients would count as the same as this one.
				env.Opts[dockerfile.OptSession] = env.Session
			}
			cc, err := client.Dial(os.Stdin, os.Stdout)
			if err != nil {
				return err
			}
			// The connection ends with the process: a builder that sees it end first takes that
			// for a failure.
			return client.Run(cmd.Context(), cc, env, dockerfile.New(), a.stderr)
		},
	}
}
