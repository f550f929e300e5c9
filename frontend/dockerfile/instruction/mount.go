package instruction

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	"github.com/tonistiigi/go-csvvalue"
)

// A MountType is the type of a RUN --mount.
type MountType string

// The types of mounts.
const (
	Bind   MountType = "bind"
	Cache  MountType = "cache"
	Tmpfs  MountType = "tmpfs"
	Secret MountType = "secret"
	SSH    MountType = "ssh"
)

// A Mount is a RUN --mount. Pointers are nil for what was not given.
type Mount struct {
	Type     MountType
	From     string
	Source   string
	Target   string
	ReadOnly bool
	Size     int64 // bytes, of a tmpfs; zero for no limit
	ID       string
	Sharing  string // of a cache: "", "shared", "private" or "locked"
	Required bool
	Env      *string // the variable that holds a secret
	Mode     *uint32
	UID, GID *uint32
}

var (
	mountTypes   = []string{"bind", "cache", "tmpfs", "secret", "ssh"}
	sharingModes = []string{"shared", "private", "locked"}
	mountKeys    = []string{
		"type", "from", "source", "src", "target", "dst", "destination", "readonly", "ro", "readwrite", "rw",
		"id", "sharing", "required", "size", "mode", "uid", "gid", "env",
	}
)

// ParseMount reads the value of --mount: comma-separated fields, keys in any case. Each
// value is passed through expand first.
func ParseMount(text string, expand func(string) (string, error)) (*Mount, error) {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return nil, fmt.Errorf("--mount=%s is not a valid list: %w", text, err)
	}
	m := &Mount{Type: Bind}
	readOnly := (*bool)(nil)
	// The type comes first, wherever it stands: other keys depend on it.
	slices.SortStableFunc(fields, func(a, b string) int { return btoi(isType(b)) - btoi(isType(a)) })
	for _, field := range fields {
		key, value, hasValue := strings.Cut(field, "=")
		key = strings.ToLower(key)
		if hasValue && (key != "from" || !hasVariable(value)) { // that was expanded when the stages were planned
			if value, err = expand(value); err != nil {
				return nil, err
			}
		}
		ro, err := m.set(key, value, field, hasValue)
		if err != nil {
			return nil, err
		}
		if ro != nil {
			readOnly = ro
		}
	}
	if readOnly != nil {
		m.ReadOnly = *readOnly
	} else {
		m.ReadOnly = m.Type != Cache && m.Type != Tmpfs
	}
	return m, m.check()
}

func isType(field string) bool {
	return len(field) >= 5 && strings.EqualFold(field[:5], "type=")
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// set takes one field. It returns whether the field says read-only, if it says either.
func (m *Mount) set(key, value, field string, hasValue bool) (readOnly *bool, err error) {
	flag := true // of a key without a value
	switch key {
	case "readonly", "ro", "readwrite", "rw", "required":
		if hasValue {
			if flag, err = strconv.ParseBool(value); err != nil {
				return nil, fmt.Errorf("invalid value for %s: %s", key, value)
			}
		}
	default:
		if !slices.Contains(mountKeys, key) {
			return nil, Suggest(fmt.Errorf("unexpected key '%s' in '%s'", key, field), key, mountKeys)
		}
		if !hasValue {
			return nil, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
	}
	switch key {
	case "type":
		v := strings.ToLower(value)
		if !slices.Contains(mountTypes, v) {
			return nil, Suggest(fmt.Errorf("unsupported mount type %q", value), v, mountTypes)
		}
		m.Type = MountType(v)
	case "from":
		m.From = value
	case "source", "src":
		m.Source = value
	case "target", "dst", "destination":
		m.Target = value
	case "readonly", "ro":
		return &flag, nil
	case "readwrite", "rw":
		flag = !flag
		return &flag, nil
	case "required":
		if m.Type != Secret && m.Type != SSH {
			return nil, m.unexpected(key)
		}
		m.Required = flag
	case "size":
		if m.Type != Tmpfs {
			return nil, m.unexpected(key)
		}
		if m.Size, err = units.RAMInBytes(value); err != nil {
			return nil, fmt.Errorf("invalid value for size: %s", value)
		}
	case "id":
		m.ID = value
	case "sharing":
		if m.Sharing = strings.ToLower(value); !slices.Contains(sharingModes, m.Sharing) {
			return nil, Suggest(fmt.Errorf("unsupported sharing value %q", value), m.Sharing, sharingModes)
		}
	case "mode":
		m.Mode, err = number(key, value, 8)
	case "uid":
		m.UID, err = number(key, value, 10)
	case "gid":
		m.GID, err = number(key, value, 10)
	case "env":
		m.Env = &value
	}
	return nil, err
}

func (m *Mount) unexpected(key string) error {
	return fmt.Errorf("unexpected key '%s' for mount type '%s'", key, m.Type)
}

func number(key, value string, base int) (*uint32, error) {
	n, err := strconv.ParseUint(value, base, 32)
	if err != nil {
		return nil, fmt.Errorf("invalid value %s for %s", value, key)
	}
	v := uint32(n)
	return &v, nil
}

// check finds keys that do not go together.
func (m *Mount) check() error {
	if m.Type == Bind || m.Type == Tmpfs {
		for _, k := range []struct {
			name string
			v    *uint32
		}{{"mode", m.Mode}, {"uid", m.UID}, {"gid", m.GID}} {
			if k.v != nil {
				return fmt.Errorf("%s not allowed for %q type mounts", k.name, m.Type)
			}
		}
	}
	if m.Type == Secret {
		switch {
		case m.From != "":
			return errors.New("a secret mount has no 'from': its value comes from the client")
		case m.Sharing != "":
			return errors.New("a secret mount has no 'sharing'")
		case m.Source == "" && m.Target == "" && m.ID == "":
			return errors.New("invalid secret mount: one of source, target, id required")
		case m.Source != "" && m.ID != "":
			return errors.New("invalid secret mount: source and id mean the same, give one of them")
		}
		return nil
	}
	switch {
	case m.Sharing != "" && m.Type != Cache:
		return fmt.Errorf("invalid cache sharing set for %v mount", m.Type)
	case m.Env != nil:
		return m.unexpected("env")
	case m.Type == SSH && m.Source != "":
		return errors.New("a mount of type ssh has no source")
	case m.Target == "" && m.Type != SSH:
		return fmt.Errorf("a mount of type %s needs a target", m.Type)
	}
	return nil
}
