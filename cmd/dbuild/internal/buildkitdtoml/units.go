package buildkitdtoml

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
)

// duration is written as text that Go reads ("48h"), or as a number of seconds.
type duration struct{ time.Duration }

func (d *duration) UnmarshalText(text []byte) error {
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		d.Duration = time.Duration(n) * time.Second
		return nil
	}
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration, such as 48h or a number of seconds", text)
	}
	d.Duration = v
	return nil
}

// space is written as a number of bytes, as a size with a unit ("10GB"), or as a part of
// the disk ("20%").
type space struct {
	bytes   int64
	percent int64
}

func (s *space) UnmarshalText(text []byte) error {
	t := string(text)
	if p, ok := strings.CutSuffix(t, "%"); ok {
		n, err := strconv.ParseInt(p, 10, 64)
		if err != nil || n < 0 || n > 100 {
			return fmt.Errorf("%q is not a part of the disk, such as 20%%", t)
		}
		*s = space{percent: n}
		return nil
	}
	if n, err := strconv.ParseInt(t, 10, 64); err == nil && n >= 0 {
		*s = space{bytes: n}
		return nil
	}
	n, err := units.RAMInBytes(t)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a size, such as 10GB, 512MB or 20%%", t)
	}
	*s = space{bytes: n}
	return nil
}

// of returns the size in bytes on a disk of so many.
func (s space) of(disk int64) int64 {
	if s.percent > 0 {
		return disk / 100 * s.percent
	}
	return s.bytes
}

func (s space) or(t space) space {
	if s == (space{}) {
		return t
	}
	return s
}
