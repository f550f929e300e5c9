package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Keys of the daemon's response (protocol of BuildKit's clients).
const (
	keyDigest       = "containerimage.digest"
	keyConfigDigest = "containerimage.config.digest"
)

// imageID returns the digest of the config of a single image, of the manifest or index of
// others, and "" where no image was made.
func imageID(resp map[string]string) string {
	if id := resp[keyConfigDigest]; id != "" {
		return id
	}
	return resp[keyDigest]
}

// resultFiles are the files of --iidfile, --metadata-file, --bidfile and --result-file. They
// are complete if they exist. The first two exist only after a successful build, the third as
// soon as the context is known, the last when the build has ended.
type resultFiles struct{ iid, metadata, bid, result string }

// clear removes what an earlier build left.
func (r resultFiles) clear() error {
	for _, f := range []struct{ flag, path string }{{"--iidfile", r.iid}, {"--metadata-file", r.metadata}, {"--bidfile", r.bid}, {"--result-file", r.result}} {
		if f.path == "" {
			continue
		}
		fi, err := os.Stat(f.path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			if dir := filepath.Dir(f.path); !isDirectory(dir) {
				return fmt.Errorf("%s %s: no such directory: %s", f.flag, f.path, dir)
			}
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", f.flag, err)
		case fi.IsDir():
			return fmt.Errorf("%s %s is a directory", f.flag, f.path)
		case !fi.Mode().IsRegular(): // a pipe or a terminal is not ours to remove
			continue
		}
		if err := os.Remove(f.path); err != nil {
			return fmt.Errorf("%s: %w", f.flag, err)
		}
	}
	return nil
}

// write writes the files of a build that succeeded.
func (r resultFiles) write(ref string, resp map[string]string) error {
	if r.iid != "" {
		id := imageID(resp)
		if id == "" {
			return errors.New("no image ID: the build made no image")
		}
		if err := replace(r.iid, []byte(id)); err != nil {
			return fmt.Errorf("--iidfile: %w", err)
		}
	}
	if r.metadata != "" {
		b, err := metadata(ref, resp)
		if err == nil {
			err = replace(r.metadata, b)
		}
		if err != nil {
			return fmt.Errorf("--metadata-file: %w", err)
		}
	}
	return nil
}

// metadata returns the response as JSON. Values that are JSON objects in base64 are shown
// as what they are.
func metadata(ref string, resp map[string]string) ([]byte, error) {
	out := map[string]any{
		"buildx.build.ref": "dbuild/dbuild0/" + ref,
		"dbuild.build.ref": ref,
	}
	for k, v := range resp {
		out[k] = v
		if b, err := base64.StdEncoding.DecodeString(v); err == nil && bytes.HasPrefix(b, []byte("{")) && json.Valid(b) {
			out[k] = json.RawMessage(b)
		}
	}
	b, err := json.MarshalIndent(out, "", "  ")
	return append(b, '\n'), err
}

// replace writes a file so that it is never seen incomplete.
func replace(path string, data []byte) error {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return os.WriteFile(path, data, 0)
	}
	f, err := createBeside(path, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
