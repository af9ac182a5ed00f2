package mvcc

import (
	"errors"
	"fmt"

	"github.com/atolldb/atoll/node/hlc"
	"github.com/atolldb/atoll/node/keys"
	"github.com/atolldb/atoll/node/kv"
	"github.com/atolldb/atoll/node/storage"
)

// Newer is what a refresh found in its way.
type Newer struct {
	Key     keys.Key
	Version hlc.Timestamp
	Intent  *Intent // set if it is a foreign intent, which may yet go away
}

// NewerVersionExists looks for a foreign version or intent in (from, to] in span, and returns
// the first, or nil. The transaction's own intents don't count (S8). With from at or after to
// there is nothing to find.
//
// REQUIRES: S7; a read that pushed a foreign intent out of its way resolved it before it went
// on. An intent that still stood at or below from, of a transaction that committed above, would
// not be seen here.
func NewerVersionExists(r storage.Reader, span keys.Span, from, to hlc.Timestamp, txn *kv.Txn) (*Newer, error) {
	if to.LessEq(from) {
		return nil, nil
	}
	if span.IsPoint() {
		return newerAt(r, span.Key, from, to, txn)
	}
	// The time bounds skip blocks that hold nothing newer. What such an iterator returns is
	// only a candidate (storage.IterOptions); each is read again without them.
	it, err := r.NewIter(storage.IterOptions{Lower: span.Key, Upper: span.End(), MinVersion: from, MaxVersion: to})
	if err != nil {
		return nil, err
	}
	n, err := newerIn(it, r, from, to, txn)
	return n, errors.Join(err, it.Close())
}

func newerIn(it *storage.Iterator, r storage.Reader, from, to hlc.Timestamp, txn *kv.Txn) (*Newer, error) {
	var key keys.Key
	for ok := it.First(); ok; {
		if v := it.Version(); v.IsEmpty() || v.LessEq(from) || to.Less(v) {
			ok = it.Next()
			continue
		}
		key = append(key[:0], it.Key()...)
		if n, err := newerAt(r, key, from, to, txn); n != nil || err != nil {
			return n, err
		}
		ok = it.NextKey()
	}
	return nil, it.Error()
}

func newerAt(r storage.Reader, key keys.Key, from, to hlc.Timestamp, txn *kv.Txn) (n *Newer, err error) {
	it, err := r.NewIter(storage.IterOptions{})
	if err != nil {
		return nil, err
	}
	defer closeIter(it, &err)
	if !it.SeekPrefix(key, hlc.Timestamp{}) {
		return nil, it.Error()
	}
	var provisional hlc.Timestamp
	if it.Version().IsEmpty() {
		v, err := it.Value()
		if err != nil {
			return nil, err
		}
		var in intent
		if err := decodeIntent(v, &in); err != nil {
			return nil, fmt.Errorf("key %s: %w", key, err)
		}
		provisional = in.txn.WriteTimestamp
		foreign := txn == nil || txn.ID != in.txn.ID
		if foreign && from.Less(provisional) && provisional.LessEq(to) {
			key := key.Clone()
			return &Newer{Key: key, Version: provisional, Intent: &Intent{Key: key, Txn: in.txn}}, nil
		}
		if !next(it, key) {
			return nil, it.Error()
		}
	}
	for ok := true; ok; ok = it.Next() {
		v := it.Version()
		switch {
		case v == provisional || to.Less(v):
		case from.Less(v):
			return &Newer{Key: key.Clone(), Version: v}, nil
		default:
			return nil, nil
		}
	}
	return nil, it.Error()
}
