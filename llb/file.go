package llb

import (
	"errors"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
)

// A FileAction is one step of a File op: a Mkdir, Mkfile, Symlink, Rm or Copy. Paths
// are absolute or relative to the root.
type FileAction interface {
	// action makes the wire form. base is the index of the op's base input, for names
	// of users; source is that of the action's own source.
	action(base int64) pb.IsFileAction
	source() Output
	caps(*node)
}

// An Owner says who owns what an action makes. A nil User or Group leaves that of the
// source, or root for what has none.
type Owner struct{ User, Group *User }

// A User is a name, looked up in the op's base, or a number if Name is empty.
type User struct {
	Name string
	ID   uint32
}

// ParseOwner reads "user[:group]", each a number or a name; root is 0.
func ParseOwner(s string) *Owner {
	user, group, both := strings.Cut(s, ":")
	o := &Owner{User: parseUser(user)}
	if both {
		o.Group = parseUser(group)
	}
	return o
}

func parseUser(s string) *User {
	if s == "root" {
		return &User{}
	}
	if id, err := strconv.ParseInt(s, 10, 32); err == nil {
		return &User{ID: uint32(id)}
	}
	return &User{Name: s}
}

// IDs is the owner with these numbers.
func IDs(uid, gid uint32) *Owner { return &Owner{User: &User{ID: uid}, Group: &User{ID: gid}} }

// Mkdir makes a directory. One that exists is left as it is.
type Mkdir struct {
	Path    string
	Mode    uint32 // permission bits
	Parents bool   // make missing parents too
	Owner   *Owner
	Created *time.Time // the time of modification; nil is now
}

// Mkfile writes a file, replacing what is there.
type Mkfile struct {
	Path    string
	Mode    uint32 // permission bits
	Data    []byte
	Owner   *Owner
	Created *time.Time
}

// Symlink makes the link New, which points to Old.
type Symlink struct {
	Old, New string
	Owner    *Owner
	Created  *time.Time
}

// Rm removes a file or a whole directory.
type Rm struct {
	Path          string
	AllowNotFound bool
	AllowWildcard bool
}

// A Mode is the permissions that a copy gives. The zero Mode is mode 0, as on the wire.
type Mode struct {
	Bits     int32  // -1 keeps those of the source
	Symbolic string // chmod's language, such as "u+x,go-w"; overrides Bits
}

// KeepMode keeps the permissions of the source.
var KeepMode = Mode{Bits: -1}

// Copy copies Src of From to Dest. The final slash of Dest matters: with it, Dest is a
// directory that receives the sources.
type Copy struct {
	From      Output
	Src, Dest string
	Mode      Mode
	Owner     *Owner
	Created   *time.Time // nil keeps the times of the source

	Include, Exclude []string // patterns, as in .dockerignore
	RequiredPaths    []string // must be among what Include selects

	FollowSymlinks     bool // if Src is a link, copy what it points to
	ContentsOnly       bool // of a directory, copy the content and not itself
	AttemptUnpack      bool // unpack local archives, as ADD does
	CreateDestPath     bool // make the parents of Dest
	AllowWildcard      bool
	AllowEmptyWildcard bool
	ReplaceExisting    bool // what is in the way and of another type is replaced
}

// File carries out actions, one after the other, on top of base.
func File(base Output, actions []FileAction, m Meta) Output {
	n := &node{meta: m}
	n.use(base)
	n.inherit(base)
	n.addCap(pb.CapFileBase)
	for _, a := range actions {
		if a == nil {
			n.err = errors.New("a file operation has an empty action")
			return Output{node: n}
		}
		n.use(a.source())
		a.caps(n)
	}
	if len(actions) == 0 {
		n.err = errors.New("a file operation needs actions")
	}
	n.op = func(in func(Output) int64) *pb.Op {
		op := &pb.FileOp{}
		baseIndex := in(base)
		sources := make([]int64, len(actions))
		inputs := baseIndex + 1 // how many inputs the op has
		for i, a := range actions {
			sources[i] = in(a.source())
			inputs = max(inputs, sources[i]+1)
		}
		for i, a := range actions {
			input, output := baseIndex, int64(pb.SkipOutput)
			if i > 0 {
				input = inputs + int64(i-1) // the result of the action before
			}
			if i == len(actions)-1 {
				output = 0
			}
			op.Actions = append(op.Actions, &pb.FileAction{
				Input:          input,
				SecondaryInput: sources[i],
				Output:         output,
				Action:         a.action(baseIndex),
			})
		}
		return &pb.Op{Op: &pb.Op_File{File: op}}
	}
	return Output{node: n}
}

