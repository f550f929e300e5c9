package registry

import (
	"crypto/rand"
	"sync"
)

// salt makes the keys by which clients identify their credentials different after
// each start.
var salt = sync.OnceValue(func() []byte {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return b
})
