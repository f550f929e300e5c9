package snapshot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// native shows layers by copying them. It is slow and takes space; it is for kernels
// that cannot mount overlays.
type native struct {
	s      *Store
	prefix string
}

func (n *native) xattr() string { return n.prefix }

func (n *native) readonly(ctx context.Context, v *View) (string, func() error, error) {
	dir := filepath.Join(n.s.work, strconv.FormatUint(n.s.workSeq.Add(1), 36))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", nil, err
	}
	if err := copyView(ctx, v, dir); err != nil {
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("copy layers: %w", err)
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

func (n *native) draft(ctx context.Context, lower *View, upper string) (string, func() error, error) {
	root, remove, err := n.readonly(ctx, newView(n.prefix, append([]string{upper}, lower.roots...)...))
	if err != nil {
		return "", nil, err
	}
	return root, func() error {
		if err := emptyDir(upper); err != nil {
			return err
		}
		if err := writeDiff(context.WithoutCancel(ctx), lower, newView(n.prefix, root), upper); err != nil {
			return fmt.Errorf("find changes: %w", err)
		}
		return remove()
	}, nil
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
