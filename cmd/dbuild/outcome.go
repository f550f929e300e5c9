package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/internal/rpcerror"
	"github.com/moby/buildkit/solver/errdefs"
)

// Classes that only the client knows: a build that did not fail, checks that found something,
// and --timeout.
const (
	success  rpcerror.Class = "success"
	checks   rpcerror.Class = "checks"
	timedOut rpcerror.Class = "timeout"
)

// An outcome is what --result-file tells about a build (docs/exit-codes.md).
type outcome struct {
	Class rpcerror.Class `json:"class"`
	// ExitCode is that of dbuild.
	ExitCode int `json:"exitCode"`
	// StepExitCode is that of the command that failed, if Class is step.
	StepExitCode *int   `json:"stepExitCode,omitempty"`
	Retryable    bool   `json:"retryable"`
	Message      string `json:"message,omitempty"`
	Hint         string `json:"hint,omitempty"`
	Step         string `json:"step,omitempty"` // as progress shows it
	File         string `json:"file,omitempty"`
	Line         int    `json:"line,omitempty"`

	Ref       string `json:"ref,omitempty"`
	Digest    string `json:"digest,omitempty"`
	ImageID   string `json:"imageID,omitempty"`
	ImageName string `json:"imageName,omitempty"`
	Warnings  int    `json:"warnings"`
}

// running is what is known of a build by the time it ends.
type running struct {
	ref      string
	response map[string]string
	progress *progress // nil until it is shown
}

// outcome is what came of a build that ended with err.
func (r *running) outcome(err error) outcome {
	o := outcome{Class: success, Ref: r.ref, Digest: r.response[keyDigest], ImageID: imageID(r.response), ImageName: r.response["image.name"]}
	if r.progress != nil {
		o.Warnings = len(r.progress.warnings)
	}
	if err == nil {
		return o
	}
	k := kindOf(err)
	o.Class, o.Retryable, o.ExitCode = k.Class, k.Retryable, exitCode(err)
	if code, ok := stepCode(err); ok {
		o.StepExitCode = &code
	}
	var said statusError
	if errors.As(err, &said) { // the checks have printed what they found
		o.Class, o.Message = checks, "the checks found something"
		return o
	}
	o.Message = userMessage(err, false)
	o.Hint = hint(err, o.Message)
	o.File, o.Line = place(err)
	var v *errdefs.VertexError
	if errors.As(err, &v) && r.progress != nil {
		o.Step = r.progress.failed[v.GetDigest()]
	}
	return o
}

// build runs one build and says in --result-file what came of it.
func (a *app) build(ctx context.Context, f *buildflags.Flags, contextArg string) error {
	files := resultFiles{iid: f.IIDFile, bid: f.BIDFile, metadata: f.MetadataFile, result: f.ResultFile}
	if err := files.clear(); err != nil {
		return err
	}
	passed, err := a.passesStepCode(f.ExitCode)
	if err != nil {
		return err
	}
	r := &running{}
	err = a.buildOnce(ctx, f, contextArg, files, r)
	if err != nil && ctx.Err() != nil && exitCode(err) == exitOther {
		err = ctx.Err() // what fails once we are stopping, fails because of that
	}
	if err != nil && !passed {
		err = &classOnly{err}
	}
	if f.ResultFile == "" {
		return err
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	werr := enc.Encode(r.outcome(err))
	if werr == nil {
		werr = replace(f.ResultFile, text.Bytes())
	}
	if werr == nil {
		return err
	}
	werr = fmt.Errorf("--result-file: %w", werr)
	if err != nil {
		a.warn("%v", werr) // that the build failed says more
		return err
	}
	return werr
}
