package snapshot

import (
	"errors"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func TestOneBadChangeDoesNotSpoilTheGroup(t *testing.T) {
	s := open(t, "")
	put := func(k string) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("test"))
			if err != nil {
				return err
			}
			return b.Put([]byte(k), nil)
		}
	}
	has := func(k string) (ok bool) {
		must(t, s.ViewDB(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("test"))
			if b == nil {
				return nil
			}
			found, _ := b.Cursor().Seek([]byte(k))
			ok = string(found) == k
			return nil
		}))
		return ok
	}
	bad := errors.New("bad")
	tries := 0
	s.Later(put("before"))
	s.Later(func(*bolt.Tx) error { return bad })
	s.Later(func(tx *bolt.Tx) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return put("flaky")(tx)
	})
	s.Later(put("after"))
	if err := s.Flush(t.Context()); !errors.Is(err, bad) {
		t.Errorf("flush: %v", err)
	}
	for _, k := range []string{"before", "flaky", "after"} {
		if !has(k) {
			t.Errorf("%q was not written", k)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("second flush: %v", err)
	}
}

func TestLaterIsWrittenByClose(t *testing.T) {
	s := open(t, "")
	s.Later(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("late"))
		return err
	})
	s.reopen()
	must(t, s.ViewDB(func(tx *bolt.Tx) error {
		if tx.Bucket([]byte("late")) == nil {
			t.Error("Later was lost by Close")
		}
		return nil
	}))
}

func TestAfterClose(t *testing.T) {
	s := open(t, "")
	r := s.layer(nil, func(root string) { write(t, root+"/f", "x") })
	must(t, s.Close())
	st := s.Store
	s.Store = nil
	must(t, st.Close())
	if _, err := st.NewDraft(t.Context(), nil, Desc{}); err == nil {
		t.Error("a draft of a closed store")
	}
	if _, err := st.Image(t.Context(), nil); err == nil {
		t.Error("an image of a closed store")
	}
	if _, err := st.OpenDir(t.Context(), "k", Desc{}, Shared, nil, Access{}); err == nil {
		t.Error("a directory of a closed store")
	}
	if err := st.Flush(t.Context()); err == nil {
		t.Error("a closed store was flushed")
	}
	if _, err := r.Blobs(t.Context(), Access{}, Compression{}); err == nil {
		t.Error("a blob of a closed store")
	}
}
