//go:build cgo && seccomp

package launcher

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// SeccompVersion is the version of libseccomp, empty if this program was built without.
func SeccompVersion() string {
	major, minor, micro := libseccomp.GetLibraryVersion()
	return fmt.Sprintf("%d.%d.%d", major, minor, micro)
}

// compileFilter turns a profile into a filter with the meaning that libcontainer gives
// it: names the library does not know are left out, and system calls newer than all in
// the profile fail with ENOSYS, so that programs use older ones instead.
func compileFilter(profile *specs.LinuxSeccomp) (*filter, error) {
	if profile.ListenerPath != "" {
		return nil, fmt.Errorf("profiles with a listener are not supported")
	}
	config, err := specconv.SetupSeccomp(profile)
	if err != nil {
		return nil, err
	}
	defaultAction, err := scmpAction(config.DefaultAction, config.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	scmp, err := libseccomp.NewFilter(defaultAction)
	if err != nil {
		return nil, err
	}
	defer scmp.Release()
	arches, err := addArches(scmp, config.Architectures)
	if err != nil {
		return nil, err
	}
	if len(config.Syscalls) > 32 {
		_ = scmp.SetOptimize(2) // a binary tree, where the library can
	}
	for _, call := range config.Syscalls {
		if err := addRule(scmp, call, defaultAction); err != nil {
			return nil, fmt.Errorf("%s: %w", call.Name, err)
		}
	}
	program, err := export(scmp)
	if err != nil {
		return nil, err
	}
	if !allows(config.DefaultAction) {
		stub, err := unknownCalls(config, arches)
		if err != nil {
			return nil, err
		}
		program = append(stub, program...)
	}
	if len(program) > maxInstructions*instructionSize {
		return nil, fmt.Errorf("filter too long: %d instructions", len(program)/instructionSize)
	}
	f := &filter{program: program}
	for _, flag := range config.Flags {
		switch flag {
		case specs.LinuxSeccompFlagLog:
			f.flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			f.flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		}
	}
	return f, nil
}

// addArches adds the architectures to the filter and returns all it has.
func addArches(scmp *libseccomp.ScmpFilter, names []string) ([]libseccomp.ScmpArch, error) {
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		return nil, err
	}
	arches := []libseccomp.ScmpArch{native}
	for _, name := range names {
		arch, err := libseccomp.GetArchFromString(name)
		if err != nil {
			return nil, err
		}
		if err := scmp.AddArch(arch); err != nil {
			return nil, err
		}
		if !slices.Contains(arches, arch) {
			arches = append(arches, arch)
		}
	}
	return arches, nil
}

func addRule(scmp *libseccomp.ScmpFilter, call *configs.Syscall, defaultAction libseccomp.ScmpAction) error {
	action, err := scmpAction(call.Action, call.ErrnoRet)
	if err != nil || action == defaultAction {
		return err
	}
	number, err := libseccomp.GetSyscallFromName(call.Name)
	if err != nil {
		return nil // not known to this library: the default action applies
	}
	if len(call.Args) == 0 {
		return scmp.AddRule(number, action)
	}
	var conditions []libseccomp.ScmpCondition
	seen := make(map[uint]bool)
	repeated := false
	for _, arg := range call.Args {
		op, err := scmpOperator(arg.Op)
		if err != nil {
			return err
		}
		c, err := libseccomp.MakeCondition(arg.Index, op, arg.Value, arg.ValueTwo)
		if err != nil {
			return err
		}
		repeated = repeated || seen[arg.Index]
		seen[arg.Index] = true
		conditions = append(conditions, c)
	}
	if !repeated {
		return scmp.AddRuleConditional(number, action, conditions)
	}
	// Conditions on the same argument are alternatives.
	for _, c := range conditions {
		if err := scmp.AddRuleConditional(number, action, []libseccomp.ScmpCondition{c}); err != nil {
			return err
		}
	}
	return nil
}

// export returns the filter's program as the kernel takes it.
func export(scmp *libseccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("filter", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "filter")
	defer file.Close()
	if err := scmp.ExportBPF(file); err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	program := make([]byte, info.Size())
	if _, err := file.ReadAt(program, 0); err != nil {
		return nil, err
	}
	return program, nil
}

