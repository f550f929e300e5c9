package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// relabel pushes an image of five layers, of data that compresses and of data that does
// not, and writes two Dockerfiles: one adds a label to it, the other runs something in it.
func relabel(b *bench, dir string) error {
	big := filepath.Join(dir, "big")
	for _, d := range []string{big, filepath.Join(dir, "relabel"), filepath.Join(dir, "pull")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name    string
		percent int64 // of the image's size; words shrink to about a third
		write   func(string, int64) error
	}{
		{"noise", 40, incompressible},
		{"words", 60, compressible},
		{"noise2", 20, incompressible},
		{"words22", 30, compressible},
		{"noise333", 10, incompressible},
	} {
		if err := f.write(filepath.Join(big, f.name), b.image<<20*f.percent/100); err != nil {
			return err
		}
	}
	if err := dockerfile("COPY noise /\nCOPY words /\nCOPY noise2 /\nCOPY words22 /\nCOPY noise333 /")(b, big); err != nil {
		return err
	}
	if err := b.peers[0].build(big, "type=image,name="+b.registry.addr+"/big,push=true,store=false", b.args()...); err != nil {
		return err
	}
	if err := os.RemoveAll(big); err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "relabel"), "Dockerfile", "ARG REG\nFROM $REG/big\nLABEL a=b\n"); err != nil {
		return err
	}
	return write(filepath.Join(dir, "pull"), "Dockerfile", "ARG REG\nFROM $REG/big\nARG SEED\nRUN echo $SEED\n")
}

// incompressible fills a file with noise; each name has its own.
func incompressible(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(f, rand.NewChaCha8(sha256.Sum256([]byte(filepath.Base(path)))), size)
	return err
}

// transfers counts the layers that are read from the registries, and what the state of the
// daemon grows by.
func transfers(b *bench, p *peer) (func() (string, error), error) {
	before, err := p.stateSize()
	if err != nil {
		return nil, err
	}
	var from [2]int64
	cpu := time.Duration(0)
	registries := []*registryServer{b.registry, b.other}
	for i, r := range registries {
		fi, err := os.Stat(r.access)
		if err != nil {
			return nil, err
		}
		from[i] = fi.Size()
		cpu -= treeCPU(r.cmd.Process.Pid)
	}
	return func() (string, error) {
		for _, r := range registries {
			cpu += treeCPU(r.cmd.Process.Pid)
		}
		after, err := p.stateSize()
		if err != nil {
			return "", err
		}
		reads := map[string]int{}
		read, requests := int64(0), 0
		for i, r := range registries {
			log, err := os.ReadFile(r.access)
			if err != nil {
				return "", err
			}
			for line := range bytes.Lines(log[from[i]:]) {
				requests++
				blob, n := blobRead(string(line))
				// A config is a blob, too; layers here are larger.
				if n > 64<<10 {
					reads[blob]++
					read += n
				}
			}
		}
		most := 0
		for _, n := range reads {
			most = max(most, n)
		}
		return fmt.Sprintf("%d requests; %d layers read, each at most %d times, %.1f MB; state grew by %.1f MB; CPU of the registries %.2f s",
			requests, len(reads), most, float64(read)/(1<<20), float64(after-before)/(1<<20), cpu.Seconds()), nil
	}, nil
}

// blobRead returns the path of a blob and the bytes of it that were sent, from a line of an
// access log (the combined format of Apache), or "".
func blobRead(line string) (path string, n int64) {
	quoted := strings.SplitN(line, `"`, 3)
	if len(quoted) < 3 {
		return "", 0
	}
	request, answer := strings.Fields(quoted[1]), strings.Fields(quoted[2])
	if len(request) < 2 || len(answer) < 2 || request[0] != http.MethodGet || !strings.Contains(request[1], "/blobs/") {
		return "", 0
	}
	n, _ = strconv.ParseInt(answer[1], 10, 64)
	return request[1], n
}

// oneLayer makes a Dockerfile that adds a layer of one large file, half of it noise.
func oneLayer(b *bench, dir string) error {
	if err := compressible(filepath.Join(dir, "words"), b.layer<<20*2/3); err != nil {
		return err
	}
	noise := filepath.Join(dir, "noise")
	if err := incompressible(noise, b.layer<<20/3); err != nil {
		return err
	}
	return dockerfile("COPY words noise /")(b, dir)
}

// builtOnly leaves a daemon with the result and without blobs of it.
func builtOnly(b *bench, p *peer, dir string) error {
	if err := p.prune(); err != nil {
		return err
	}
	return p.build(dir, "", b.args()...)
}

// pushBuilt pushes what builtOnly has built, to a repository that does not have it.
func pushBuilt(compression string) func(*bench, *peer, string) error {
	return func(b *bench, p *peer, dir string) error {
		p.pushed = compression + "-" + b.unique()
		return p.build(dir, "type=image,name="+b.registry.addr+"/"+p.pushed+",push=true,store=false,compression="+compression, b.args()...)
	}
}

// sameDigest compares the last layer of what is pushed with that of the runs before.
func sameDigest() func(*bench, *peer) (func() (string, error), error) {
	seen := map[string]map[digest.Digest]int{} // by peer
	return func(b *bench, p *peer) (func() (string, error), error) {
		return func() (string, error) {
			m, err := b.registry.manifest(p.pushed)
			if err != nil {
				return "", err
			}
			last := m.Layers[len(m.Layers)-1]
			if seen[p.name] == nil {
				seen[p.name] = map[digest.Digest]int{}
			}
			seen[p.name][last.Digest]++
			if n := len(seen[p.name]); n > 1 {
				return "", fmt.Errorf("the same layer has had %d digests", n)
			}
			return fmt.Sprintf("%.1f MB, the same digest %d times", float64(last.Size)/(1<<20), seen[p.name][last.Digest]), nil
		}, nil
	}
}
