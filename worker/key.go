package worker

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/dbuild/dbuild/solver"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"
)

// salt changes when the meaning of an operation does, so that old records age out.
const salt = "dbuild-worker-1"

// hash digests a list of byte strings so that no two lists collide.
func hash(kind string, parts ...[]byte) [32]byte {
	h := sha256.New()
	var n [8]byte
	put := func(p []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	put([]byte(salt))
	put([]byte(kind))
	for _, p := range parts {
		put(p)
	}
	var out [32]byte
	h.Sum(out[:0])
	return out
}

// opID identifies op apart from its inputs. Constraints and the digests of inputs do
// not count: the inputs enter the key on their own.
func opID(kind string, op *pb.Op) (solver.ID, error) {
	c := &pb.Op{Op: op.Op, Platform: op.Platform}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return solver.ID{}, err
	}
	return hash(kind, b), nil
}

// newID names one run of a process: abandoned work may still be unwinding when its
// successor starts, so nothing on disk is named after the vertex.
func newID() string { return strings.ToLower(rand.Text()) }
