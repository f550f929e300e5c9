package fileop

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
)

// maxAccounts bounds the size of a passwd or group file that is read, in bytes.
const maxAccounts = 1 << 20

// An Owner is a numeric user and group.
type Owner struct{ UID, GID int }

// LookUp makes an Owner of what an action says, looking up names in the passwd and group
// files of the tree that files returns for an input. A user by name brings its primary
// group, a user by number the group of the same number. It returns nil for nil.
func LookUp(opt *pb.ChownOpt, files func(input int64) (treehash.FS, error)) (*Owner, error) {
	if opt == nil {
		return nil, nil
	}
	var o Owner
	switch u := opt.GetUser().GetUser().(type) {
	case *pb.UserOpt_ByID:
		o = Owner{int(u.ByID), int(u.ByID)}
	case *pb.UserOpt_ByName:
		r, err := accounts(files, u.ByName.GetInput(), "etc/passwd")
		if err != nil {
			return nil, err
		}
		defer r.Close()
		found, err := user.ParsePasswdFilter(r, func(x user.User) bool { return x.Name == u.ByName.GetName() })
		if err != nil {
			return nil, fmt.Errorf("/etc/passwd: %w", err)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("no user %q in /etc/passwd of the image", u.ByName.GetName())
		}
		o = Owner{found[0].Uid, found[0].Gid}
	}
	switch g := opt.GetGroup().GetUser().(type) {
	case *pb.UserOpt_ByID:
		o.GID = int(g.ByID)
	case *pb.UserOpt_ByName:
		r, err := accounts(files, g.ByName.GetInput(), "etc/group")
		if err != nil {
			return nil, err
		}
		defer r.Close()
		found, err := user.ParseGroupFilter(r, func(x user.Group) bool { return x.Name == g.ByName.GetName() })
		if err != nil {
			return nil, fmt.Errorf("/etc/group: %w", err)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("no group %q in /etc/group of the image", g.ByName.GetName())
		}
		o.GID = found[0].Gid
	}
	return &o, nil
}

func accounts(files func(int64) (treehash.FS, error), input int64, name string) (io.ReadCloser, error) {
	tree, err := files(input)
	if err != nil {
		return nil, err
	}
	p, err := treehash.Resolve(tree, name, true)
	if err != nil {
		return nil, err
	}
	st, err := tree.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the image has no /%s to look the name up in; use a number", name)
	}
	if err != nil {
		return nil, err
	}
	if !fs.FileMode(st.Mode).IsRegular() || st.Size > maxAccounts {
		return nil, fmt.Errorf("/%s of the image is not a file of at most %d bytes", name, maxAccounts)
	}
	return tree.Open(p)
}
