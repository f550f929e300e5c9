package imagestore_test

import (
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/imagestore"
)

// testdata/script/load-containerd.txt has what is done with a containerd that answers.

func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	deaf, err := net.Listen("unix", filepath.Join(dir, "deaf"))
	if err != nil {
		t.Fatal(err)
	}
	deaf.(*net.UnixListener).SetUnlinkOnClose(false)
	deaf.Close()
	for _, name := range []string{"none", "deaf"} {
		path := filepath.Join(dir, name)
		_, err := imagestore.Open(t.Context(), imagestore.Config{Address: "unix://" + path, Namespace: imagestore.DefaultNamespace})
		var u *imagestore.UnreachableError
		if !errors.As(err, &u) || err.Error() != "no containerd answers at "+path {
			t.Errorf("%s: %v", name, err)
		}
	}
}
