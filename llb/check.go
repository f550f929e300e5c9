package llb

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
)

var knownCaps = pb.Caps.CapSet(pb.Caps.All())

func capID(s string) apicaps.CapID { return apicaps.CapID(s) }

// maxPath is PATH_MAX of Linux: longer paths cannot be opened.
const maxPath = 4096

// check checks one op by itself and returns how many outputs it has.
func check(op *pb.Op) (outputs int, err error) {
	inputs := len(op.Inputs)
	switch k := op.Op.(type) {
	case *pb.Op_Source:
		return 1, checkSource(k.Source, inputs)
	case *pb.Op_Exec:
		return CheckExecOp(k.Exec, inputs)
	case *pb.Op_File:
		return checkFile(k.File, inputs)
	case *pb.Op_Build:
		return 1, checkBuild(k.Build, inputs)
	case *pb.Op_Merge:
		if k.Merge == nil || len(k.Merge.Inputs) == 0 {
			return 0, errors.New("a merge needs inputs")
		}
		for _, in := range k.Merge.Inputs {
			if in == nil || in.Input < 0 || in.Input >= int64(inputs) {
				return 0, fmt.Errorf("a merge of input %d of %d", in.GetInput(), inputs)
			}
		}
		return 1, nil
	case *pb.Op_Diff:
		if k.Diff == nil || k.Diff.Lower == nil || k.Diff.Upper == nil {
			return 0, errors.New("a diff needs a lower and an upper input")
		}
		for _, in := range []int64{k.Diff.Lower.Input, k.Diff.Upper.Input} {
			if in < int64(pb.Empty) || in >= int64(inputs) {
				return 0, fmt.Errorf("a diff of input %d of %d", in, inputs)
			}
		}
		return 1, nil
	case *pb.Op_Passthrough:
		if k.Passthrough == nil || len(k.Passthrough.Outputs) == 0 {
			return 0, errors.New("a passthrough needs outputs")
		}
		for _, in := range k.Passthrough.Outputs {
			if in < 0 || in >= int64(inputs) {
				return 0, fmt.Errorf("a passthrough of input %d of %d", in, inputs)
			}
		}
		return len(k.Passthrough.Outputs), nil
	}
	return 0, errors.New("this builder does not know this kind of operation")
}

func checkSource(op *pb.SourceOp, inputs int) error {
	if op == nil || !strings.Contains(op.Identifier, "://") {
		return fmt.Errorf("a source needs an identifier such as docker-image://name, not %q", op.GetIdentifier())
	}
	if inputs != 0 {
		return errors.New("a source cannot have inputs")
	}
	return nil
}

func checkBuild(op *pb.BuildOp, inputs int) error {
	if op == nil {
		return errors.New("a nested build is empty")
	}
	if op.Builder < int64(pb.LLBBuilder) || op.Builder >= int64(inputs) {
		return fmt.Errorf("a nested build by input %d of %d", op.Builder, inputs)
	}
	for key, in := range op.Inputs {
		if in == nil || in.Input < 0 || in.Input >= int64(inputs) {
			return fmt.Errorf("a nested build reads input %d of %d as %q", in.GetInput(), inputs, key)
		}
	}
	return nil
}

// CheckExecOp says what is wrong with a process that has so many inputs, wherever it comes
// from, and how many outputs it has.
func CheckExecOp(op *pb.ExecOp, inputs int) (outputs int, _ error) {
	if op == nil {
		return 0, errors.New("a process is empty")
	}
	if err := CheckMeta(op.Meta); err != nil {
		return 0, err
	}
	if pb.NetMode_name[int32(op.Network)] == "" {
		return 0, fmt.Errorf("invalid network mode %d: this builder does not know it", op.Network)
	}
	if pb.SecurityMode_name[int32(op.Security)] == "" {
		return 0, fmt.Errorf("invalid security mode %d: this builder does not know it", op.Security)
	}
	for _, s := range op.Secretenv {
		if s == nil || s.Name == "" || strings.ContainsAny(s.Name, "=\x00") {
			return 0, fmt.Errorf("a secret cannot be an environment variable named %q", s.GetName())
		}
	}
	for _, d := range op.CdiDevices {
		if d == nil {
			return 0, errors.New("a device is empty")
		}
	}
	hasRoot := false
	seen := make([]bool, len(op.Mounts))
	for _, m := range op.Mounts {
		if err := checkMount(m, inputs); err != nil {
			return 0, err
		}
		hasRoot = hasRoot || m.Dest == pb.RootMount
		// Mounts of other kinds have no output, whatever they say: clients leave the
		// field of secrets zero.
		if m.MountType != pb.MountType_BIND || m.Output == int64(pb.SkipOutput) {
			continue
		}
		if m.Output < 0 || m.Output >= int64(len(seen)) || seen[m.Output] {
			return 0, fmt.Errorf("the mount at %s cannot be output %d", m.Dest, m.Output)
		}
		seen[m.Output] = true
		outputs++
	}
	if !hasRoot {
		return 0, errors.New("a process needs a root filesystem: no mount is at /")
	}
	for i := range outputs {
		if !seen[i] {
			return 0, fmt.Errorf("a process has %d outputs, but none is number %d", outputs, i)
		}
	}
	return outputs, nil
}

// CheckMeta says what is wrong with the description of a process.
func CheckMeta(m *pb.Meta) error {
	if m == nil || len(m.Args) == 0 {
		return errors.New("a process needs arguments")
	}
	if err := checkPath("the working directory", m.Cwd); err != nil {
		return err
	}
	for _, list := range [][]string{m.Args, m.Env} {
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return errors.New("arguments and environment of a process cannot contain zero bytes")
			}
		}
	}
	for _, h := range m.ExtraHosts {
		if h == nil || h.Host == "" {
			return errors.New("a host needs a name")
		}
	}
	for _, u := range m.Ulimit {
		if u == nil || u.Name == "" {
			return errors.New("a resource limit needs a name")
		}
	}
	return nil
}

