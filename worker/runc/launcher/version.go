package launcher

import (
	"bytes"
	"debug/buildinfo"
	"runtime/debug"
)

// RuncVersion is the version of runc in program, the content of an executable, or in this
// program if that is nil. It is "unknown" if there is none.
func RuncVersion(program []byte) string {
	var info *debug.BuildInfo
	var err error
	if program == nil {
		info, _ = debug.ReadBuildInfo()
	} else if info, err = buildinfo.Read(bytes.NewReader(program)); err != nil {
		return "unknown"
	}
	if info == nil {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/opencontainers/runc" {
			return m.Version
		}
	}
	return "unknown"
}