func (a Mkdir) source() Output   { return Output{} }
func (a Mkfile) source() Output  { return Output{} }
func (a Symlink) source() Output { return Output{} }
func (a Rm) source() Output      { return Output{} }
func (a Copy) source() Output    { return a.From }

func (a Mkdir) caps(*node)     {}
func (a Mkfile) caps(*node)    {}
func (a Symlink) caps(n *node) { n.addCap(pb.CapFileSymlinkCreate) }
func (a Rm) caps(n *node) {
	if a.AllowWildcard {
		n.addCap(pb.CapFileRmWildcard)
	}
}

func (a Copy) caps(n *node) {
	if len(a.Include)+len(a.Exclude) > 0 {
		n.addCap(pb.CapFileCopyIncludeExcludePatterns)
	}
	if len(a.RequiredPaths) > 0 {
		n.addCap(pb.CapFileCopyRequiredPaths)
	}
	if a.ReplaceExisting {
		n.addCap(pb.CapFileCopyAlwaysReplaceExistingDestPaths)
	}
	// There is pb.CapFileCopyModeStringFormat too, but no daemon announces it.
}

func (a Mkdir) action(base int64) pb.IsFileAction {
	return &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{
		Path: absolute(a.Path, false), Mode: int32(a.Mode & 0o777), MakeParents: a.Parents,
		Owner: a.Owner.pb(base), Timestamp: nanoseconds(a.Created),
	}}
}

func (a Mkfile) action(base int64) pb.IsFileAction {
	return &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{
		Path: absolute(a.Path, false), Mode: int32(a.Mode & 0o777), Data: a.Data,
		Owner: a.Owner.pb(base), Timestamp: nanoseconds(a.Created),
	}}
}

func (a Symlink) action(base int64) pb.IsFileAction {
	return &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{
		Oldpath: a.Old, Newpath: a.New, Owner: a.Owner.pb(base), Timestamp: nanoseconds(a.Created),
	}}
}

func (a Rm) action(int64) pb.IsFileAction {
	return &pb.FileAction_Rm{Rm: &pb.FileActionRm{
		Path: absolute(a.Path, false), AllowNotFound: a.AllowNotFound, AllowWildcard: a.AllowWildcard,
	}}
}

func (a Copy) action(base int64) pb.IsFileAction {
	c := &pb.FileActionCopy{
		Src:                              path.Join("/", a.Src),
		Dest:                             absolute(a.Dest, true),
		Owner:                            a.Owner.pb(base),
		Mode:                             a.Mode.Bits,
		FollowSymlink:                    a.FollowSymlinks,
		DirCopyContents:                  a.ContentsOnly,
		AttemptUnpackDockerCompatibility: a.AttemptUnpack,
		CreateDestPath:                   a.CreateDestPath,
		AllowWildcard:                    a.AllowWildcard,
		AllowEmptyWildcard:               a.AllowEmptyWildcard,
		Timestamp:                        nanoseconds(a.Created),
		IncludePatterns:                  a.Include,
		ExcludePatterns:                  a.Exclude,
		AlwaysReplaceExistingDestPaths:   a.ReplaceExisting,
		RequiredPaths:                    a.RequiredPaths,
	}
	if a.Mode.Symbolic != "" {
		c.Mode, c.ModeStr = 0, a.Mode.Symbolic
	}
	return &pb.FileAction_Copy{Copy: c}
}

func (o *Owner) pb(base int64) *pb.ChownOpt {
	if o == nil {
		return nil
	}
	return &pb.ChownOpt{User: o.User.pb(base), Group: o.Group.pb(base)}
}

func (u *User) pb(base int64) *pb.UserOpt {
	if u == nil {
		return nil
	}
	if u.Name != "" {
		return &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: u.Name, Input: base}}}
	}
	return &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: u.ID}}
}

func nanoseconds(t *time.Time) int64 {
	if t == nil {
		return -1
	}
	return t.UnixNano()
}

// absolute cleans p, keeping a final "/" or "/." if asked: a copy's destination that
// has one is a directory.
func absolute(p string, keepEnd bool) string {
	out := path.Join("/", p)
	if !keepEnd {
		return out
	}
	switch {
	case strings.HasSuffix(p, "/") && out != "/":
		out += "/"
	case strings.HasSuffix(p, "/."):
		if out != "/" {
			out += "/"
		}
		out += "."
	}
	return out
}
