package dockerfile

import (
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

var limitsNotEnforced = rule{"RunLimitsNotEnforced", "The builder knows nothing of RUN --timeout and --retry", "",
	"RUN %s has no effect: this builder runs the step once, for as long as it takes",
	"Build with dbuild's daemon, or remove the flags."}

// limit has the builder limit a command. One that runs our frontend as an image may not
// know how; then the build says so.
func (b *build) limit(in *instruction.Run, description map[string]string) {
	l := in.Limits
	l.Describe(description)
	other, ok := b.loader.bridge.(interface{ EnforcesLimits() bool })
	if !ok || other.EnforcesLimits() {
		return // we build it
	}
	switch {
	case l.Timeout > 0 && l.Retry > 0:
		b.lint.report(limitsNotEnforced, in.Pos, "--timeout, --retry")
	case l.Timeout > 0:
		b.lint.report(limitsNotEnforced, in.Pos, "--timeout")
	case l.Retry > 0:
		b.lint.report(limitsNotEnforced, in.Pos, "--retry")
	}
}