func checkMount(m *pb.Mount, inputs int) error {
	if m == nil || m.Dest == "" {
		return errors.New("a mount needs a destination")
	}
	if err := checkPath("a mount's destination", m.Dest); err != nil {
		return err
	}
	if err := checkPath("a mount's source path", m.Selector); err != nil {
		return err
	}
	if m.Input < int64(pb.Empty) || m.Input >= int64(inputs) {
		return fmt.Errorf("the mount at %s is of input %d of %d", m.Dest, m.Input, inputs)
	}
	if pb.MountContentCache_name[int32(m.ContentCache)] == "" {
		return fmt.Errorf("the mount at %s has content cache mode %d, which this builder does not know", m.Dest, m.ContentCache)
	}
	switch m.MountType {
	case pb.MountType_BIND, pb.MountType_TMPFS:
	case pb.MountType_CACHE:
		if m.CacheOpt == nil {
			return fmt.Errorf("the cache mount at %s has no options", m.Dest)
		}
		if pb.CacheSharingOpt_name[int32(m.CacheOpt.Sharing)] == "" {
			return fmt.Errorf("the cache mount at %s has sharing mode %d, which this builder does not know", m.Dest, m.CacheOpt.Sharing)
		}
	case pb.MountType_SECRET:
		if m.SecretOpt == nil {
			return fmt.Errorf("the secret at %s has no options", m.Dest)
		}
	case pb.MountType_SSH:
		if m.SSHOpt == nil {
			return fmt.Errorf("the ssh socket at %s has no options", m.Dest)
		}
	default:
		return fmt.Errorf("the mount at %s has type %d, which this builder does not know", m.Dest, m.MountType)
	}
	return nil
}

func checkFile(op *pb.FileOp, inputs int) (outputs int, _ error) {
	if op == nil || len(op.Actions) == 0 {
		return 0, errors.New("a file operation needs actions")
	}
	seen := make([]bool, len(op.Actions))
	for i, a := range op.Actions {
		if a == nil {
			return 0, fmt.Errorf("file action %d is empty", i)
		}
		// An action may read the inputs of the op and the results of actions before it.
		known := int64(inputs + i)
		for _, in := range []int64{a.Input, a.SecondaryInput} {
			if in < int64(pb.Empty) || in >= known {
				return 0, fmt.Errorf("file action %d reads input %d, but only %d are there by then", i, in, known)
			}
		}
		if err := checkAction(a, known); err != nil {
			return 0, fmt.Errorf("file action %d: %w", i, err)
		}
		if a.Output == int64(pb.SkipOutput) {
			continue
		}
		if a.Output < 0 || a.Output >= int64(len(seen)) || seen[a.Output] {
			return 0, fmt.Errorf("file action %d cannot be output %d", i, a.Output)
		}
		seen[a.Output] = true
		outputs++
	}
	if outputs == 0 {
		return 0, errors.New("a file operation needs an output")
	}
	for i := range outputs {
		if !seen[i] {
			return 0, fmt.Errorf("a file operation has %d outputs, but none is number %d", outputs, i)
		}
	}
	return outputs, nil
}

func checkAction(a *pb.FileAction, inputs int64) error {
	var owner *pb.ChownOpt
	var paths []string
	switch k := a.Action.(type) {
	case *pb.FileAction_Copy:
		if k.Copy == nil {
			return errors.New("a copy is empty")
		}
		if k.Copy.Mode < -1 {
			return fmt.Errorf("%d is not a file mode", k.Copy.Mode)
		}
		owner, paths = k.Copy.Owner, []string{k.Copy.Src, k.Copy.Dest}
	case *pb.FileAction_Mkfile:
		if k.Mkfile == nil {
			return errors.New("a new file is empty")
		}
		owner, paths = k.Mkfile.Owner, []string{k.Mkfile.Path}
	case *pb.FileAction_Mkdir:
		if k.Mkdir == nil {
			return errors.New("a new directory is empty")
		}
		owner, paths = k.Mkdir.Owner, []string{k.Mkdir.Path}
	case *pb.FileAction_Rm:
		if k.Rm == nil {
			return errors.New("a removal is empty")
		}
		paths = []string{k.Rm.Path}
	case *pb.FileAction_Symlink:
		if k.Symlink == nil || k.Symlink.Oldpath == "" {
			return errors.New("a link needs something to point to")
		}
		owner, paths = k.Symlink.Owner, []string{k.Symlink.Oldpath, k.Symlink.Newpath}
	default:
		return errors.New("this builder does not know this kind of file action")
	}
	for _, p := range paths {
		if err := checkPath("a path", p); err != nil {
			return err
		}
	}
	for _, u := range []*pb.UserOpt{owner.GetUser(), owner.GetGroup()} {
		byName, ok := u.GetUser().(*pb.UserOpt_ByName)
		if !ok {
			continue
		}
		if byName.ByName == nil || byName.ByName.Name == "" {
			return errors.New("an owner has no name")
		}
		if in := byName.ByName.Input; in < int64(pb.Empty) || in >= inputs {
			return fmt.Errorf("owner %q is looked up in input %d, but only %d are there by then", byName.ByName.Name, in, inputs)
		}
	}
	return nil
}

func checkPath(what, p string) error {
	if len(p) > maxPath {
		return fmt.Errorf("%s is longer than %d bytes", what, maxPath)
	}
	if strings.ContainsRune(p, 0) {
		return fmt.Errorf("%s contains a zero byte: %q", what, p)
	}
	return nil
}
