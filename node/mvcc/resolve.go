package mvcc

import (
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

// Resolution says what became of a transaction.
type Resolution struct {
	// Txn's WriteTimestamp is the commit timestamp, or, for a pushed transaction, the one it
	// was pushed to. Its Epoch is the one that committed, or the newest known.
	Txn         kv.TxnMeta
	Status      kv.TxnStatus
	IgnoredSeqs []kv.SeqRange
	Stats       *Stats
	// Room, if set, is asked before an intent is changed, with about the bytes of the writes:
	// one that moves has its value written again. Where it says no, ErrNoRoom is returned, or
	// what is left of a range.
	Room func(bytes int) bool
}

// ErrNoRoom says that nothing was resolved because Resolution.Room refused it.
var ErrNoRoom = errors.New("mvcc: no room in this batch to resolve an intent")

// ResolveIntent applies a resolution to the transaction's intent on key, and reports whether
// there was one that it changed. It is idempotent (S13).
//
//   - committed: the newest write of that epoch that was not rolled back becomes a version at
//     the commit timestamp; an intent of another epoch goes.
//   - aborted: the intent goes, whatever its epoch.
//   - pending, staging: an intent below the timestamp moves up to it, rolled-back writes
//     and intents of earlier epochs go.
func ResolveIntent(rw storage.ReadWriter, key keys.Key, res Resolution) (changed bool, err error) {
	it, err := rw.NewIter(storage.IterOptions{})
	if err != nil {
		return false, err
	}
	defer closeIter(it, &err)
	if !it.SeekPrefix(key, hlc.Timestamp{}) {
		return false, it.Error()
	}
	return resolveAt(it, rw, key, &res)
}

// ResolveIntentRange resolves every intent of the transaction in span, up to maxKeys of them
// (0: all). resume is what is left.
func ResolveIntentRange(rw storage.ReadWriter, span keys.Span, res Resolution, maxKeys int64) (changed int64, resume *keys.Span, err error) {
	it, err := rw.NewIter(storage.IterOptions{Lower: span.Key, Upper: span.End()})
	if err != nil {
		return 0, nil, err
	}
	defer closeIter(it, &err)
	var key keys.Key
	for ok := it.First(); ok; {
		key = append(key[:0], it.Key()...)
		did, err := resolveAt(it, rw, key, &res)
		if errors.Is(err, ErrNoRoom) {
			return changed, &keys.Span{Key: key, EndKey: span.End()}, nil
		}
		if err != nil {
			return changed, nil, err
		}
		if did {
			if changed++; maxKeys > 0 && changed >= maxKeys {
				return changed, &keys.Span{Key: key.Next(), EndKey: span.End()}, nil
			}
		}
		ok = it.Valid()
		if ok && it.Key().Equal(key) {
			ok = it.NextKey()
		}
	}
	return changed, nil, it.Error()
}

// resolveAt works on the key at whose first entry the iterator stands.
func resolveAt(it *storage.Iterator, w storage.Writer, key keys.Key, res *Resolution) (bool, error) {
	if !it.Version().IsEmpty() {
		return false, nil
	}
	record, err := it.Value()
	if err != nil {
		return false, err
	}
	var in intent
	if err := decodeIntent(record, &in); err != nil {
		return false, fmt.Errorf("key %s: %w", key, err)
	}
	if in.txn.ID != res.Txn.ID {
		return false, nil
	}
	if res.Room != nil && !res.Room(3*len(key)+2*len(record)+in.storedLen+128) {
		return false, ErrNoRoom
	}
	to := res.Txn.WriteTimestamp
	switch {
	case res.Status == kv.TxnAborted:
		return true, removeIntent(w, key, &in, len(record), res.Stats)
	case in.txn.Epoch < res.Txn.Epoch:
		return true, removeIntent(w, key, &in, len(record), res.Stats)
	case res.Status == kv.TxnCommitted:
		if in.txn.Epoch > res.Txn.Epoch {
			return true, removeIntent(w, key, &in, len(record), res.Stats)
		}
		if to.Less(in.txn.WriteTimestamp) {
			return false, fmt.Errorf("mvcc: key %s: the transaction committed at %s, below its intent at %s", key, to, in.txn.WriteTimestamp)
		}
	default:
		to = to.Max(in.txn.WriteTimestamp)
	}

	kept, current := in.visible(maxInt32, res.IgnoredSeqs)
	switch {
	case in.txn.Epoch > res.Txn.Epoch: // a push that knows an old epoch's rollbacks
		kept, current = nil, true
	case !current && kept == nil: // all of it was rolled back
		return true, removeIntent(w, key, &in, len(record), res.Stats)
	}
	if res.Status == kv.TxnCommitted {
		return true, commitIntent(it, w, key, &in, len(record), to, kept, res.Stats)
	}
	if current && to == in.txn.WriteTimestamp {
		return false, nil
	}
	return true, moveIntent(it, w, key, &in, len(record), to, kept, res.Stats)
}

func removeIntent(w storage.Writer, key keys.Key, in *intent, record int, s *Stats) error {
	s.record(key, record, -1)
	return errors.Join(w.Delete(key), deleteProvisional(w, key, in, s))
}

// provisionalValue reads the version under the record that the iterator is at.
func provisionalValue(it *storage.Iterator, key keys.Key, in *intent) ([]byte, error) {
	if !next(it, key) || it.Version() != in.txn.WriteTimestamp {
		return nil, errors.Join(it.Error(), missingProvisional(key, in))
	}
	b, err := it.Value()
	if err != nil {
		return nil, err
	}
	v, _, err := decodeValue(b)
	return v, err
}

// commitIntent makes the intent's newest write, or the older one kept, a version at ts.
func commitIntent(it *storage.Iterator, w storage.Writer, key keys.Key, in *intent, record int, ts hlc.Timestamp, kept *write, s *Stats) error {
	s.record(key, record, -1)
	if kept == nil && ts == in.txn.WriteTimestamp { // the version stands already
		return w.Delete(key)
	}
	value, tombstone := []byte(nil), in.tombstone
	if kept != nil {
		value, tombstone = kept.value, kept.tombstone
	} else {
		var err error
		if value, err = provisionalValue(it, key, in); err != nil {
			return err
		}
	}
	return errors.Join(w.Delete(key), deleteProvisional(w, key, in, s), setVersion(w, key, ts, value, tombstone, s))
}

// moveIntent moves the intent up to ts, and back to the older write kept.
func moveIntent(it *storage.Iterator, w storage.Writer, key keys.Key, in *intent, record int, ts hlc.Timestamp, kept *write, s *Stats) error {
	moved := *in
	moved.txn.WriteTimestamp = ts
	var value []byte
	if kept != nil {
		value, moved.tombstone, moved.txn.Seq = kept.value, kept.tombstone, kept.seq
		moved.history = nil
		for _, o := range in.history {
			if o.seq < kept.seq {
				moved.history = append(moved.history, o)
			}
		}
		moved.storedLen = 1 + len(value)
	} else {
		var err error
		if value, err = provisionalValue(it, key, in); err != nil {
			return err
		}
	}
	s.record(key, record, -1)
	return errors.Join(deleteProvisional(w, key, in, s), setRecord(w, key, &moved, s),
		setVersion(w, key, ts, value, moved.tombstone, s))
}

// FindIntent returns the intent on key, anybody's.
func FindIntent(r storage.Reader, key keys.Key) (Intent, bool, error) {
	record, ok, err := r.Get(key)
	if err != nil || !ok {
		return Intent{}, false, err
	}
	var in intent
	if err := decodeIntent(record, &in); err != nil {
		return Intent{}, false, fmt.Errorf("key %s: %w", key, err)
	}
	return Intent{Key: key.Clone(), Txn: in.txn}, true, nil
}

// ScanIntents returns the intents in span, up to limit (0: all) of them.
func ScanIntents(r storage.Reader, span keys.Span, limit int) (out []Intent, resume *keys.Span, err error) {
	it, err := r.NewIter(storage.IterOptions{Lower: span.Key, Upper: span.End()})
	if err != nil {
		return nil, nil, err
	}
	defer closeIter(it, &err)
	for ok := it.First(); ok; ok = it.NextKey() {
		if !it.Version().IsEmpty() {
			continue
		}
		if limit > 0 && len(out) >= limit {
			return out, &keys.Span{Key: it.Key().Clone(), EndKey: span.End()}, nil
		}
		v, err := it.Value()
		if err != nil {
			return nil, nil, err
		}
		var in intent
		if err := decodeIntent(v, &in); err != nil {
			return nil, nil, fmt.Errorf("key %s: %w", it.Key(), err)
		}
		out = append(out, Intent{Key: it.Key().Clone(), Txn: in.txn})
	}
	return out, nil, it.Error()
}
