package spec

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// capabilities are all names, in the order of their numbers in linux/capability.h.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// defaultMask is docker's set: chown, dac_override, fowner, fsetid, kill, setgid, setuid,
// setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const defaultMask = 0xa80425fb

// DefaultCapabilities are those of an ordinary step.
func DefaultCapabilities() []string { return names(defaultMask) }

// AllCapabilities are those that this process can give.
func AllCapabilities() []string { return names(boundingSet()) }

func names(mask uint64) []string {
	var list []string
	for i, name := range capabilities {
		if mask&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}

// boundingSet is what the kernel would let a child of this process have at most.
var boundingSet = sync.OnceValue(func() uint64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return defaultMask
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			if mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil {
				return mask
			}
		}
	}
	return defaultMask
})
