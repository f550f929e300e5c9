package instruction

import (
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/dbuild/dbuild/llb"
)

// A File is a parsed Dockerfile.
type File struct {
	Global   []*Arg // ARG instructions before the first FROM
	Stages   []*Stage
	Escape   rune // the escape character, `\` unless a directive says otherwise
	Dialect  Dialect
	Warnings []parser.Warning
	Sources  []*Source // the Dockerfile and, in the order in which they are first included, fragments
}

// A Stage is a FROM and what follows it, up to the next FROM.
type Stage struct {
	From *From
	Body []Instruction
}

// An Instruction is one of the pointer types of this package.
type Instruction interface {
	// At says where the instruction stands. The result is shared: it must not be changed.
	At() *Pos
}

// A Pos is an instruction's place in the source and how it was written there.
type Pos struct {
	Keyword  string // as written, so perhaps in lower case
	Source   string // the whole instruction with continuation lines joined, without heredocs
	Ranges   []parser.Range
	Comments []string // the comment lines right above
}

// At implements Instruction.
func (p *Pos) At() *Pos { return p }

// Line is the first line of the instruction, counted from one.
func (p *Pos) Line() int {
	if len(p.Ranges) == 0 {
		return 0
	}
	return p.Ranges[0].Start.Line
}

// A KeyValue is one assignment of ENV or LABEL. Legacy says that it was written
// "KEY VALUE", without an equals sign.
type KeyValue struct {
	Key, Value string
	Legacy     bool
}

// An ArgValue is one declaration of ARG; Default is nil for a bare name.
type ArgValue struct {
	Key     string
	Default *string
	Doc     string // the comment above that begins with the name
}

// A CommandLine is the operand of RUN, CMD and ENTRYPOINT. In shell form (Shell true)
// Args has one element, the text for the shell, or none.
type CommandLine struct {
	Args  []string
	Shell bool
}

// A Heredoc is an inline document. Data has its leading tabs still, even if Chomp is set.
type Heredoc struct {
	Name   string
	Data   string
	Expand bool
	Chomp  bool
}

// From begins a stage. Name is in lower case, or empty; Written is as it was written,
// behind the keyword As.
type From struct {
	*Pos
	Base     string
	Name     string
	Written  string
	As       string
	Platform string
	Reset    []Reset // what is not inherited of Base's config
	Doc      string  // the comment above that begins with the name
}

// Arg declares build arguments.
type Arg struct {
	*Pos
	Args []ArgValue
}

// Env sets environment variables.
type Env struct {
	*Pos
	Vars []KeyValue
}

// Label sets labels of the image.
type Label struct {
	*Pos
	Labels []KeyValue
}

// Maintainer sets the image's author.
type Maintainer struct {
	*Pos
	Name string
}

// Run runs a command. Mounts and Devices are unparsed: a mount may hold variables, see ParseMount.
type Run struct {
	*Pos
	CommandLine
	Heredocs []Heredoc
	Mounts   []string
	From     []string // for each mount, the stage or image it reads; "" for none
	Context  bool     // a mount reads, or with its variables may read, the build context
	Network  string   // "default", "none" or "host"
	Security string   // "sandbox" or "insecure"
	Devices  []Device
	Limits   llb.RunLimits
	Fresh    llb.Freshness
}

// A Device is a CDI device that a RUN asks for.
type Device struct {
	Name     string
	Required bool
}

// A Transfer is what COPY and ADD have in common. Documents are inline sources; in a
// source list they come after Sources.
type Transfer struct {
	Sources   []string
	Optional  []bool // of Sources, by index: it need not be there; nil for none
	When      string // if not empty, what must come to something true for anything to be done
	Documents []Heredoc
	Dest      string
	Chown     string
	Chmod     string
	Link      bool
	Exclude   []string
}

// Copy copies files from the context, a stage, an image or a named context.
type Copy struct {
	*Pos
	Transfer
	From    string
	Parents bool
}

// Add copies like Copy, and also fetches URLs and git repositories and unpacks archives.
type Add struct {
	*Pos
	Transfer
	Checksum   string
	KeepGitDir *bool
	Unpack     *bool
}

// Workdir sets, and makes, the working directory.
type Workdir struct {
	*Pos
	Path string
}

// User sets the user, and perhaps the group, of following commands.
type User struct {
	*Pos
	Name string
}

// Shell sets the shell of the shell form.
type Shell struct {
	*Pos
	Args []string
}

// Cmd sets the default command.
type Cmd struct {
	*Pos
	CommandLine
}

// Entrypoint sets the entry point.
type Entrypoint struct {
	*Pos
	CommandLine
}

// Expose documents ports. Ports are sorted and may hold variables.
type Expose struct {
	*Pos
	Ports []string
}

// Volume declares volumes.
type Volume struct {
	*Pos
	Paths []string
}

// StopSignal sets the signal that stops the container.
type StopSignal struct {
	*Pos
	Signal string
}

// Healthcheck sets or, with Test "NONE", removes the health check. Zero durations and
// retries mean the runtime's default.
type Healthcheck struct {
	*Pos
	Test          []string
	Interval      time.Duration
	Timeout       time.Duration
	StartPeriod   time.Duration
	StartInterval time.Duration
	Retries       int
}

// OnBuild records an instruction, as text, for the images built from this one.
type OnBuild struct {
	*Pos
	Trigger string
}