// unknownCalls returns the instructions that precede the filter: a system call whose
// number is above all that the profile names for its architecture returns ENOSYS.
func unknownCalls(config *configs.Seccomp, arches []libseccomp.ScmpArch) ([]byte, error) {
	const (
		offsetNumber, offsetArch = 0, 4
		x32Bit                   = 1 << 30
	)
	enosys := uint32(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))

	type limits struct{ number, x32 uint32 }
	byArch := make(map[uint32]*limits)
	var order []uint32
	for _, arch := range arches {
		audit, ok := auditArch[arch]
		if !ok {
			continue // libseccomp's own answer to the architecture applies
		}
		last := int32(-1)
		for _, call := range config.Syscalls {
			if n, err := libseccomp.GetSyscallFromNameByArch(call.Name, arch); err == nil {
				last = max(last, int32(n))
			}
		}
		if last < 0 {
			continue
		}
		l := byArch[audit]
		if l == nil {
			l = new(limits)
			byArch[audit] = l
			order = append(order, audit)
		}
		if arch == libseccomp.ArchX32 {
			l.x32 = uint32(last)
		} else {
			l.number = uint32(last)
		}
	}

	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offsetArch, Size: 4}}
	for _, audit := range order {
		l := byArch[audit]
		section := []bpf.Instruction{bpf.LoadAbsolute{Off: offsetNumber, Size: 4}}
		if audit == unix.AUDIT_ARCH_X86_64 {
			// The numbers of x32 have a bit of their own above all others.
			section = append(section, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32Bit, SkipTrue: 2})
			section = append(section, returnAbove(l.number, enosys)...)
			if l.x32 != 0 {
				section[1] = bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32Bit, SkipTrue: 3}
				section = append(section, bpf.Jump{Skip: 2})
				section = append(section, returnAbove(l.x32, enosys)...)
			}
		} else {
			section = append(section, returnAbove(l.number, enosys)...)
		}
		// The number has replaced the architecture: load that again for the next test.
		section = append(section, bpf.LoadAbsolute{Off: offsetArch, Size: 4})
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: audit, SkipTrue: uint8(len(section))})
		program = append(program, section...)
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	for _, in := range raw {
		if err := binary.Write(&buf, binary.NativeEndian, unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), nil
}

// returnAbove is two instructions: numbers above last return value.
func returnAbove(last, value uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: last, SkipTrue: 1},
		bpf.RetConstant{Val: value},
	}
}

// auditArch is the kernel's name for an architecture of libseccomp, which tells x32
// from x86_64 where the kernel does not.
var auditArch = map[libseccomp.ScmpArch]uint32{
	libseccomp.ArchX86:         unix.AUDIT_ARCH_I386,
	libseccomp.ArchAMD64:       unix.AUDIT_ARCH_X86_64,
	libseccomp.ArchX32:         unix.AUDIT_ARCH_X86_64,
	libseccomp.ArchARM:         unix.AUDIT_ARCH_ARM,
	libseccomp.ArchARM64:       unix.AUDIT_ARCH_AARCH64,
	libseccomp.ArchPPC64LE:     unix.AUDIT_ARCH_PPC64LE,
	libseccomp.ArchRISCV64:     unix.AUDIT_ARCH_RISCV64,
	libseccomp.ArchLOONGARCH64: unix.AUDIT_ARCH_LOONGARCH64,
}

func allows(a configs.Action) bool {
	return a == configs.Allow || a == configs.Log || a == configs.Trace
}

func scmpAction(a configs.Action, errno *uint) (libseccomp.ScmpAction, error) {
	code := int16(unix.EPERM)
	if errno != nil {
		code = int16(*errno)
	}
	switch a {
	case configs.Kill, configs.KillThread:
		return libseccomp.ActKillThread, nil
	case configs.KillProcess:
		return libseccomp.ActKillProcess, nil
	case configs.Errno:
		return libseccomp.ActErrno.SetReturnCode(code), nil
	case configs.Trace:
		return libseccomp.ActTrace.SetReturnCode(code), nil
	case configs.Trap:
		return libseccomp.ActTrap, nil
	case configs.Allow:
		return libseccomp.ActAllow, nil
	case configs.Log:
		return libseccomp.ActLog, nil
	}
	return libseccomp.ActInvalid, fmt.Errorf("action not supported")
}

func scmpOperator(op configs.Operator) (libseccomp.ScmpCompareOp, error) {
	switch op {
	case configs.EqualTo:
		return libseccomp.CompareEqual, nil
	case configs.NotEqualTo:
		return libseccomp.CompareNotEqual, nil
	case configs.GreaterThan:
		return libseccomp.CompareGreater, nil
	case configs.GreaterThanOrEqualTo:
		return libseccomp.CompareGreaterEqual, nil
	case configs.LessThan:
		return libseccomp.CompareLess, nil
	case configs.LessThanOrEqualTo:
		return libseccomp.CompareLessOrEqual, nil
	case configs.MaskEqualTo:
		return libseccomp.CompareMaskedEqual, nil
	}
	return libseccomp.CompareInvalid, fmt.Errorf("operator not supported")
}
