package contextfs

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// watch counts how often a directory is opened.
func watch(t *testing.T, dir string) (opened func() int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN|unix.IN_ONLYDIR); err != nil {
		t.Fatal(err)
	}
	return func() int {
		b := make([]byte, 64<<10)
		n, err := unix.Read(fd, b)
		if err == unix.EAGAIN {
			return 0
		}
		if err != nil {
			t.Fatal(err)
		}
		return n / unix.SizeofInotifyEvent
	}
}

// The kernel is asked, and not the filter: what is left out is not even opened.
func TestExcludedTreesAreNotOpened(t *testing.T) {
	root := t.TempDir()
	counts := map[string]func() int{}
	for _, dir := range []string{"clients", "clients/web", "clients/web/node_modules", "models", "models/large", "src", "src/sub"} {
		path := filepath.Join(root, dir)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "package.json"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		counts[dir] = watch(t, path)
	}
	f, err := New(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = f.Entries(context.Background(), Patterns{Exclude: []string{"*", "!src", "!clients/*/package.json"}}, func(e Entry) error {
		got = append(got, e.Path)
		return nil
	})
	if err != nil || len(got) != 7 {
		t.Errorf("sent %q, %v", got, err)
	}
	opened := map[string]bool{"clients": true, "clients/web": true, "src": true, "src/sub": true}
	for dir, count := range counts {
		if n := count(); (n > 0) != opened[dir] {
			t.Errorf("%s was opened %d times", dir, n)
		}
	}
}
