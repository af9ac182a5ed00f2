package mvcc

import (
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

// ReadOptions say how a read treats intents and newer versions.
type ReadOptions struct {
	// Txn is the reading transaction; nil outside one.
	Txn *kv.Txn
	// UncertaintyLimit, if above the read timestamp, makes versions and intents up to it
	// count (S7).
	UncertaintyLimit hlc.Timestamp
	// FailOnMoreRecent is for locking reads: any newer version is a *kv.WriteTooOldError, and
	// any foreign intent is reported, whatever its timestamp.
	FailOnMoreRecent bool
}

// Result is what a read found.
type Result struct {
	// Value is a copy; nil unless Exists.
	Value  []byte
	Exists bool
	// Version is the version's timestamp, a tombstone's included; zero if there is no version,
	// or for the transaction's own intent.
	Version hlc.Timestamp
	// Intent is the foreign intent that the caller must push before it reads again; the rest
	// of the Result says what lies below it.
	Intent *Intent
}

// Get reads the newest version of key at or below ts.
func Get(r storage.Reader, key keys.Key, ts hlc.Timestamp, o ReadOptions) (Result, error) {
	g, err := NewGetter(r)
	if err != nil {
		return Result{}, err
	}
	res, err := g.Get(key, ts, o)
	if cerr := g.Close(); err == nil {
		err = cerr
	}
	return res, err
}

// Getter reads several keys from one view of the reader; cheaper than Get for each. It
// does not see writes made after its creation.
type Getter struct{ it *storage.Iterator }

// NewGetter returns a Getter. The caller closes it.
func NewGetter(r storage.Reader) (Getter, error) {
	it, err := r.NewIter(storage.IterOptions{})
	return Getter{it}, err
}

// Get is the function Get.
func (g Getter) Get(key keys.Key, ts hlc.Timestamp, o ReadOptions) (Result, error) {
	if !g.it.SeekPrefix(key, hlc.Timestamp{}) {
		return Result{}, g.it.Error()
	}
	found, err := lookup(g.it, key, ts, &o, true)
	if err != nil {
		return Result{}, err
	}
	res := Result{Exists: found.live, Version: found.version, Intent: found.intent}
	if found.live {
		res.Value = append(make([]byte, 0, len(found.value)), found.value...)
	}
	return res, nil
}

// Close frees the Getter.
func (g Getter) Close() error { return g.it.Close() }

// found is a lookup's result. value is valid until the iterator moves.
type found struct {
	value   []byte
	live    bool
	version hlc.Timestamp
	intent  *Intent // foreign
}

// lookup reads the key at whose first entry the iterator stands. It leaves the iterator at
// one of the key's entries, or beyond them. prefix says that the iterator was placed with
// SeekPrefix.
func lookup(it *storage.Iterator, key keys.Key, ts hlc.Timestamp, o *ReadOptions, prefix bool) (found, error) {
	var f found
	var provisional hlc.Timestamp // of an own intent: left out below
	limit := ts.Max(o.UncertaintyLimit)
	if it.Version().IsEmpty() {
		v, err := it.Value()
		if err != nil {
			return f, err
		}
		var in intent
		if err := decodeIntent(v, &in); err != nil {
			return f, fmt.Errorf("key %s: %w", key, err)
		}
		own := o.Txn != nil && o.Txn.ID == in.txn.ID
		switch {
		case own && in.txn.Epoch > o.Txn.Epoch:
			return f, staleEpoch(key, in.txn.Epoch, o.Txn.Epoch)
		case own:
			provisional = in.txn.WriteTimestamp
			if in.txn.Epoch == o.Txn.Epoch {
				seen, current := in.visible(o.Txn.Seq, o.Txn.IgnoredSeqs)
				if current {
					return ownProvisional(it, key, &in)
				}
				if seen != nil {
					f.value, f.live = seen.value, !seen.tombstone
					return f, nil
				}
			}
		case o.FailOnMoreRecent || in.txn.WriteTimestamp.LessEq(limit):
			f.intent = &Intent{Key: key.Clone(), Txn: in.txn}
			provisional = in.txn.WriteTimestamp
		default:
			provisional = in.txn.WriteTimestamp
		}
		if !next(it, key) {
			return f, it.Error()
		}
	}
	return f, version(it, key, ts, limit, provisional, o, prefix, &f)
}

func staleEpoch(key keys.Key, have, got int32) error {
	return &kv.InvalidRequestError{Detail: fmt.Sprintf("key %s: the transaction is in epoch %d, the request was sent in epoch %d", key, have, got)}
}

// next moves to the key's next entry.
func next(it *storage.Iterator, key keys.Key) bool { return it.Next() && it.Key().Equal(key) }

// visible returns the write that a read of the intent's own transaction sees: the
// provisional version (current), one of the older ones, or none.
func (in *intent) visible(seq int32, skip []kv.SeqRange) (older *write, current bool) {
	if in.txn.Seq <= seq && !ignored(in.txn.Seq, skip) {
		return nil, true
	}
	for i := len(in.history) - 1; i >= 0; i-- {
		if w := &in.history[i]; w.seq <= seq && !ignored(w.seq, skip) {
			return w, false
		}
	}
	return nil, false
}

// ownProvisional reads the newest write of the own intent whose record the iterator is at.
func ownProvisional(it *storage.Iterator, key keys.Key, in *intent) (found, error) {
	if in.tombstone {
		return found{}, nil
	}
	if !next(it, key) || it.Version() != in.txn.WriteTimestamp {
		if err := it.Error(); err != nil {
			return found{}, err
		}
		return found{}, missingProvisional(key, in)
	}
	b, err := it.Value()
	if err != nil {
		return found{}, err
	}
	v, live, err := decodeValue(b)
	return found{value: v, live: live}, err
}

func missingProvisional(key keys.Key, in *intent) error {
	return fmt.Errorf("mvcc: key %s has an intent at %s but no version there: the range's data is damaged", key, in.txn.WriteTimestamp)
}

// stepsBeforeSeek is how many newer versions are stepped over before seeking.
const stepsBeforeSeek = 4

// version finds the newest committed version at or below ts, from the iterator's position
// at one of the key's versions.
func version(it *storage.Iterator, key keys.Key, ts, limit, provisional hlc.Timestamp, o *ReadOptions, prefix bool, f *found) error {
	steps := 0
	for ; ; steps++ {
		v := it.Version()
		switch {
		case v == provisional && !provisional.IsEmpty():
		case v.LessEq(ts):
			b, err := it.Value()
			if err != nil {
				return err
			}
			f.version = v
			f.value, f.live, err = decodeValue(b)
			if err != nil {
				return fmt.Errorf("key %s at %s: %w", key, v, err)
			}
			return nil
		case o.FailOnMoreRecent:
			return &kv.WriteTooOldError{Key: key.Clone(), Actual: v}
		case v.LessEq(limit):
			return &kv.UncertaintyError{Key: key.Clone(), Read: ts, Existing: v}
		}
		// The seek goes forward: all versions up to here were above the limit (a provisional one
		// is the first).
		ok := false
		switch {
		case steps != stepsBeforeSeek:
			ok = next(it, key)
		case prefix:
			ok = it.SeekPrefix(key, limit)
		default:
			ok = it.SeekGE(key, limit) && it.Key().Equal(key)
		}
		if !ok {
			return it.Error()
		}
	}
}

// closeIter closes the iterator, and reports its error if there is none yet.
func closeIter(it *storage.Iterator, err *error) {
	if cerr := it.Close(); *err == nil {
		*err = cerr
	}
}
