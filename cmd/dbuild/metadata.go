package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// dumpMetadataCommand returns "dbuild debug dump-metadata", which prints the databases of
// a state directory.
func (a *app) dumpMetadataCommand() *cobra.Command {
	var root string
	c := &cobra.Command{
		Use:   "dump-metadata",
		Short: "Print the databases in a daemon's state directory",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if root == "" {
				root = a.places().state
			}
			if !isDirectory(root) {
				return fmt.Errorf("no such directory: %s", root)
			}
			return dumpDatabases(a.stdout, root)
		},
	}
	c.Flags().StringVar(&root, "root", "", "state directory")
	return c
}

// dumpDatabases prints every bolt database below root.
func dumpDatabases(w io.Writer, root string) error {
	found := false
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case "snapshots", "blobs", "ingest": // users' files, not ours
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".db" || !d.Type().IsRegular() {
			return nil
		}
		found = true
		rel, _ := filepath.Rel(root, path)
		fmt.Fprintf(w, "%s\n", rel)
		return dumpDatabase(w, path)
	})
	if err == nil && !found {
		return fmt.Errorf("no databases in %s", root)
	}
	return err
}

func dumpDatabase(w io.Writer, path string) error {
	db, done, err := openDatabase(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer done()
	return db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return dumpBucket(w, name, b, 1) })
	})
}

// openDatabase opens a database for reading. One that a daemon has open is copied first:
// its two headers are checked against each other, so a copy is as it was at some moment,
// or refused.
func openDatabase(path string) (*bolt.DB, func(), error) {
	opt := &bolt.Options{ReadOnly: true, Timeout: 200 * time.Millisecond}
	db, err := bolt.Open(path, 0, opt)
	if err == nil {
		return db, func() { db.Close() }, nil
	}
	if !errors.Is(err, berrors.ErrTimeout) {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "dbuild-metadata-")
	if err != nil {
		return nil, nil, err
	}
	tmp := filepath.Join(dir, "copy.db")
	if err = copyFile(tmp, path); err == nil {
		db, err = bolt.Open(tmp, 0, opt)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return db, func() { db.Close(); os.RemoveAll(dir) }, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

func dumpBucket(w io.Writer, name []byte, b *bolt.Bucket, depth int) error {
	indent := strings.Repeat("  ", depth)
	fmt.Fprintf(w, "%s%s\n", indent, printable(name))
	return b.ForEach(func(k, v []byte) error {
		if v == nil {
			return dumpBucket(w, k, b.Bucket(k), depth+1)
		}
		_, err := fmt.Fprintf(w, "%s  %s = %s\n", indent, printable(k), printable(v))
		return err
	})
}

// printable shows text as it is and other bytes in hexadecimal, cut where they are many.
func printable(b []byte) string {
	const most = 256
	if utf8.Valid(b) && !strings.ContainsFunc(string(b), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		if len(b) > 0 && (b[0] == '{' || b[0] == '[') && json.Valid(b) {
			return string(b)
		}
		return strconv.Quote(string(b))
	}
	if len(b) > most {
		return fmt.Sprintf("%x... (%d bytes)", b[:most], len(b))
	}
	return fmt.Sprintf("%x", b)
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
