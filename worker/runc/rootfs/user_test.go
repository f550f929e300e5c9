package rootfs

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestLookupUser(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n")
	write("real/group", "root:x:0:\nwheel:x:10:root\napp:x:1001:\nextra:x:2002:app,other\n")
	// Absolute links are meant within the image.
	if err := os.Symlink("/real/group", filepath.Join(root, "etc/group")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		want User
		err  bool
	}{
		{name: "", want: User{0, 0, []uint32{0, 10}, "/root"}},
		{name: "root", want: User{0, 0, []uint32{0, 10}, "/root"}},
		{name: "app", want: User{1000, 1001, []uint32{1001, 2002}, "/home/app"}},
		{name: "1000", want: User{1000, 1001, []uint32{1001, 2002}, "/home/app"}},
		{name: "app:extra", want: User{1000, 2002, []uint32{2002}, "/home/app"}},
		{name: "app:7", want: User{1000, 7, []uint32{7}, "/home/app"}},
		{name: "5:6", want: User{5, 6, []uint32{6}, "/"}},
		{name: "5", want: User{5, 0, []uint32{0}, "/"}},
		{name: ":extra", want: User{0, 2002, []uint32{2002}, "/root"}},
		{name: "nobody", err: true},
		{name: "app:none", err: true},
		{name: "-1", err: true},
		{name: "2147483648", err: true},
		{name: "5:4294967296", err: true},
		{name: "app\nroot", err: true},
	} {
		got, err := LookupUser(root, test.name)
		if (err != nil) != test.err || err == nil && !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q: got %+v %v, want %+v", test.name, got, err, test.want)
		}
	}
}

func TestLookupUserWithoutFiles(t *testing.T) {
	got, err := LookupUser(t.TempDir(), "12:13")
	if err != nil || got.UID != 12 || got.GID != 13 || got.Home != "/" {
		t.Errorf("got %+v %v", got, err)
	}
}

func FuzzLookupUser(f *testing.F) {
	f.Add("app", "app:x:1:2::/h:/s\n", "g:x:3:app\n")
	f.Fuzz(func(t *testing.T, name, passwd, group string) {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "etc/group"), []byte(group), 0o644); err != nil {
			t.Fatal(err)
		}
		u, err := LookupUser(root, name)
		if err == nil && (u.UID > 1<<31-1 || u.GID > 1<<31-1 || u.Home == "" || strings.Contains(name, "\n")) {
			t.Errorf("%q gives %+v", name, u)
		}
	})
}
