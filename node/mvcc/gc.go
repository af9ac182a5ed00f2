package mvcc

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

// FindGarbage returns, for up to limit keys (0: all) of span, the newest version that no read
// above threshold can see: of a key's versions at or below the threshold, those under the
// newest, and the newest too if it is a tombstone. resume is what was not looked at.
func FindGarbage(r storage.Reader, span keys.Span, threshold hlc.Timestamp, limit int) (out []kv.GCKey, resume *keys.Span, err error) {
	it, err := r.NewIter(storage.IterOptions{Lower: span.Key, Upper: span.End()})
	if err != nil {
		return nil, nil, err
	}
	defer closeIter(it, &err)
	var key keys.Key
	for ok := it.First(); ok; {
		key = append(key[:0], it.Key()...)
		if limit > 0 && len(out) >= limit {
			return out, &keys.Span{Key: key.Clone(), EndKey: span.End()}, nil
		}
		at, err := garbageAt(it, key, threshold)
		if err != nil {
			return nil, nil, err
		}
		if !at.IsEmpty() {
			out = append(out, kv.GCKey{Key: key.Clone(), At: at})
		}
		if ok = it.Valid(); ok && it.Key().Equal(key) {
			ok = it.NextKey()
		}
	}
	return out, nil, it.Error()
}

// garbageAt returns the newest garbage version of the key at whose first entry the iterator
// stands; zero if there is none.
func garbageAt(it *storage.Iterator, key keys.Key, threshold hlc.Timestamp) (hlc.Timestamp, error) {
	provisional, ok, err := skipRecord(it, key)
	if err != nil || !ok {
		return hlc.Timestamp{}, err
	}
	for ok := true; ok; ok = next(it, key) {
		v := it.Version()
		if v == provisional || threshold.Less(v) {
			continue
		}
		b, err := it.Value()
		if err != nil {
			return hlc.Timestamp{}, err
		}
		_, live, err := decodeValue(b)
		if err != nil || !live {
			return v, err
		}
		if next(it, key) {
			return it.Version(), nil
		}
		break
	}
	return hlc.Timestamp{}, it.Error()
}

// skipRecord moves from a key's intent record, if it has one, to its first version, and
// returns where the provisional one is. ok is false if the key has no version.
func skipRecord(it *storage.Iterator, key keys.Key) (provisional hlc.Timestamp, ok bool, err error) {
	if !it.Version().IsEmpty() {
		return hlc.Timestamp{}, true, nil
	}
	b, err := it.Value()
	if err != nil {
		return hlc.Timestamp{}, false, err
	}
	var in intent
	if err := decodeIntent(b, &in); err != nil {
		return hlc.Timestamp{}, false, err
	}
	ok = next(it, key)
	return in.txn.WriteTimestamp, ok, it.Error()
}

// GCKeys removes the named versions and all older ones of each key, and returns how many.
// What a read above threshold could see stays, whatever the names say: they were found
// earlier, on another view.
// REQUIRES: S25; the range's threshold is at least threshold before this is applied.
func GCKeys(rw storage.ReadWriter, names []kv.GCKey, threshold hlc.Timestamp, s *Stats) (removed int64, err error) {
	it, err := rw.NewIter(storage.IterOptions{})
	if err != nil {
		return 0, err
	}
	defer closeIter(it, &err)
	for _, n := range names {
		if !it.SeekPrefix(n.Key, hlc.Timestamp{}) {
			if err := it.Error(); err != nil {
				return removed, err
			}
			continue
		}
		at, err := garbageAt(it, n.Key, threshold)
		if err != nil {
			return removed, err
		}
		if n.At.Less(at) {
			at = n.At
		}
		if at.IsEmpty() {
			continue
		}
		for ok := it.SeekPrefix(n.Key, at); ok; ok = it.Next() {
			v, err := it.Value()
			if err != nil {
				return removed, err
			}
			s.version(n.Key, len(v), -1)
			if err := rw.DeleteVersion(n.Key, it.Version()); err != nil {
				return removed, err
			}
			removed++
		}
		if err := it.Error(); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// Digest hashes all keys and values of the spans, versions and intents included. Replicas that
// applied the same log have the same digest (S23), if the spans hold replicated state only.
func Digest(r storage.Reader, spans ...keys.Span) (sum [32]byte, err error) {
	return DigestPaced(r, func(int) error { return nil }, spans...)
}

// DigestPaced is Digest; read is called with the bytes of every pair, and may wait. Its error
// ends the digest.
func DigestPaced(r storage.Reader, read func(bytes int) error, spans ...keys.Span) (sum [32]byte, err error) {
	h := sha256.New()
	var n [8]byte
	for _, span := range spans {
		it, err := r.NewIter(storage.IterOptions{Lower: span.Key, Upper: span.End()})
		if err != nil {
			return sum, err
		}
		for ok := it.First(); ok; ok = it.Next() {
			v, err := it.Value()
			if err != nil {
				return sum, errors.Join(err, it.Close())
			}
			k := it.EngineKey()
			binary.BigEndian.PutUint32(n[:4], uint32(len(k)))
			binary.BigEndian.PutUint32(n[4:], uint32(len(v)))
			h.Write(n[:])
			h.Write(k)
			h.Write(v)
			if err := read(len(k) + len(v)); err != nil {
				return sum, errors.Join(err, it.Close())
			}
		}
		if err := it.Close(); err != nil {
			return sum, err
		}
	}
	h.Sum(sum[:0])
	return sum, nil
}
