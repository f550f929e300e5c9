package dockerfile

// A rule is a build check. Its name is what users write to skip it; why and text are what
// clients compare and translate, so they are part of the protocol.
type rule struct {
	name, why, page string
	text            string // what a finding says, a format
	fix             string // what to do about it: ours, and no part of the protocol
}

// url is the rule's page in Docker's documentation.
func (r rule) url() string {
	if r.page == "" {
		return ""
	}
	return "https://docs.docker.com/go/dockerfile/rule/" + r.page + "/"
}

var (
	stageNameCasing = rule{"StageNameCasing", "Stage names should be lowercase", "stage-name-casing",
		"Stage name '%s' should be lowercase",
		"Write the name in lower case, here and where it is used."}
	fromAsCasing = rule{"FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword", "from-as-casing",
		"'%s' and '%s' keywords' casing do not match",
		"Write FROM and AS both in upper case, or both in lower case."}
	noEmptyContinuation = rule{"NoEmptyContinuation", "Empty continuation lines will become errors in a future release", "no-empty-continuation",
		"Empty continuation line",
		"Take the empty line out, or put a comment there."}
	consistentCasing = rule{"ConsistentInstructionCasing", "All commands within the Dockerfile should use the same casing (either upper or lower)", "consistent-instruction-casing",
		"Command '%s' should match the case of the command majority (%s)",
		"Write all instructions in the case that most of them have."}
	duplicateStageName = rule{"DuplicateStageName", "Stage names should be unique", "duplicate-stage-name",
		"Duplicate stage name %q, stage names should be unique",
		"Give one of the stages another name: whoever uses this one gets the last of them."}
	reservedStageName = rule{"ReservedStageName", "Reserved words should not be used as stage names", "reserved-stage-name",
		"Stage name should not use the same name as reserved stage %q",
		"Choose another name: this one already means something to the builder."}
	jsonArgsRecommended = rule{"JSONArgsRecommended", "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals", "json-args-recommended",
		"JSON arguments recommended for %s to prevent unintended behavior related to OS signals",
		"Write the command as a list, [\"program\", \"argument\"]: the shell between does not pass signals on."}
	maintainerDeprecated = rule{"MaintainerDeprecated", "The MAINTAINER instruction is deprecated, use a label instead to define an image author", "maintainer-deprecated",
		"Maintainer instruction is deprecated in favor of using label",
		"Say it in a label: LABEL org.opencontainers.image.authors=\"...\"."}
	undefinedArgInFrom = rule{"UndefinedArgInFrom", "FROM command must use declared ARGs", "undefined-arg-in-from",
		"FROM argument '%s' is not declared",
		"Declare it with ARG before the first FROM, or correct its name."}
	workdirRelativePath = rule{"WorkdirRelativePath", "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes", "workdir-relative-path",
		"Relative workdir %q can have unexpected results if the base image changes",
		"Begin the path with a slash, so that it does not depend on the base."}
	undefinedVar = rule{"UndefinedVar", "Variables should be defined before their use", "undefined-var",
		"Usage of undefined variable '$%s'",
		"Declare it with ARG or ENV in this stage, or correct its name; it is empty now."}
	multipleInstructions = rule{"MultipleInstructionsDisallowed", "Multiple instructions of the same type should not be used in the same stage", "multiple-instructions-disallowed",
		"Multiple %s instructions should not be used in the same stage because only the last one will be used",
		"Keep the last one and remove the others."}
	legacyKeyValue = rule{"LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used", "legacy-key-value-format",
		"\"%[1]s key=value\" should be used instead of legacy \"%[1]s key value\" format",
		"Put = between the name and the value."}
	invalidBasePlatform = rule{"InvalidBaseImagePlatform", "Base image platform does not match expected target platform", "",
		"Base image %s was pulled with platform %q, expected %q for current build",
		"Choose a base that is made for this platform, or name its own with FROM --platform."}
	redundantPlatform = rule{"RedundantTargetPlatform", "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior", "redundant-target-platform",
		"Setting platform to predefined %s in FROM is redundant as this is the default behavior",
		"Remove the flag: the target platform is what FROM takes anyway."}
	secretsInArgOrEnv = rule{"SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands", "secrets-used-in-arg-or-env",
		"Do not use ARG or ENV instructions for sensitive data (%s %q)",
		"Lend it with RUN --mount=type=secret: what ARG and ENV hold can be read from the image."}
	invalidDefaultInFrom = rule{"InvalidDefaultArgInFrom", "Default value for global ARG results in an empty or invalid base image name", "invalid-default-arg-in-from",
		"Default value for ARG %s results in empty or invalid base image name",
		"Give the ARG a default with which the name makes sense."}
	constPlatform = rule{"FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value", "from-platform-flag-const-disallowed",
		"FROM --platform flag should not use constant value %q",
		"Leave the platform to whoever builds, or name the stage after the one it needs."}
	copyIgnoredFile = rule{"CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore", "copy-ignored-file",
		"Attempting to %s file %q that is excluded by .dockerignore",
		"Take the file out of the ignore file (\"dbuild context why FILE\" names the line), or do not copy it."}
	invalidDescription = rule{"InvalidDefinitionDescription", "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.", "invalid-definition-description",
		"Comment for %s should follow the format: `# %s <description>`",
		"Begin the comment with the name that it describes, or put an empty line below it."}
	exposeProtoCasing = rule{"ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase", "expose-proto-casing",
		"Defined protocol '%s' in EXPOSE instruction should be lowercase",
		"Write the protocol in lower case."}
	exposeInvalidFormat = rule{"ExposeInvalidFormat", "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release", "expose-invalid-format",
		"EXPOSE instruction should not define an IP address or host-port mapping, found '%s'",
		"Name the port of the container only: whoever runs it chooses the address and the port of the host."}

	experimentalRuleNames = []string{invalidDescription.name}
)
