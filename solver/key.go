package solver

import (
	"crypto/sha256"
	"encoding/binary"
)

// salt is part of every key. It changes when the meaning of keys does, so that what an
// older version stored is not found any more and ages out.
const salt = "dbuild-solver-1"

// A hasher builds the preimage of a key: a kind, then fixed-size fields in an order
// that the kind determines, so that no two preimages of different meaning are equal.
type hasher struct{ buf []byte }

func newHasher(kind string, fields int) hasher {
	h := hasher{make([]byte, 0, 1+len(salt)+1+len(kind)+32*fields)}
	h.buf = append(h.buf, byte(len(salt)))
	h.buf = append(h.buf, salt...)
	h.buf = append(h.buf, byte(len(kind)))
	h.buf = append(h.buf, kind...)
	return h
}

func (h *hasher) add(field [32]byte) { h.buf = append(h.buf, field[:]...) }
func (h *hasher) num(n int)          { h.buf = binary.BigEndian.AppendUint64(h.buf, uint64(n)) }
func (h *hasher) sum() [32]byte      { return sha256.Sum256(h.buf) }

// OutputID is the ID under which a Cache knows one output of the answer key.
func OutputID(key ID, output int) ID {
	h := newHasher("out", 2)
	h.add(key)
	h.num(output)
	return h.sum()
}

// keySlot is a slot filled by the key of the input.
func keySlot(key ID, output int, part Part) [32]byte {
	h := newHasher("key", 3)
	h.add(key)
	h.num(output)
	h.add(part)
	return h.sum()
}

// contentSlot is a slot filled by what is in the input.
func contentSlot(sum Sum) [32]byte {
	h := newHasher("content", 1)
	h.add(sum)
	return h.sum()
}

// opID is the ID of what an op with this spec makes of inputs that fill these slots.
func opID(spec ID, slots [][32]byte) ID {
	h := newHasher("op", 1+len(slots))
	h.add(spec)
	for _, s := range slots {
		h.add(s)
	}
	return h.sum()
}

// join is the stamp of what reads something stamped. It does not depend on the order
// or number of stamps of one build, since a build has only one.
func (s Stamp) join(other Stamp) Stamp {
	if s == (Stamp{}) || s == other {
		return other
	}
	if other == (Stamp{}) {
		return s
	}
	h := newHasher("stamp", 2)
	h.add(s)
	h.add(other)
	return h.sum()
}

// stampedDef names a question asked by a build that may not use the cache for it.
func stampedDef(d Def, s Stamp) Def {
	h := newHasher("nocache", 2)
	h.add(d)
	h.add(s)
	return h.sum()
}

// jobStamp is the stamp of the n'th job.
func jobStamp(id string, n int) Stamp {
	h := newHasher("job", 1)
	h.num(n)
	h.buf = append(h.buf, id...)
	return h.sum()
}
